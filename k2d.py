#!/usr/bin/env python3
"""k2d: the Kubernetes API on one side, a Docker engine on the other, as a cluster of one node.

A request:  Hub (TLS, until the head is complete) -> Handler -> admit() -> a verb of Api -> Writer
            -> Store, one transaction -> watchers; then reconcile() -> engine -> Store -> watchers.
Sections:   Ground     1 Settings  2 Errors  3 Values  4 Kinds  5 Schema  6 Objects
                       7 Host [host]  8 Store [host]
            A request  9 Connections [host]  10 HTTP  11 Who  12 Requests  13 Bodies  14 Patches
                       15 Apply  16 Of each kind  17 Admission  18 Writing  19 Verbs  20 Watch
                       21 Table  22 Discovery and OpenAPI  23 Custom resources
            A pod      24 Scheduler  25 Pod -> container  26 Volumes  27 Engine [host]
                       28 Container -> pod  29 Worker  30 Probes and hooks  31 Network [host]
                       32 Names  33 Workloads  34 Controllers
            At the pod 35 Log, exec, attach, port-forward [host]  36 Usage
                       37 Node and Events
            All of it  38 k2d [host]  39 Check [host]  40 Command line [host]
            (search for "# ==" to walk through them; what can touch the machine stands under
            [host])
Threads:    the hub owns every connection until a request is complete, and all watches, timers,
            DNS and the engine's events; one thread per request in progress, exec and port-forward
            too; up to four workers start and stop containers; one thread runs the controllers;
            probes, hooks and pulls have threads while they last. A connection has one owner at
            any time.
Promises:   what was answered 200 or 201 is on disk; a field that cannot be honoured is refused by
            name or answered with a Warning, never dropped; k2d is not in the data path, so kill it
            or upgrade it while everything runs.
Needs:      Linux, root, Python 3.9 or newer, the programs openssl and iptables; PyYAML only to
            read YAML bodies.
"""
import base64
import hashlib
import hmac
import heapq
import ipaddress
import json
import math
import os
import random
import re
import select
import selectors
import signal
import socket
import sqlite3
import ssl
import stat
import struct
import sys
import threading
import time
import urllib.parse
from collections import Counter, deque, namedtuple
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from errno import EMFILE, ENFILE, ENOMEM
from functools import lru_cache
from http import HTTPStatus
from itertools import chain, islice, product
from operator import itemgetter

# == 1. Settings =============================================================================
# What the command line or the environment decides, and the limits that hold for every client.
VERSION = "0.1.0"
SERVES = "v1.35.4"          # the Kubernetes whose answers we give; clients read it from /version
OPTIONS = [
    # flag                environment           default                        meaning
    ("port",              "K2D_PORT",           "6443",
     "https port of the API"),
    ("advertise-address", "K2D_ADVERTISE_ADDR", "",
     "for clients (else the host's)"),
    ("advertise-name",    "K2D_ADVERTISE_NAME", "",
     "a name of this host for clients, of DNS or mDNS"),
    ("data-path",         "K2D_DATA_PATH",      "/var/lib/k2d",
     "where k2d keeps all that it keeps"),
    ("secret",            "K2D_SECRET",         "",
     "admin token (else one is made)"),
    ("docker-host",       "DOCKER_HOST",        "",
     "the engine's socket (else Docker's, or Podman's)"),
    ("network",           "K2D_NETWORK",        "k2d",
     "name of the engine network and bridge"),
    ("pod-cidr",          "K2D_POD_CIDR",       "10.42.0.0/16",
     "addresses of pods"),
    ("service-cidr",      "K2D_SERVICE_CIDR",   "10.43.0.0/16",
     "addresses of Services"),
    ("log-size",          "K2D_LOG_SIZE",       "10m",
     "bytes of a container's log, then a new file of it is begun"),
    ("log-files",         "K2D_LOG_FILES",      "3",
     "files of a container's log that are kept"),
    ("devices",           "K2D_DEVICES",        "",
     "what k2d.io/NAME is, as 'NAME=/dev/PATTERN[,PATTERN] ...'"),
]
OPTION_FORMS = [    # flag, what its value has to be
    ("data-path", r"[^-\n][^\n]*", "a path"), ("port", r"\d{1,5}", "a number"),
    ("network", "[a-z][a-z0-9]{0,12}", "at most 13 lower case letters and digits"),
    ("advertise-name", "([a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?)?", "a name, as board.local"),
    ("log-size", r"([1-9]\d{0,8}[kmg]?)?", "a number of bytes, as 10m, or nothing"),
    ("log-files", r"[1-9]\d?", "1 to 99"),
    ("devices", r"(\s*[-\w.]{1,60}=/dev/[^,\s]+(,/dev/[^,\s]+)*)*\s*",
     "NAME=/dev/PATTERN[,/dev/PATTERN] ..."),
]
ENGINE_SOCKETS = "/var/run/docker.sock", "/run/podman/podman.sock"
# under which new pods wait, and images go; of a disk, if that is less than a tenth of it
LEAST_MEMORY, LEAST_DISK, PRESSURE_S = 24 << 20, 1 << 30, 10
CLUSTER_DOMAIN = "cluster.local"
NODE_PORTS = range(30000, 32768)
BODY_BYTES = 3 << 20        # the API server's own limit
OBJECT_BYTES = 4 << 20      # patches, and what we add, make objects grow
FAULTS = 100                # told of one object
STEP_CHARS = 320            # of a key where it stands in a path: names have 317 at most
LIST_ITEMS = 4000           # of the lists of our own kinds; what has an order is searched in turn
TERMS = 100                 # of a selector in a query
OWNED_FIELDS, OWNED_DEPTH = 30_000, 100     # of an object, that are applied
WEIGHT = 500_000            # of an object: its fields, those that it lacks too; see Message
FAULT_CHARS = 2000          # of what somebody else said went wrong
UNSENT_BYTES = 64 << 20     # of answers under way
BULK = 16                   # large bodies at a time
SMALL_BYTES = 64 << 10      # of reviews; larger bodies are worked on one at a time
YAML_BYTES = 64 << 10       # PyYAML takes some 12 us and 450 bytes a byte
HEAD_BYTES = 64 << 10
FILE_BYTES = 1 << 20        # of a file that others may have written, of a line of the engine's
ANSWER_BYTES = 16 << 20     # of an answer of the engine's
CLOCK_SET_S = 60            # by more, a clock does not drift
# from accept to a complete handshake, from a request's first byte to its whole head
HEAD_SECONDS = 10
IO_SECONDS = 60             # for a request's body, for a watch's next read, for an answer and
SLOWEST = 16 << 10          # besides a second for so many bytes of it
TIDY_S = 15                 # from a connection's end to its memory, and its work's, going back
PATIENCE_S = 0.5            # how long a client may keep a thread that others wait for
DNS_CLIENTS = 64            # by TCP
DNS_LOOKUPS = 100           # names that the host's resolver is to be asked for
DESCRIPTORS = 4096
CONNECTIONS = 512           # beyond it the longest idle connection is closed
REQUEST_THREADS = 64
LOG_CHARS = 4000            # of one message
WARNINGS = 20               # headers of an answer
WATCH_BYTES = 4 << 20       # unsent bytes at which a watch that does not drain is dropped
RING_EVENTS, RING_BYTES = 1000, 1 << 19     # what a watch can resume from
EVENT_SECONDS, EVENTS = 3600, 500           # Events live in memory, for an hour
# of one source about one object, as client-go's; then one in 5 minutes
EVENT_BURST, EVENT_REFILL_S = 25, 300

class Settings:
    """The options as attributes: settings.port (int), settings.data_path, settings.pod_cidr
    (IPv4Network) ..."""
    def __init__(self, args, environ, takes=""):
        """takes: what the command takes besides OPTIONS, as its help says it."""
        self.given, self.files = self.read(args, takes)
        self.fill(environ)
        try:
            self.port = int(self.port)
            self.pod_cidr = ipaddress.IPv4Network(self.pod_cidr)
            self.service_cidr = ipaddress.IPv4Network(self.service_cidr)
        except ValueError as error:
            raise SystemExit(f"k2d: {error}")
        if not 0 < self.port < 65536:
            raise SystemExit(f"k2d: --port {self.port}: want 1 to 65535")
        if self.pod_cidr.prefixlen > 20 or self.service_cidr.prefixlen > 24:
            raise SystemExit(
                "k2d: --pod-cidr wants a /20 or larger network, --service-cidr a /24 or larger")
        there = next(filter(os.path.exists, ENGINE_SOCKETS), ENGINE_SOCKETS[0])
        self.docker_host = self.docker_host or "unix://" + there
        self.devices = dict(word.split("=", 1) for word in self.devices.split())
        self.log_driver, self.is_podman = "", False         # until the engine has said it
        self.route_address = own_address()
        self.data_path = os.path.abspath(self.data_path)
        self.gateway = str(self.pod_cidr[1])                # the host, as pods see it
        self.engine_range = str(list(self.pod_cidr.subnets(new_prefix=24))[-1])  # the engine's own
        self.kubernetes_ip, self.dns_ip, self.upstream_ip = (str(self.service_cidr[n])
                                                             for n in (1, 10, 11))
        self.machine, self.node, self.memory_bytes, self.least_oom_score = machine_facts()

    @staticmethod
    def read(args, takes):
        """({option: its value, "" where it takes none}, the other words) of a command line.
        Raises SystemExit."""
        known = {**dict.fromkeys([flag for flag, *_ in OPTIONS], " VALUE"),
                 **dict(re.findall("--([a-z-]+)( [A-Z]+)?", takes))}
        given, files, words = {}, [], iter(args)
        for word in words:
            name, equal, value = word.partition("=")
            flag = name[2:] if name[:2] == "--" else None
            if flag in known:
                given[flag] = value if equal or not known[flag] else next(words, None)
                if given[flag] is None:
                    raise SystemExit(f"k2d: {word} wants a value; see --help")
            elif flag is None and "FILE" in takes:
                files.append(word)
            else:
                raise SystemExit(f"k2d: unknown option {word}; see --help")
        if "FILE" in takes and (not files or len(files) > 1 and "FILE..." not in takes):
            raise SystemExit(f"k2d: want {takes}")
        return given, files

    def fill(self, environ):
        """Each option as a text: the one given, that of the environment, or the default. Raises
        SystemExit for what is none."""
        for flag, variable, default, _ in OPTIONS:
            value = self.given.get(flag, environ.get(variable) or default)
            setattr(self, flag.replace("-", "_"), value)
        for flag, form, wish in OPTION_FORMS:
            value = getattr(self, flag.replace("-", "_"))
            if not re.fullmatch(form, value):
                raise SystemExit(f"k2d: --{flag} {value}: want {wish}")

    @property
    def host_ip(self):
        """Where other machines reach us: the address given, that of the default route, or the
        bridge's."""
        return self.advertise_address or self.route_address or self.gateway

    @property
    def server(self):
        """The URL of a kubeconfig."""
        return f"https://{self.advertise_name or self.host_ip}:{self.port}"

    def find_address(self):
        """Look which address the default route has; whether host_ip is another now."""
        before, self.route_address = self.host_ip, own_address()
        return self.host_ip != before

    def path(self, *parts):
        return os.path.join(self.data_path, *parts)

    def pod_folder(self, uid, *parts):
        return self.path("pods", uid, *parts)

# the kernel's word -> Go's
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}

def log(message):
    """One line for the journal, or a trace; never a secret, a token or a body."""
    print("k2d: " + message[:LOG_CHARS], file=sys.stderr, flush=True)

def trace():
    """The present exception, for the log."""
    import traceback
    return traceback.format_exc()

# == 2. Errors ===============================================================================
# Every refusal is an ApiError, raised where the fact is known; Handler.run() alone turns it into
# bytes. Clients act on code, reason and the causes' fields; the sentences are for people.
class Told(Exception):
    """What went wrong outside of this code, and its text says it all: the log needs no trace."""

def fault_text(error):
    """What the log says of a fault that is being handled."""
    return str(error) or "failed" if isinstance(error, Told) else trace()

def guarded(function, *args):
    """What a function returns; a fault of it is logged, and costs others nothing."""
    try:
        return function(*args)
    except Exception as error:
        log(f"{threading.current_thread().name}: {fault_text(error)}")

def must(holds, what):
    """What a reader leans on holds, also where `assert` is compiled away. Raises Told: one object
    fails, and the server goes on."""
    if not holds:
        raise Told(what)

class ApiError(Told):
    """A refusal for the client, as a Status (API conventions, "Response Status Kind")."""
    def __init__(self, code, reason, message, details=None, retry_after=None):
        super().__init__(message)
        self.code = code
        details = dict(details or {})
        if retry_after is not None:
            details["retryAfterSeconds"] = retry_after
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                       "message": message, "reason": reason, "details": details, "code": code}

def bad_request(message):
    return ApiError(400, "BadRequest", message)

def about(kind, name, word="plural"):
    """The details of a Status: which object it is about."""
    return filled(name=name, group=kind.group, kind=getattr(kind, word))

def resource_name(kind):
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural

def not_found(kind, name):
    return ApiError(404, "NotFound", f'{resource_name(kind)} "{name}" not found',
                    about(kind, name))

def already_exists(kind, name):
    return ApiError(409, "AlreadyExists", f'{resource_name(kind)} "{name}" already exists',
                    about(kind, name))

def conflict(kind, name, why="it has been modified; apply your changes to the latest version"):
    text = f'Operation cannot be fulfilled on {resource_name(kind)} "{name}": {why}'
    return ApiError(409, "Conflict", text, about(kind, name))

def forbidden(kind, name, why, causes=()):
    what = f'{resource_name(kind)} "{name}"' if name else resource_name(kind)
    return ApiError(403, "Forbidden", f"{what} is forbidden: {why}",
                    {**about(kind, name), **filled(causes=causes)})

def no_such_resource():
    return ApiError(404, "NotFound", "the server could not find the requested resource")

def too_many():
    return ApiError(429, "TooManyRequests", "many large requests are under way: try again later",
                    retry_after=1)

def wrong_method():
    return ApiError(405, "MethodNotAllowed",
                    "the server does not allow this method on the requested resource")

def unprocessable(why):
    return ApiError(422, "Invalid", f"the patch cannot be applied: {why}")

class Mismatch(ValueError):
    """A value of the wrong type or form: (what was found and what is wanted, where it stands)."""
    def __init__(self, text, path=""):
        super().__init__(f"{path}: {text}" if path else text)
        self.text, self.path = text, path

class ConfigError(Told):
    """A container cannot be created as its pod stands: (message, reason why it waits)."""
    def __init__(self, message, reason="CreateContainerConfigError"):
        super().__init__(message)
        self.reason = reason

LABELS = {  # reason of a cause, less FieldValue -> what a person reads; else REASON value
    "NotSupported": "Unsupported value", "NotFound": "Not found", "Forbidden": "Forbidden",
    "TooLong": "Too long",
    "TooMany": "Too many"}

class Faults(list):
    """The causes of a 422, gathered field by field, the first FAULTS of them:
    faults.add("spec.replicas", "Invalid", "must be ...", -1)."""
    def add(self, field, reason, why, *found):
        if len(self) >= FAULTS:
            return
        text = ": ".join([LABELS.get(reason, f"{reason} value"),
                          *(json.dumps(each)[:100] for each in found), why])
        self.append({"reason": "FieldValue" + reason, "message": text, "field": field.lstrip(".")})

    def check(self, kind, name):
        """Raise ApiError 422 if anything was found."""
        if self:
            texts = dict.fromkeys(f"{fault['field']}: {fault['message']}" for fault in self)
            text = f'{kind.name} "{name}" is invalid: {"; ".join(texts)}'
            raise ApiError(422, "Invalid", text,
                           {**about(kind, name, "name"), "causes": list(self)})

# == 3. Values ===============================================================================
# Pure functions over single values: times, quantities, names, selectors.
TIME = re.compile(
    r"(\d{4})-([01]\d)-([0-3]\d)T([0-2]\d):([0-5]\d):([0-6]\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")

def now(fraction=""):
    """The present as RFC 3339, the form of metav1.Time; with fraction="micro" that of
    metav1.MicroTime."""
    seconds = time.time()
    return time_text(seconds, f".{int(seconds % 1 * 1e6):06d}" if fraction else "")

def seconds_of(timestamp):
    """RFC 3339, any fraction and offset -> Unix seconds; None for a missing or zero time."""
    found = TIME.fullmatch(timestamp or "")
    if not found or found[1] == "0001":
        return None
    zone = found[8]
    offset = (0 if zone == "Z"
              else int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[4:]) * 60))
    try:
        whole = datetime(*map(int, found.groups()[:6]), tzinfo=timezone.utc).timestamp()
        return whole + float(found[7] or 0) - offset
    except ValueError:                                          # the 31st of February
        return None

EPOCH = datetime(1970, 1, 1)
def time_text(seconds, fraction=""):
    """Unix seconds as RFC 3339, of any year: where time_t has 32 bits, time.gmtime() ends in 2038.
    fraction: stands before the Z."""
    return (EPOCH + timedelta(seconds=int(seconds))).isoformat() + fraction + "Z"

def in_seconds(seconds):
    """The time in so many seconds, as RFC 3339."""
    return time_text(time.time() + seconds)

def exact_seconds(text):
    """The engine's timestamp as Unix seconds with nine decimals, padded so that texts compare."""
    fraction = re.search(r"\.(\d+)", text or "")
    return f"{int(seconds_of(text) or 0):010d}.{(fraction[1] if fraction else '')[:9]:0<9}"

AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "y": 86400 * 365}
AGES = (  # an age below so many seconds shows these units
    (120, "s"), (600, "ms"), (10800, "m"), (28800, "hm"), (172800, "h"), (691200, "dh"),
    (86400 * 730, "d"), (86400 * 365 * 8, "yd"), (float("inf"), "y"))

def duration(seconds):
    """Seconds as kubectl writes ages: 45s, 5m30s, 3h, 2d4h, 1y20d (apimachinery,
    HumanDuration)."""
    rest, text = int(seconds), ""
    if rest < 0:
        return "<invalid>" if rest < -1 else "0s"
    for unit in next(units for limit, units in AGES if rest < limit):
        count, rest = divmod(rest, AGE_UNITS[unit])
        text += f"{count}{unit}" if count or not text else ""
    return text

def age(timestamp):
    then = seconds_of(timestamp)
    return "<unknown>" if then is None else duration(time.time() - then)

def cut(items, none="<none>"):
    """The first three of these, and how many more there are."""
    more = f" + {len(items) - 3} more..." if len(items) > 3 else ""
    return ",".join(items[:3]) + more or none

def dig(value, path, default=None):
    """value["a"]["b"]["c"] for the path "a.b.c", or a list of steps; the default where a step is
    missing or null."""
    for step in path.split(".") if isinstance(path, str) else path:
        value = value.get(step) if isinstance(value, dict) else None
    return default if value is None else value

COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)

def dumps(value):
    return COMPACT.encode(value).encode("utf-8", "replace")

def filled(**fields):
    """The fields that have a value, for a dict that leaves the others out."""
    return {key: value for key, value in fields.items() if value}

def pick(value, names):
    """The fields of a dict that are named, in the order of their names."""
    return {name: value[name] for name in names if name in value}

def without(value, *names):
    return {name: item for name, item in value.items() if name not in names}

def fill(obj, **defaults):
    for field, default in defaults.items():
        obj.setdefault(field, default)

def in_base64(text):
    return base64.b64encode(text.encode()).decode()

def new_uid():
    """A random UUID (RFC 9562, version 4)."""
    h = "%032x" % (random.SystemRandom().getrandbits(128) & ~(0xF << 76) & ~(3 << 62) | 4 << 76 |
                   2 << 62)
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

# no vowels, so that nothing spells a word (apimachinery, rand)
SAFE_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

def safe_hash(value, size=10):
    """A short name part that depends on a JSON value alone."""
    number = int.from_bytes(
        hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:8], "big")
    return "".join(SAFE_LETTERS[number // len(SAFE_LETTERS) ** i % len(SAFE_LETTERS)]
                   for i in range(size))

def random_name(prefix):
    return prefix + "".join(random.choices(SAFE_LETTERS, k=5))

def is_address(text):
    """Whether a text is an IP address, and no more: a zone ("fe80::1%eth0") may hold anything."""
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False

def is_endpoint(text):
    """Whether a text is an IP address that traffic may be sent to: not one of the host alone
    (validation, ValidateNonSpecialIP)."""
    if not is_address(text):
        return False
    ip = ipaddress.ip_address(text)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast)

# -- quantities
QUANTITY = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?")
# What a suffix multiplies by, in units of 10^-9; the smallest first.
DECIMAL = {suffix: 1000 ** i
           for i, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"))}
BINARY = {suffix: 10 ** 9 << 10 * i
          for i, suffix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
def quantity_nanos(text):
    """A Quantity in units of 10^-9, rounded up: "500m" -> 500_000_000. Raises Mismatch."""
    found = QUANTITY.fullmatch(str(text))
    if not found or not (found[2] or found[3]) or len(found[5] or "") > 3 or len(found[0]) > 64:
        raise Mismatch(f'{str(text)[:64]!r} is no quantity such as "500m", "1.5" or "64Mi"')
    sign, whole, fraction, suffix, exponent = (part or "" for part in found.groups())
    digits, power = int(whole + fraction), int(exponent or 0) - len(fraction)
    digits *= BINARY.get(suffix) or DECIMAL[suffix]
    nanos = digits * 10 ** power if power > 0 else -(-digits // 10 ** -power)
    return -nanos if sign == "-" else nanos

def quantity_value(text, unit=10 ** 9):
    """A quantity as a whole number of units, rounded up: bytes of memory, say."""
    return -(-quantity_nanos(text) // unit)

def quantity_text(nanos):
    """Units of 10^-9 as canonical_quantity() spells them, in Ki and more if they are whole."""
    kibi, rest = divmod(nanos, BINARY["Ki"])
    if nanos % 10 ** 6:
        return f"{nanos}n"
    return canonical_quantity(f"{nanos // 10 ** 6}m" if rest else f"{kibi}Ki")

def canonical_quantity(text):
    """The one spelling the API server answers: no fraction, the largest suffix; "0.5" -> "500m",
    "1024Mi" -> "1Gi"."""
    nanos, found = quantity_nanos(text), QUANTITY.fullmatch(str(text))
    if found[5]:    # an exponent stays as it was written
        return found[0]
    if not nanos:
        return "0"
    units = BINARY if found[4] in BINARY and nanos % 10 ** 9 == 0 else DECIMAL
    suffix = next(suffix for suffix in reversed(units) if nanos % units[suffix] == 0)
    return f"{nanos // units[suffix]}{suffix}"

# -- forms: what a value may have to be
LABEL, QUALIFIED = "[a-z0-9]([-a-z0-9]*[a-z0-9])?", "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
SUBDOMAIN, NO_DOTS = rf"{LABEL}(\.{LABEL})*", r"(?!(.*/)?\.\.(/|$))"
def is_port(value):
    """Whether a value is the number or the name of a port."""
    return 0 < value < 65536 if isinstance(value, int) else fits("port", value)

# form -> (the pattern of its texts, or what tells whether a value has it; the longest; what a
# refusal says)
FORMS = {
    "subdomain": (SUBDOMAIN, 253,
                  "must be lower case letters, digits, '-' and '.', as in example.com"),
    "label": (LABEL, 63, "must be lower case letters, digits and '-', at most 63, as in my-name"),
    "rfc1035": ("[a-z]([-a-z0-9]*[a-z0-9])?", 63,
                "must be lower case letters, digits and '-', as in my-name"),
    "labelkey": (rf"((?=.{{1,253}}/){SUBDOMAIN}/)?(?!.{{64}}){QUALIFIED}", 317,
                 "must be NAME or PREFIX/NAME, of letters, digits, '-', '_' and '.'"),
    "annotation": (rf"(?i:((?=.{{1,253}}/){SUBDOMAIN}/)?(?!.{{64}}){QUALIFIED})", 317,
                   "must be NAME or PREFIX/NAME, of letters, digits, '-', '_' and '.'"),
    "labelvalue": (f"({QUALIFIED})?", 63, "must be letters, digits, '-', '_' and '.', at most 63"),
    "filename": (NO_DOTS + "(?!\\.$)[-._a-zA-Z0-9]+", 253,
                 "must be letters, digits, '-', '_' and '.'"),
    "port": ("(?=.*[a-z])[a-z0-9](-?[a-z0-9])*", 15,
             "must be lower case letters, digits and '-', at most 15"),
    "sysctl": (r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?", 253,
               "must be a name such as net.ipv4.tcp_rmem"),
    "env": ("[ -<>-~]+", 1 << 20, "must be printable ASCII without '='"),
    "urlpart": (r"(?!\.\.?$)[^/%]+", 253, "may have no '/' or '%'"),
    "path": (rf"(?!/){NO_DOTS}[^\0-\x1f]*", 4096, "must be a relative path without '..'"),
    "abspath": (rf"{NO_DOTS}/[^\0-\x1f]*", 4096, "must be an absolute path without '..'"),
    "host": (rf"(\*\.)?{SUBDOMAIN}(?<![\d.]{{7}})", 253,
             "must be a DNS name, or one that begins with *."),
    "share": (r"\d{1,9}|\d{1,9}%", 10, "must be a number of pods, or a percentage such as 25%"),
    "amount": ("[^-].*", 64, "must not be negative"),
    "dnsname": (rf"(?!.*[^.]{{64}}){SUBDOMAIN}", 253, "must be a DNS name, as example.com"),
    "ip": (is_address, 45, "must be an IP address, such as 10.9.8.7"),
    "indexes": (r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", 64 << 10,
                "must be indexes that rise, such as 0,2-4"),
    "id": ("[0-9a-f]{12,64}", 64, "must be the id of a container"),
    "ipv4": (lambda value: is_address(value) and ":" not in value, 15, "must be an IPv4 address"),
    "endpoint": (is_endpoint, 45,
                 "must be an IP address, and not loopback, link-local or multicast"),
    "clusterip": (lambda value: value == "None" or is_address(value), 45,
                  "must be an IP address, or None"),
    "anyport": (is_port, 15,
                "must be 1 to 65535, or lower case letters, digits and '-', at most 15"),
}
MAP_FORMS = {  # form of a map -> (the form of its keys, of its values)
    "labels": ("labelkey", "labelvalue"), "keys": ("annotation", None),
    "filenames": ("filename", None),
    "amounts": (None, "amount")}

def fits(form, value):
    """Whether a value has one of the FORMS."""
    pattern, longest, _ = FORMS[form]
    if callable(pattern):
        return pattern(value)
    return len(str(value)) <= longest and bool(re.fullmatch(pattern, str(value)))

def form_text(form):
    """What a refusal says of a value that does not have a form."""
    return FORMS[form][2]

# -- selectors
Requirement = namedtuple("Requirement", "key op values")         # op: one of SELECTOR_TEXT
OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
SELECTOR_TEXT = {"=": "{0}={1}", "in": "{0} in ({1})", "notin": "{0} notin ({1})", "exists": "{0}",
                 "absent": "!{0}"}
SELECTOR_TERM = re.compile(
    r"\s*(?:!\s*(?P<absent>[^\s!=,()]+)|(?P<key>[^\s!=,()]+)\s*(?:"
    r"(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)"
    r"\s*(?:,|$)")

def parse_selector(text):
    """A label selector, "a=b,c!=d,e in (x,y),f,!g", as Requirements. Raises ApiError 400."""
    requirements, at = [], 0
    text = " ".join(text.split())   # long runs of blanks would cost the pattern much
    while at < len(text):
        found = SELECTOR_TERM.match(text, at)
        if not found or found.end() == len(text) and text.endswith(","):
            raise bad_request(f"unable to parse requirement: {text[at:at + 80]!r} is no term "
                              "such as a=b, a!=b, a in (b,c), a or !a")
        requirements.append(requirement_of(found))
        at = found.end()
        if len(requirements) > TERMS:
            raise bad_request(f"a selector may have {TERMS} terms")
    return requirements

def requirement_of(found):
    """A match of SELECTOR_TERM as a Requirement. Raises ApiError 400."""
    if found["absent"]:
        key, op, values = found["absent"], "absent", set()
    elif found["set"]:
        key, op = found["key"], found["set"]
        values = {value.strip() for value in found["values"].split(",")}
    else:
        key, op = found["key"], {"!=": "notin", None: "exists"}.get(found["op"], "in")
        values = {found["value"]}
    for form, texts in (("labelkey", [key]), ("labelvalue", filter(None, values))):
        if not all(fits(form, text) for text in texts):
            raise bad_request(f"unable to parse requirement: {found[0][:80]!r}: {form_text(form)}")
    return Requirement(key, op, values)

def is_plain(selector):
    return bool(selector) and all(isinstance(value, str) for value in selector.values())

def selector_of(selector):
    """A LabelSelector, or the plain map that Services and the like have, as Requirements."""
    if is_plain(selector):
        selector = {"matchLabels": selector}
    equal = [Requirement(key, "=", {value})
             for key, value in dig(selector, "matchLabels", {}).items()]
    return (equal +
            [Requirement(term["key"], OPERATORS.get(term["operator"], "absent"),
                         set(term.get("values", ())))
             for term in dig(selector, "matchExpressions", ())])

def meets(requirement, labels):
    key, op, values = requirement
    if op in ("exists", "absent"):
        return (key in labels) == (op == "exists")
    return (labels.get(key) in values) == (op != "notin")

def selects(requirements, labels):
    """Whether labels ({} or None for none) meet every requirement."""
    labels = labels or {}
    return all(meets(requirement, labels) for requirement in requirements)

def selector_text(selector):
    """A selector as kubectl prints it, "a=b,c in (d)"; <none> if empty. A plain map is sorted as
    text, terms by key."""
    terms = [(key, SELECTOR_TEXT[op].format(key, ",".join(sorted(values))))
             for key, op, values in selector_of(selector)]
    sorted_by = itemgetter(1 if is_plain(selector) else 0)
    return ",".join(text for _, text in sorted(terms, key=sorted_by)) or "<none>"

# == 4. Kinds ================================================================================
# Which resources there are: routing, discovery, storage and Table read this table.
Kind = namedtuple("Kind",
                  "name group version plural singular short namespaced verbs subresources marks "
                  "kept id schema scale fields columns warning")
# kept     disk: whole; spec: without its status, which we compute; pod: see durable(); memory: not
#          on disk; -: not at all, only created; empty: never any, though clients ask for the list;
#          usage: measured when asked for
# marks    gen: metadata.generation counts; obj: a DELETE answers the object; others: categories
# id       under which objects rest in the Store: the name, or plural.group of a custom resource
# schema   name of its message in SCHEMA; of a custom resource its JSON schema, as bytes
# scale    paths of spec.replicas, status.replicas and the selector
# fields   what a field selector may name, besides metadata.name and metadata.namespace
# columns  of a custom resource its additionalPrinterColumns, else None
# warning  for each request, "" for none
ALL = "create delete deletecollection get list patch update watch"
KIND_TABLE = """
group/version            kind                     short    scope     kept   subresources    marks
v1                       ConfigMap                cm       Namespace disk   -               -
v1                       Endpoints                ep       Namespace disk   -               -
v1                       Event                    ev       Namespace memory -               -
v1                       LimitRange               limits   Namespace disk   -               -
v1                       Namespace                ns       Cluster   disk   finalize,status obj
v1                       Node                     no       Cluster   spec   status          -
v1                       PersistentVolumeClaim    pvc      Namespace disk   status          obj
v1                       PersistentVolume         pv       Cluster   disk   status          obj
v1                       Pod                      po       Namespace pod    eviction,log,exec,\
attach,portforward,proxy,ephemeralcontainers,status all,gen,obj
v1                       ReplicationController    rc       Namespace spec   scale,status    all,gen
v1                       ResourceQuota            quota    Namespace spec   status          obj
v1                       Secret                   -        Namespace disk   -               -
v1                       ServiceAccount           sa       Namespace disk   token           obj
v1                       Service                  svc      Namespace disk   proxy,status    all,obj
apps/v1                  ControllerRevision       -        Namespace disk   -               -
apps/v1                  DaemonSet                ds       Namespace spec   status          all,gen
apps/v1                  Deployment               deploy   Namespace spec   scale,status    all,gen
apps/v1                  ReplicaSet               rs       Namespace spec   scale,status    all,gen
apps/v1                  StatefulSet              sts      Namespace spec   scale,status    all,gen
events.k8s.io/v1         Event                    ev       Namespace memory -               -
authentication.k8s.io/v1 SelfSubjectReview        -        Cluster   -      -               -
authentication.k8s.io/v1 TokenReview              -        Cluster   -      -               -
authorization.k8s.io/v1  LocalSubjectAccessReview -        Namespace -      -               -
authorization.k8s.io/v1  SelfSubjectAccessReview  -        Cluster   -      -               -
authorization.k8s.io/v1  SelfSubjectRulesReview   -        Cluster   -      -               -
authorization.k8s.io/v1  SubjectAccessReview      -        Cluster   -      -               -
autoscaling/v2           HorizontalPodAutoscaler  hpa      Namespace empty  -               all
autoscaling/v1           HorizontalPodAutoscaler  hpa      Namespace empty  -               all
batch/v1                 CronJob                  cj       Namespace spec   status          all,gen
batch/v1                 Job                      -        Namespace spec   status          all,gen
networking.k8s.io/v1     IngressClass             -        Cluster   disk   -               gen
networking.k8s.io/v1     Ingress                  ing      Namespace disk   status          gen
networking.k8s.io/v1     NetworkPolicy            netpol   Namespace disk   -               gen
policy/v1                PodDisruptionBudget      pdb      Namespace spec   status          gen
rbac.authorization.k8s.io/v1 ClusterRoleBinding       -        Cluster   disk   -               -
rbac.authorization.k8s.io/v1 ClusterRole              -        Cluster   disk   -               -
rbac.authorization.k8s.io/v1 RoleBinding              -        Namespace disk   -               -
rbac.authorization.k8s.io/v1 Role                     -        Namespace disk   -               -
storage.k8s.io/v1        StorageClass             sc       Cluster   disk   -               obj
apiextensions.k8s.io/v1  CustomResourceDefinition crd,crds Cluster   disk   status          \
gen,api-extensions
scheduling.k8s.io/v1     PriorityClass            pc       Cluster   disk   -               gen
coordination.k8s.io/v1   Lease                    -        Namespace memory -               -
discovery.k8s.io/v1      EndpointSlice            -        Namespace disk   -               gen
metrics.k8s.io/v1beta1   NodeMetrics              -        Cluster   usage  -               -
metrics.k8s.io/v1beta1   PodMetrics               -        Namespace usage  -               -
"""
SELECTABLE = {  # kind: what a field selector may name
    "Pod": "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName "
           "spec.hostNetwork status.phase status.podIP",
    "Event": "reason reportingComponent source type involvedObject.kind involvedObject.namespace "
             "involvedObject.name involvedObject.uid involvedObject.apiVersion "
             "involvedObject.resourceVersion "
             "involvedObject.fieldPath",
    "Secret": "type", "Namespace": "status.phase", "Node": "spec.unschedulable",
    "Service": "spec.clusterIP spec.type", "ReplicaSet": "status.replicas",
}
DEPRECATED = {
    "Endpoints": "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
SCALE_PATHS = "spec.replicas", "status.replicas", "spec.selector"

def kind_of(line):
    """A Kind by its row of KIND_TABLE."""
    served, name, short, scope, kept, subresources, marks = line.split()
    group, _, version = served.rpartition("/")
    plural = re.sub("y$", "ie", re.sub("s$", "se", name.replace("Metrics", "").lower())) + "s"
    words = lambda text: tuple(filter("-".__ne__, text.split(",")))
    verbs = {"empty": "get list watch", "-": "create", "usage": "get list"}.get(kept, ALL)
    if name == "Namespace":
        verbs = verbs.replace(" deletecollection", "")
    if name == "Endpoints":
        plural = "endpoints"
    schema = "events.Event" if group == "events.k8s.io" else name
    fields = tuple(SELECTABLE.get(name, "").split())
    return Kind(name, group, version, plural, name.lower(), words(short), scope == "Namespace",
                verbs, words(subresources), words(marks), kept, name, schema, SCALE_PATHS, fields,
                None, DEPRECATED.get(name, ""))

# custom resources come and go at its end
KINDS = [kind_of(line) for line in KIND_TABLE.strip().split("\n")[1:]]
KIND = {kind.id: kind for kind in reversed(KINDS)}  # the version that objects rest in
HOME = {(kind.group, kind.name): KIND[kind.id] for kind in KINDS}
RESOURCES = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}

def group_version(kind):
    return f"{kind.group}/{kind.version}" if kind.group else kind.version

def is_custom(kind):
    return isinstance(kind.schema, bytes)

def is_stored(kind):
    """Whether objects rest in this version of their kind."""
    return group_version(KIND.get(kind.id, kind)) == group_version(kind)

def kind_named(api_version, name):
    """The Kind of this group and name, as it is stored; None if there is none."""
    return HOME.get((api_version.rpartition("/")[0], name))

# == 5. Schema ===============================================================================
# What objects look like: the only description of them. It drives protobuf decoding, type checks,
# defaults, validation, patches, server-side apply and OpenAPI. A definition's JSON schema becomes
# the same Messages.
# SCHEMA: NAME [NAME ...]: TOKENS; and so on. A token per field:
#   flags number name :type /keys =default |rules
#   A message may stand behind its name where a field first needs it: TYPE(TOKENS). A kind of the
#   usual form (metadata, spec XSpec and, if there is one, status XStatus) is not written down. So
#       *3port:int|req|1..65535        is there even if 0; number 3 in protobuf; must be given,
#                                      within the range
#       volumes:[]Volume&/name|unique  a list, merged by name, retainKeys; no name twice
#   flags   * is there even when empty; ~ a hint: accepted with a Warning; ! the object would be
#           wrong without it: 422
#   number  in protobuf, where it is not one more than the last; no name: a struct that Go embeds
#   type    string if absent; [] list, {} map by string, + always there (a plain struct in Go),
#           ? a pointer (its zero is a value), & retainKeys (strategic merge), # one value to
#           server-side apply
#   Raw     any JSON; so are the insides of what is refused. Double: a float64. SchemaOr*: what a
#           JSON schema may hold instead of a schema. ExtraValue: a list of texts
#   /keys   a list merged by these keys, the first of them in strategic merge; / alone a set;
#           ^ strategic merge only, _ server-side apply only; /^ of a message: strategic merge
#           replaces it
#   =       the default where the field is absent
#   |rules  req must be given; A,B one of these; 1..9 in this range; unique by the keys;
#           fixed: no update changes it; @form see FORMS and MAP_FORMS; |one alone: exactly one of
#           the message's fields
# Field numbers and list types are those of k8s.io/api 0.35.
SCHEMA = """
ObjectMeta: name generateName namespace selfLink uid resourceVersion generation:int
  creationTimestamp:Time deletionTimestamp:Time? deletionGracePeriodSeconds:int? labels:{}|@labels
  annotations:{}|@keys ownerReferences:[]OwnerReference(*5apiVersion|req *1kind|req *3name|req
  *uid|req 6controller:bool? blockOwnerDeletion:bool?)#/uid finalizers:[]/
  17managedFields:[]ManagedFieldsEntry(manager operation apiVersion time:Time? 6fieldsType
  fieldsV1:Raw? subresource)?;
LabelSelector: matchLabels:{}|@labels matchExpressions:[]LabelSelectorRequirement;
LabelSelectorRequirement: *key|req|@labelkey *operator|In,NotIn,Exists,DoesNotExist
  values:[]|@labelvalue;
Condition: *type *status observedGeneration:int *lastTransitionTime:Time *reason *message;
PodSpec: volumes:[]Volume&/name|unique 20initContainers:[]Container/name|unique
  *2containers:[]Container/name|req|unique 34ephemeralContainers:[]EphemeralContainer/name|unique
  3restartPolicy=Always|Always,OnFailure,Never terminationGracePeriodSeconds:int?=30|0..2147483647
  activeDeadlineSeconds:int?|1..2147483647
  dnsPolicy=ClusterFirst|ClusterFirstWithHostNet,ClusterFirst,Default,None nodeSelector:{}#
  serviceAccountName|@subdomain serviceAccount 21automountServiceAccountToken:bool?
  10nodeName|@subdomain hostNetwork:bool hostPID:bool hostIPC:bool 27shareProcessNamespace:bool?
  14securityContext:PodSecurityContext={} imagePullSecrets:[]LocalObjectReference#/name
  hostname|@label subdomain|@label affinity:Affinity schedulerName=default-scheduler
  22tolerations:[]Toleration hostAliases:[]HostAlias(*ip|@ip hostnames:[]|@subdomain)/ip
  priorityClassName|@subdomain priority:int? dnsConfig:PodDNSConfig(nameservers:[]|@ip searches:[]
  options:[]PodDNSConfigOption(name value:?))
  28readinessGates:[]PodReadinessGate(*conditionType|@labelkey) runtimeClassName:?
  enableServiceLinks:bool? preemptionPolicy:?|PreemptLowerPriority,Never ~overhead:{}Quantity
  topologySpreadConstraints:[]TopologySpreadConstraint(*maxSkew:int *topologyKey
  *whenUnsatisfiable|DoNotSchedule,ScheduleAnyway labelSelector:LabelSelector# minDomains:int?
  nodeAffinityPolicy:? nodeTaintsPolicy:? matchLabelKeys:[])/topologyKey,whenUnsatisfiable
  35setHostnameAsFQDN:bool? os:PodOS(*name|req) !hostUsers:bool?
  schedulingGates:[]PodSchedulingGate(*name)/name !resourceClaims:[]Raw !resources:Raw
  !hostnameOverride:? ~workloadRef:Raw;
Volume: *name|req|@label :VolumeSource;
VolumeSource: |one hostPath:HostPathVolumeSource emptyDir:EmptyDirVolumeSource(medium|,Memory
  ~sizeLimit:Quantity?) !gcePersistentDisk:Raw !awsElasticBlockStore:Raw !gitRepo:Raw
  secret:SecretVolumeSource(secretName|req items:[]KeyToPath defaultMode:int?=420 optional:bool?)
  nfs:NFSVolumeSource !iscsi:Raw !glusterfs:Raw
  persistentVolumeClaim:PersistentVolumeClaimVolumeSource(*claimName|req readOnly:bool) !rbd:Raw
  !flexVolume:Raw !cinder:Raw !cephfs:Raw !flocker:Raw
  downwardAPI:DownwardAPIVolumeSource(items:[]DownwardAPIVolumeFile defaultMode:int?=420) !fc:Raw
  !azureFile:Raw configMap:ConfigMapVolumeSource(:LocalObjectReference items:[]KeyToPath
  defaultMode:int?=420 optional:bool?) !vsphereVolume:Raw !quobyte:Raw !azureDisk:Raw
  !photonPersistentDisk:Raw
  26projected:ProjectedVolumeSource(*sources:[]VolumeProjection(secret:SecretProjection
  downwardAPI:DownwardAPIProjection(items:[]DownwardAPIVolumeFile) configMap:ConfigMapProjection
  serviceAccountToken:ServiceAccountTokenProjection(audience
  expirationSeconds:int?=3600|600..4294967296 *path|req|@path) !clusterTrustBundle:Raw
  !podCertificate:Raw) defaultMode:int?=420) !24portworxVolume:Raw !scaleIO:Raw !27storageos:Raw
  !csi:Raw !ephemeral:Raw !image:Raw;
LocalObjectReference: name;
HostPathVolumeSource: *path|req|@abspath
  type:?=|,BlockDevice,CharDevice,Directory,DirectoryOrCreate,File,FileOrCreate,Socket;
KeyToPath: *key|req *path|req|@path mode:int?;
NFSVolumeSource: *server|req *path|req readOnly:bool;
ObjectFieldSelector: apiVersion=v1 *fieldPath|req;
DownwardAPIVolumeFile: *path|req|@path fieldRef:ObjectFieldSelector#
  resourceFieldRef:ResourceFieldSelector# mode:int?;
ResourceFieldSelector: containerName *resource|req *divisor:Quantity;
SecretProjection ConfigMapProjection: :LocalObjectReference items:[]KeyToPath 4optional:bool?;
PersistentVolumeClaimSpec:
  accessModes:[]|req|ReadOnlyMany,ReadWriteMany,ReadWriteOnce,ReadWriteOncePod
  4selector:LabelSelector# 2resources:VolumeResourceRequirements(limits:{}Quantity
  requests:{}Quantity)+ volumeName 5storageClassName:?|@subdomain
  volumeMode:?=Filesystem|Block,Filesystem !7dataSource:Raw !dataSourceRef:Raw
  ~volumeAttributesClassName:?;
TypedLocalObjectReference: *apiGroup:?|@subdomain *kind|req *name|req;
Container: *name|req|@label image|req command:[] args:[] workingDir
  ports:[]ContainerPort(name|@port hostPort:int|1..65535 *containerPort:int|req|1..65535
  protocol=TCP|SCTP,TCP,UDP hostIP|@ipv4)/containerPort,protocol 19envFrom:[]EnvFromSource(prefix
  configMapRef:ConfigMapEnvSource secretRef:SecretEnvSource) 7env:[]EnvVar(*name|req|@env value
  valueFrom:EnvVarSource(|one fieldRef:ObjectFieldSelector#
  resourceFieldRef:ResourceFieldSelector# configMapKeyRef:ConfigMapKeySelector#
  secretKeyRef:SecretKeySelector# !fileKeyRef:Raw))/name resources:ResourceRequirements+
  ~23resizePolicy:[]Raw restartPolicy:? !restartPolicyRules:[]Raw
  9volumeMounts:[]VolumeMount(*name|req readOnly:bool ~7recursiveReadOnly:?
  *3mountPath|req|@abspath subPath|@path mountPropagation:?|Bidirectional,HostToContainer,None
  subPathExpr|@path)/mountPath|unique !21volumeDevices:[]Raw 10livenessProbe:Probe
  readinessProbe:Probe 22startupProbe:Probe 12lifecycle:Lifecycle(postStart:LifecycleHandler
  preStop:LifecycleHandler stopSignal:?) terminationMessagePath=/dev/termination-log
  20terminationMessagePolicy=File|File,FallbackToLogsOnError
  14imagePullPolicy|Always,IfNotPresent,Never securityContext:SecurityContext stdin:bool
  stdinOnce:bool tty:bool;
ConfigMapEnvSource SecretEnvSource: :LocalObjectReference optional:bool?;
ConfigMapKeySelector SecretKeySelector: :LocalObjectReference *key|req optional:bool?;
ExecAction: command:[]|req;
HTTPHeader: *name *value;
Sysctl: *name|req|@sysctl *value;
ResourceRequirements: limits:{}Quantity|@amounts requests:{}Quantity|@amounts !claims:[]Raw;
TCPSocketAction: *port:IntOrString|@anyport host;
Probe: :ProbeHandler initialDelaySeconds:int|0.. timeoutSeconds:int=1|0.. periodSeconds:int=10|0..
  successThreshold:int=1|0.. failureThreshold:int=3|0.. terminationGracePeriodSeconds:int?;
ProbeHandler: |one exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction
  grpc:GRPCAction(*port:int|1..65535 *service:?=);
HTTPGetAction: path=/ *port:IntOrString|@anyport host scheme=HTTP|HTTP,HTTPS
  httpHeaders:[]HTTPHeader;
LifecycleHandler: |one exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction
  sleep:SleepAction(*seconds:int|0..);
SecurityContext: capabilities:Capabilities(add:[] drop:[]) privileged:bool?
  seLinuxOptions:SELinuxOptions ~10windowsOptions:Raw 4runAsUser:int?|0..2147483647
  8runAsGroup:int?|0..2147483647 5runAsNonRoot:bool? readOnlyRootFilesystem:bool?
  allowPrivilegeEscalation:bool? 9procMount:?|Default,Unmasked 11seccompProfile:SeccompProfile
  appArmorProfile:AppArmorProfile;
SELinuxOptions: user role type level;
SeccompProfile: *type|Localhost,RuntimeDefault,Unconfined localhostProfile:?;
AppArmorProfile: *type|Localhost,RuntimeDefault,Unconfined localhostProfile:?;
EphemeralContainer: :Container targetContainerName;
NodeSelector: *nodeSelectorTerms:[]NodeSelectorTerm|req;
PodSecurityContext: seLinuxOptions:SELinuxOptions ~8windowsOptions:Raw
  2runAsUser:int?|0..2147483647 6runAsGroup:int?|0..2147483647 3runAsNonRoot:bool?
  supplementalGroups:[]int ~12supplementalGroupsPolicy:?|Merge,Strict 5fsGroup:int?|0..2147483647
  7sysctls:[]Sysctl 9fsGroupChangePolicy:?|Always,OnRootMismatch seccompProfile:SeccompProfile
  appArmorProfile:AppArmorProfile ~13seLinuxChangePolicy:?|Recursive;
NodeSelectorRequirement: *key|@labelkey *operator|In,NotIn,Exists,DoesNotExist,Gt,Lt values:[];
Affinity: nodeAffinity:NodeAffinity(requiredDuringSchedulingIgnoredDuringExecution:NodeSelector#
  preferredDuringSchedulingIgnoredDuringExecution:[]PreferredSchedulingTerm(*weight:int
  preference:NodeSelectorTerm+#)) ~podAffinity:PodAffinity podAntiAffinity:PodAntiAffinity;
NodeSelectorTerm: matchExpressions:[]NodeSelectorRequirement
  matchFields:[]NodeSelectorRequirement;
PodAffinity PodAntiAffinity: requiredDuringSchedulingIgnoredDuringExecution:[]PodAffinityTerm
  preferredDuringSchedulingIgnoredDuringExecution:[]WeightedPodAffinityTerm(*weight:int
  podAffinityTerm:PodAffinityTerm+);
PodAffinityTerm: labelSelector:LabelSelector# namespaces:[] *topologyKey|req|@labelkey
  namespaceSelector:LabelSelector# matchLabelKeys:[] mismatchLabelKeys:[];
Toleration: key|@labelkey operator|Equal,Exists value effect|NoSchedule,PreferNoSchedule,NoExecute
  tolerationSeconds:int?;
HostIP PodIP: *ip;
PodStatus: 17observedGeneration:int 1phase conditions:[]PodCondition(*type 7observedGeneration:int
  *2status *lastProbeTime:Time *lastTransitionTime:Time reason message)/type message reason
  11nominatedNodeName 5hostIP 16hostIPs:[]HostIP/ip^ 6podIP 12podIPs:[]PodIP/ip 7startTime:Time?
  10initContainerStatuses:[]ContainerStatus 8containerStatuses:[]ContainerStatus 9qosClass
  13ephemeralContainerStatuses:[]ContainerStatus;
ContainerStatus: *name state:ContainerState+ lastState:ContainerState+ *ready:bool
  *restartCount:int *image *imageID containerID started:bool?;
ContainerState: waiting:ContainerStateWaiting(reason message)
  running:ContainerStateRunning(*startedAt:Time) terminated:ContainerStateTerminated(*exitCode:int
  signal:int reason message *startedAt:Time *finishedAt:Time containerID);
ServiceSpec: ports:[]ServicePort(name|@label protocol=TCP|SCTP,TCP,UDP 6appProtocol:?|@labelkey
  *3port:int|req|1..65535 *targetPort:IntOrString|@anyport nodePort:int)/port,protocol|unique
  selector:{}#|@labels clusterIP 18clusterIPs:[]|@clusterip
  4type=ClusterIP|ClusterIP,ExternalName,LoadBalancer,NodePort !externalIPs:[]
  7sessionAffinity=None|ClientIP,None ~loadBalancerIP !loadBalancerSourceRanges:[]
  externalName|@dnsname externalTrafficPolicy|Cluster,Local ~healthCheckNodePort:int
  publishNotReadyAddresses:bool
  sessionAffinityConfig:SessionAffinityConfig(clientIP:ClientIPConfig(
  timeoutSeconds:int?|1..86400))
  19ipFamilies:[] 17ipFamilyPolicy:?|PreferDualStack,RequireDualStack,SingleStack
  20allocateLoadBalancerNodePorts:bool? ~loadBalancerClass:? internalTrafficPolicy:?|Cluster,Local
  trafficDistribution:?|PreferClose,PreferSameZone,PreferSameNode;
ServiceStatus: loadBalancer:LoadBalancerStatus(ingress:[]LoadBalancerIngress(ip|@ip hostname
  ipMode:?
  ports:[]PortStatus))+ conditions:[]Condition/type;
PortStatus IngressPortStatus: *port:int *protocol error:?;
Endpoints: metadata:ObjectMeta+ subsets:[]EndpointSubset(addresses:[]EndpointAddress
  notReadyAddresses:[]EndpointAddress ports:[]EndpointPort(name|@label *port:int|1..65535
  protocol=TCP|SCTP,TCP,UDP appProtocol:?|@labelkey));
EndpointAddress: *ip|req|@endpoint 3hostname|@label nodeName:?|@subdomain
  2targetRef:ObjectReference#;
ObjectReference: kind namespace name uid apiVersion resourceVersion fieldPath;
ConfigMap: metadata:ObjectMeta+ 4immutable:bool? 2data:{}|@filenames
  binaryData:{}bytes|@filenames;
Secret: metadata:ObjectMeta+ 5immutable:bool? 2data:{}bytes|@filenames 4stringData:{}
  3type=Opaque|fixed;
ServiceAccount: metadata:ObjectMeta+ secrets:[]ObjectReference#/name
  imagePullSecrets:[]LocalObjectReference automountServiceAccountToken:bool?;
NamespaceSpec: finalizers:[];
NamespaceStatus: phase=Active conditions:[]NamespaceCondition(*type *status
  *4lastTransitionTime:Time reason message)/type;
NodeSpec: podCIDR 7podCIDRs:[]/ 3providerID unschedulable:bool taints:[]Taint(*key|req|@labelkey
  value|@labelvalue *effect|req|NoSchedule,PreferNoSchedule,NoExecute timeAdded:Time?);
NodeStatus: capacity:{}Quantity allocatable:{}Quantity 4conditions:[]NodeCondition(*type *status
  *lastHeartbeatTime:Time *lastTransitionTime:Time reason message)/type
  addresses:[]NodeAddress(*type *address)/type
  daemonEndpoints:NodeDaemonEndpoints(kubeletEndpoint:DaemonEndpoint(*Port:int)+)+
  nodeInfo:NodeSystemInfo(*machineID *systemUUID *bootID *kernelVersion *osImage
  *containerRuntimeVersion *kubeletVersion *kubeProxyVersion *operatingSystem *architecture)+
  images:[]ContainerImage(*names:[] sizeBytes:int);
EventSource: component host;
Event: metadata:ObjectMeta+ involvedObject:ObjectReference+# reason message source:EventSource+
  *firstTimestamp:Time *lastTimestamp:Time count:int type *eventTime:MicroTime
  series:EventSeries(count:int *lastObservedTime:MicroTime) action related:ObjectReference#
  *reportingComponent *reportingInstance;
PersistentVolumeClaimStatus: phase=Pending accessModes:[] capacity:{}Quantity
  conditions:[]PersistentVolumeClaimCondition/type;
PersistentVolumeClaimCondition JobCondition: *type *status *lastProbeTime:Time
  *lastTransitionTime:Time reason message;
PersistentVolumeSpec: capacity:{}Quantity|req|@amounts :PersistentVolumeSource
  accessModes:[]|req|ReadOnlyMany,ReadWriteMany,ReadWriteOnce,ReadWriteOncePod
  claimRef:ObjectReference persistentVolumeReclaimPolicy=Retain|Delete,Retain
  storageClassName|@subdomain mountOptions:[] volumeMode:?=Filesystem|Block,Filesystem
  nodeAffinity:VolumeNodeAffinity(required:NodeSelector#) ~volumeAttributesClassName:?;
PersistentVolumeSource: |one !gcePersistentDisk:Raw !awsElasticBlockStore:Raw
  hostPath:HostPathVolumeSource !glusterfs:Raw nfs:NFSVolumeSource !rbd:Raw !iscsi:Raw !cinder:Raw
  !cephfs:Raw !fc:Raw !flocker:Raw !flexVolume:Raw !azureFile:Raw !vsphereVolume:Raw !quobyte:Raw
  !azureDisk:Raw !photonPersistentDisk:Raw !portworxVolume:Raw !scaleIO:Raw
  local:LocalVolumeSource(*path|@abspath fsType:?) !storageos:Raw
  22csi:CSIPersistentVolumeSource(*driver|req *volumeHandle|req readOnly:bool fsType
  volumeAttributes:{});
PersistentVolumeStatus: phase=Pending message reason lastPhaseTransitionTime:Time?;
ReplicationControllerSpec: replicas:int?=1|0..100000 4minReadySeconds:int|0.. 2selector:{}#|req
  template:PodTemplateSpec|req;
PodTemplateSpec: metadata:ObjectMeta+ spec:PodSpec+;
ReplicationControllerStatus: *replicas:int fullyLabeledReplicas:int 4readyReplicas:int
  availableReplicas:int 3observedGeneration:int 6conditions:[]ReplicationControllerCondition/type;
LimitRangeSpec: *limits:[]LimitRangeItem(*type|req max:{}Quantity min:{}Quantity
  default:{}Quantity defaultRequest:{}Quantity ~maxLimitRequestRatio:{}Quantity);
ReplicationControllerCondition ReplicaSetCondition StatefulSetCondition DaemonSetCondition: *type
  *status *lastTransitionTime:Time reason message;
ResourceQuotaSpec: hard:{}Quantity|@amounts ~scopes:[]
  ~scopeSelector:ScopeSelector(matchExpressions:[]ScopedResourceSelectorRequirement(*scopeName
  *operator values:[]))#;
ResourceQuotaStatus: hard:{}Quantity used:{}Quantity;
DeploymentSpec: replicas:int?=1|0..100000 *selector:LabelSelector#|req|fixed
  template:PodTemplateSpec+|req
  strategy:DeploymentStrategy(type=RollingUpdate|Recreate,RollingUpdate
  rollingUpdate:RollingUpdateDeployment(maxUnavailable:IntOrString?=25%|@share
  maxSurge:IntOrString?=25%|@share))+& minReadySeconds:int|0.. revisionHistoryLimit:int?=10|0..
  paused:bool 9progressDeadlineSeconds:int?=600|0..;
DeploymentStatus: observedGeneration:int replicas:int updatedReplicas:int 7readyReplicas:int
  4availableReplicas:int unavailableReplicas:int 9terminatingReplicas:int?
  6conditions:[]DeploymentCondition(*type *status *6lastUpdateTime:Time *lastTransitionTime:Time
  4reason message)/type 8collisionCount:int?;
ReplicaSetSpec: replicas:int?=1|0..100000 4minReadySeconds:int|0..
  *2selector:LabelSelector#|req|fixed
  template:PodTemplateSpec+|req;
ReplicaSetStatus: *replicas:int fullyLabeledReplicas:int 4readyReplicas:int availableReplicas:int
  7terminatingReplicas:int? 3observedGeneration:int 6conditions:[]ReplicaSetCondition/type;
StatefulSetSpec: replicas:int?=1|0..100000 *selector:LabelSelector#|req|fixed
  template:PodTemplateSpec+|req volumeClaimTemplates:[]PersistentVolumeClaim|fixed
  *serviceName|@label|fixed podManagementPolicy=OrderedReady|OrderedReady,Parallel|fixed
  updateStrategy:StatefulSetUpdateStrategy(type=RollingUpdate|OnDelete,RollingUpdate
  rollingUpdate:RollingUpdateStatefulSetStrategy(partition:int?=0|0..
  maxUnavailable:IntOrString?))+ revisionHistoryLimit:int?=10 minReadySeconds:int|0..
  persistentVolumeClaimRetentionPolicy:StatefulSetPersistentVolumeClaimRetentionPolicy(
  whenDeleted=Retain|Retain,Delete
  whenScaled=Retain|Retain,Delete)={} ordinals:StatefulSetOrdinals(*start:int|0..);
ScaleSpec: replicas:int|0..100000;
StatefulSetStatus: observedGeneration:int *replicas:int readyReplicas:int currentReplicas:int
  updatedReplicas:int currentRevision updateRevision 9collisionCount:int?
  conditions:[]StatefulSetCondition/type *availableReplicas:int;
DaemonSetSpec: *selector:LabelSelector#|req|fixed template:PodTemplateSpec+|req
  updateStrategy:DaemonSetUpdateStrategy(type=RollingUpdate|OnDelete,RollingUpdate
  rollingUpdate:RollingUpdateDaemonSet(maxUnavailable:IntOrString?=1|@share
  maxSurge:IntOrString?=0|@share))+ minReadySeconds:int|0.. 6revisionHistoryLimit:int?=10|0..;
ScaleStatus: *replicas:int selector;
DaemonSetStatus: *currentNumberScheduled:int *numberMisscheduled:int *desiredNumberScheduled:int
  *numberReady:int observedGeneration:int updatedNumberScheduled:int numberAvailable:int
  numberUnavailable:int collisionCount:int? conditions:[]DaemonSetCondition/type;
ControllerRevision: metadata:ObjectMeta+ *data:Raw#|fixed *revision:int|0..;
JobSpec: parallelism:int?|0.. completions:int?|0.. activeDeadlineSeconds:int?|0..
  11podFailurePolicy:PodFailurePolicy(*rules:[]PodFailurePolicyRule(
  *action|Count,FailIndex,FailJob,Ignore
  onExitCodes:PodFailurePolicyOnExitCodesRequirement(containerName:? *operator|In,NotIn
  *values:[]int/_) onPodConditions:[]PodFailurePolicyOnPodConditionsPattern(*type|@labelkey
  *status=True|False,True,Unknown)))
  16successPolicy:SuccessPolicy(*rules:[]SuccessPolicyRule(succeededIndexes:?|@indexes
  succeededCount:int?|0..)) 7backoffLimit:int?|0.. 12backoffLimitPerIndex:int?|0..|fixed
  maxFailedIndexes:int?|0.. 4selector:LabelSelector#|fixed manualSelector:bool?
  template:PodTemplateSpec+ 8ttlSecondsAfterFinished:int?|0..
  completionMode:?|NonIndexed,Indexed|fixed suspend:bool?
  14podReplacementPolicy:?|Failed,TerminatingOrFailed managedBy:?;
JobStatus: conditions:[]JobCondition/type^ startTime:Time? completionTime:Time? active:int
  succeeded:int failed:int 11terminating:int? 7completedIndexes 10failedIndexes:?
  8uncountedTerminatedPods:UncountedTerminatedPods(succeeded:[]/_ failed:[]/_) ready:int?;
JobTemplateSpec: metadata:ObjectMeta+ spec:JobSpec+;
CronJobSpec: *schedule|req 8timeZone:? 2startingDeadlineSeconds:int?|0..
  concurrencyPolicy=Allow|Allow,Forbid,Replace suspend:bool?=false jobTemplate:JobTemplateSpec+
  successfulJobsHistoryLimit:int?=3|0.. failedJobsHistoryLimit:int?=1|0..;
CronJobStatus: active:[]ObjectReference 4lastScheduleTime:Time? lastSuccessfulTime:Time?;
HorizontalPodAutoscaler: metadata:ObjectMeta+ spec:Raw status:Raw;
IngressSpec: 4ingressClassName:?|@subdomain 1defaultBackend:IngressBackend
  tls:[]IngressTLS(hosts:[]|@host secretName|@subdomain) rules:[]IngressRule(host|@host
  :IngressRuleValue(http:HTTPIngressRuleValue(*paths:[]HTTPIngressPath(path
  *3pathType:?|req|Exact,ImplementationSpecific,Prefix 2backend:IngressBackend+)|req)));
IngressBackend: |one 4service:IngressServiceBackend(*name|req|@rfc1035
  port:ServiceBackendPort(name|@port number:int|1..65535)+#) 3resource:TypedLocalObjectReference#;
IngressStatus: loadBalancer:IngressLoadBalancerStatus(ingress:[]IngressLoadBalancerIngress(ip|@ip
  hostname|@subdomain 4ports:[]IngressPortStatus))+;
IngressClassSpec: controller|req|fixed
  parameters:IngressClassParametersReference(apiGroup:?|@subdomain *kind|req *name|req
  *scope:?=Cluster|Cluster,Namespace namespace:?);
NetworkPolicySpec: podSelector:LabelSelector+#
  ingress:[]NetworkPolicyIngressRule(ports:[]NetworkPolicyPort from:[]NetworkPolicyPeer)
  egress:[]NetworkPolicyEgressRule(ports:[]NetworkPolicyPort to:[]NetworkPolicyPeer)
  policyTypes:[]|Ingress,Egress;
NetworkPolicyPort: protocol:?=TCP|TCP,UDP,SCTP port:IntOrString? endPort:int?;
NetworkPolicyPeer: podSelector:LabelSelector# namespaceSelector:LabelSelector#
  ipBlock:IPBlock(*cidr|req except:[]);
EndpointSlice: metadata:ObjectMeta+ *4addressType|req|FQDN,IPv4,IPv6|fixed
  *2endpoints:[]Endpoint(*addresses:[]/_|req conditions:EndpointConditions(ready:bool?
  serving:bool? terminating:bool?)+ hostname:?|@label targetRef:ObjectReference#
  deprecatedTopology:{} nodeName:?|@subdomain zone:?
  hints:EndpointHints(forZones:[]ForZone(*name|@labelvalue) forNodes:[]ForNode(*name|@subdomain)))
  *ports:[]discovery.EndpointPort(name:?=|@label protocol:?=TCP|SCTP,TCP,UDP port:int?
  appProtocol:?|@labelkey);
PodDisruptionBudgetSpec: minAvailable:IntOrString?|@share selector:LabelSelector#/^
  maxUnavailable:IntOrString?|@share ~unhealthyPodEvictionPolicy:?|AlwaysAllow,IfHealthyBudget;
PodDisruptionBudgetStatus: observedGeneration:int disruptedPods:{}Time *disruptionsAllowed:int
  *currentHealthy:int *desiredHealthy:int *expectedPods:int conditions:[]Condition/type;
Eviction: metadata:ObjectMeta+ deleteOptions:DeleteOptions(gracePeriodSeconds:int?
  preconditions:Preconditions(uid:? resourceVersion:?) orphanDependents:bool? propagationPolicy:?
  dryRun:[] ignoreStoreReadErrorWithClusterBreakingPotential:bool?);
Role: metadata:ObjectMeta+ *rules:[]PolicyRule;
PolicyRule: *verbs:[]|req apiGroups:[] resources:[] resourceNames:[] nonResourceURLs:[];
ClusterRole: metadata:ObjectMeta+ *rules:[]PolicyRule
  aggregationRule:AggregationRule(clusterRoleSelectors:[]LabelSelector);
RoleBinding ClusterRoleBinding: metadata:ObjectMeta+
  subjects:[]Subject(*kind|ServiceAccount,User,Group apiGroup *name|req namespace)
  roleRef:RoleRef(*apiGroup=rbac.authorization.k8s.io|rbac.authorization.k8s.io
  *kind|Role,ClusterRole *name|req|@urlpart)+#|fixed;
StorageClass: metadata:ObjectMeta+ *provisioner|req|fixed parameters:{}|fixed
  reclaimPolicy:?=Delete|Delete,Retain|fixed mountOptions:[] allowVolumeExpansion:bool?
  volumeBindingMode:?=Immediate|Immediate,WaitForFirstConsumer|fixed
  allowedTopologies:[]TopologySelectorTerm(
  matchLabelExpressions:[]TopologySelectorLabelRequirement(*key|@labelkey
  *values:[]|req));
PriorityClass: metadata:ObjectMeta+ *value:int|fixed globalDefault:bool description
  preemptionPolicy:?=PreemptLowerPriority|PreemptLowerPriority,Never;
NodeMetrics: metadata:ObjectMeta+ *timestamp:Time *window *usage:{}Quantity;
PodMetrics: metadata:ObjectMeta+ *timestamp:Time *window *containers:[]ContainerMetrics(*name
  *usage:{}Quantity);
LeaseSpec: holderIdentity:? leaseDurationSeconds:int? acquireTime:MicroTime? renewTime:MicroTime?
  leaseTransitions:int?|0.. strategy:? preferredHolder:?;
events.Event: metadata:ObjectMeta+ *eventTime:MicroTime|req series:events.EventSeries(*count:int
  *lastObservedTime:MicroTime) reportingController reportingInstance action reason
  regarding:ObjectReference+# related:ObjectReference# note type deprecatedSource:EventSource+
  *deprecatedFirstTimestamp:Time *deprecatedLastTimestamp:Time deprecatedCount:int;
CustomResourceDefinitionSpec: *group|req|@subdomain 3names:CustomResourceDefinitionNames+
  *scope|req|Cluster,Namespaced|fixed
  *7versions:[]CustomResourceDefinitionVersion|req|unique
  9conversion:CustomResourceConversion(*strategy|None,Webhook
  ~webhook:WebhookConversion(2clientConfig:WebhookClientConfig(3url:?
  1service:ServiceReference(*namespace *name path:? port:int?=443) caBundle:bytes)
  *conversionReviewVersions:[])) preserveUnknownFields:bool;
CustomResourceDefinitionNames: *plural|@rfc1035 singular|@rfc1035 shortNames:[]|@rfc1035
  *kind listKind categories:[]|@rfc1035;
CustomResourceDefinitionVersion: *name|req|@rfc1035 *served:bool *storage:bool 7deprecated:bool
  deprecationWarning:? 4schema:CustomResourceValidation(openAPIV3Schema:JSONSchemaProps)
  subresources:CustomResourceSubresources(status:CustomResourceSubresourceStatus()
  scale:CustomResourceSubresourceScale(*specReplicasPath *statusReplicasPath labelSelectorPath:?))
  additionalPrinterColumns:[]CustomResourceColumnDefinition(*name|req *type format description
  priority:int *jsonPath) 9selectableFields:[]SelectableField(*jsonPath);
JSONSchemaProps: id $schema $ref:? description type ~format title default:Raw? maximum:Double?
  exclusiveMaximum:bool minimum:Double? exclusiveMinimum:bool maxLength:int? minLength:int?
  ~pattern maxItems:int? minItems:int? uniqueItems:bool ~multipleOf:Double? enum:[]Raw
  maxProperties:int? minProperties:int? required:[] items:SchemaOrArray ~allOf:[]JSONSchemaProps
  ~oneOf:[]JSONSchemaProps ~anyOf:[]JSONSchemaProps ~not:JSONSchemaProps
  properties:{}JSONSchemaProps additionalProperties:SchemaOrBool
  ~patternProperties:{}JSONSchemaProps
  dependencies:{}SchemaOrStrings additionalItems:SchemaOrBool definitions:{}JSONSchemaProps
  externalDocs:ExternalDocumentation(description url) example:Raw? nullable:bool
  x-kubernetes-preserve-unknown-fields:bool? x-kubernetes-embedded-resource:bool
  x-kubernetes-int-or-string:bool x-kubernetes-list-map-keys:[] x-kubernetes-list-type:?
  x-kubernetes-map-type:? ~x-kubernetes-validations:[]ValidationRule(*rule message
  messageExpression reason:? fieldPath optionalOldSelf:bool?)/rule;
CustomResourceDefinitionStatus: *conditions:[]CustomResourceDefinitionCondition(*type *status
  *lastTransitionTime:Time reason message observedGeneration:int)/type_
  acceptedNames:CustomResourceDefinitionNames+ *storedVersions:[] observedGeneration:int;
TokenReviewSpec: token audiences:[];
TokenReviewStatus: authenticated:bool user:UserInfo+ 4audiences:[] 3error;
UserInfo: username uid groups:[] extra:{}ExtraValue;
TokenRequestSpec: *audiences:[] *4expirationSeconds:int?=3600|600..4294967296
  *3boundObjectRef:BoundObjectReference(kind apiVersion name uid);
TokenRequestStatus: *token *expirationTimestamp:Time;
SelfSubjectReview: metadata:ObjectMeta+ status:SelfSubjectReviewStatus(userInfo:UserInfo+)+;
NonResourceAttributes: path verb;
SubjectAccessReviewSpec: resourceAttributes:ResourceAttributes
  nonResourceAttributes:NonResourceAttributes user groups:[] extra:{}ExtraValue uid;
ResourceAttributes: namespace verb group version resource subresource name
  fieldSelector:FieldSelectorAttributes(rawSelector requirements:[]FieldSelectorRequirement(*key
  *operator values:[])) labelSelector:LabelSelectorAttributes(rawSelector
  requirements:[]LabelSelectorRequirement);
SubjectAccessReviewStatus: *allowed:bool 4denied:bool 2reason evaluationError;
LocalSubjectAccessReview: metadata:ObjectMeta+ spec:SubjectAccessReviewSpec+
  status:SubjectAccessReviewStatus+;
SelfSubjectAccessReview: metadata:ObjectMeta+
  spec:SelfSubjectAccessReviewSpec(resourceAttributes:ResourceAttributes
  nonResourceAttributes:NonResourceAttributes)+ status:SubjectAccessReviewStatus+;
SelfSubjectRulesReview: metadata:ObjectMeta+ spec:SelfSubjectRulesReviewSpec(namespace)+
  status:SubjectRulesReviewStatus(*resourceRules:[]ResourceRule(*verbs:[] apiGroups:[]
  resources:[] resourceNames:[]) *nonResourceRules:[]NonResourceRule(*verbs:[] nonResourceURLs:[])
  *incomplete:bool evaluationError)+
"""

Field = namedtuple("Field",
                   "name type kind number pointer plain retain atomic keys merges applies default "
                   "always flag rules",
                   defaults=("", "", 0, *[False] * 4, (), False, False, None, False, "", ()))
# type   a name of SCHEMA or of SCALARS, a Message, or the Field of a list's items or map's values
# kind   "" one value, "[]" a list, "{}" a map
# rules  (("req",), ("enum", ["A", "B"]), ("range", low, high), ("size", low, high), ("unique",),
#        ("fixed",), ("form", name)), of a JSON schema also ("there",), ("nullable",): see broken()
TOKEN = re.compile(r"([*~!]*)(\d*)([\w$-]*):?(\[\]|\{\}|)([\w.]*)([?+&#]*)(/?)([A-Za-z,]*)([\^_]?)"
                   r"(?:=([^\s|]*))?((?:\|\S+)*)")
WORDS = {"{}": {}, "true": True, "false": False}        # defaults that are neither number nor text
SCALARS = {  # type -> (the types of Python, what a refusal says, its zero)
    "string": ((str,), "a string", ""), "int": ((int,), "a whole number", 0),
    "bool": ((bool,), "true or false", False),
    "bytes": ((str,), "base64", ""), "Time": ((str,), "a time, RFC 3339", None),
    "MicroTime": ((str,), "a time, RFC 3339", None),
    "Quantity": ((str, int, float), "a quantity", "0"),
    "IntOrString": ((int, str), "a number or a string", 0),
    "Double": ((int, float), "a number", 0),
    "Raw": ((), "", None), "ExtraValue": ((list,), "a list of strings", None),
    "SchemaOrArray": ((), "", None), "SchemaOrBool": ((), "", None),
    "SchemaOrStrings": ((), "", None)}

def read_schema(text):
    """{message: its tokens} of a text like SCHEMA."""
    messages, rest = {}, re.sub(r"([|,(])\s+", r"\1", text)
    while "(" in rest:
        messages.update(re.findall(r"([\w.]+)\(([^()]*)\)", rest))
        rest = re.sub(r"\([^()]*\)", "", rest)
    for part in rest.split(";"):
        names, tokens = part.split(":", 1)
        messages.update(dict.fromkeys(names.split(), tokens))
    for name in [name[:-4] for name in messages if name.endswith("Spec")]:
        status = f" 3status:{name}Status+" if name + "Status" in messages else ""
        messages.setdefault(name, f"1metadata:ObjectMeta+ 2spec:{name}Spec+{status}")
    return messages

MESSAGES = read_schema(SCHEMA)

class Message:
    """Fields by_name (embedded structs resolved) and by_number (as on the protobuf wire). rest:
    the Field of names that are not in by_name, or None; one: the names of fields of which exactly
    one must be given, if there are any; at_all: the Fields that are there even when empty; weight:
    about how long it takes to check one."""
    def __init__(self, name, fields, rest=None, one=frozenset()):
        self.name, self.rest, self.one, self.by_number = name, rest, one, {}
        self.by_name = {field.name: field for field in fields}
        self.at_all = [field for field in self.by_name.values() if field.plain or field.always]
        self.weight = 1 + len(fields) + sum(
            len(dumps(field.default)) // 8 for field in fields if field.default is not None)

def parse_rule(text):
    if text in ("req", "fixed", "unique"):
        return (text,)
    if text[0] == "@":
        return "form", text[1:]
    low, dots, high = text.partition("..")
    return ("range", int(low), int(high or 1 << 63)) if dots else ("enum", text.split(","))

def parse_field(token, last):
    """The Field of a token; last: the number of the one before it."""
    flags, number, name, kind, type_, mark, slash, keys, only, default, rules = (
        TOKEN.fullmatch(token).groups())
    if default:
        default = WORDS.get(default, int(default) if default.isdigit() else default)
    keys = tuple(filter(None, keys.split(",")))
    rules = tuple(parse_rule(rule) for rule in rules.split("|")[1:])
    return Field(name, type_ or "string", kind, int(number or last + 1),
                 *(sign in mark for sign in "?+&#"), keys, bool(slash) and only != "_",
                 bool(slash) and only != "^", default, "*" in flags, flags.strip("*"), rules)

def read_message(name):
    """The Message of a name in SCHEMA."""
    fields, by_number, last, one = [], {}, 0, set()
    tokens = MESSAGES[name].split()
    for token in [token for token in tokens if token != "|one"]:
        field = parse_field(token, last)
        last = field.number
        by_number[last] = field
        if field.name:
            fields.append(field)
        else:
            fields += message_of(field.type).by_name.values()
            one |= message_of(field.type).one
    if "|one" in tokens:
        one = {field.name for field in fields}
    out = Message(name, fields, one=one)
    out.by_number = by_number
    return out

known_message = lru_cache(maxsize=None)(read_message)   # parsed at its first use and kept

def message_of(type_):
    """The Message of a type: by name, by a JSON schema in bytes, or as it is. Any thread."""
    if isinstance(type_, str):
        return known_message(type_)
    return custom_message(type_) if isinstance(type_, bytes) else type_

def is_message(type_):
    return not isinstance(type_, Field) and type_ not in SCALARS

# what a table of fields need not say twice, or at all
NOT_WALKED = "ObjectMeta", "PodTemplateSpec", "EphemeralContainer"

def unheeded_fields(type_, path="", above=NOT_WALKED):
    """{path: flag} of the fields of a message that are not honoured: ~ is answered with a Warning,
    ! is refused. What a pod has several of stands there once, a pod's template nowhere."""
    out = {}
    for field in message_of(type_).by_name.values():
        here = f"{path}.{field.name}".lstrip(".")
        if field.flag:
            out[here] = field.flag
        elif is_message(field.type) and field.type not in above and field.name != "initContainers":
            out.update(unheeded_fields(field.type, here, (*above, field.type)))
    return out

def element(field):
    """The Field of one item of a list, or one value of a map."""
    return field.type if isinstance(field.type, Field) else field._replace(kind="")

# -- the JSON schema of a CustomResourceDefinition, as the Messages that SCHEMA would give
LOOSE, EMBEDDED = "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"
JSON_TYPES = {"string": "string", "integer": "int", "number": "Double", "boolean": "bool"}
RAW, META = Field("", "Raw", pointer=True), Field("metadata", "ObjectMeta", plain=True)

SIZES = {"string": "Length", "array": "Items", "object": "Properties"}

def json_rules(schema, is_required):
    """The rules of a field by its JSON schema."""
    rules = [("there",)] if is_required else []
    if schema.get("nullable"):
        rules.append(("nullable",))
    if "enum" in schema:
        is_text = all(isinstance(each, str) for each in schema["enum"])
        rules.append(("enum", frozenset(schema["enum"]) if is_text else schema["enum"]))
    type_ = schema.get("type")
    if type_ in ("integer", "number") and ("minimum" in schema or "maximum" in schema):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if schema.get("exclusiveMinimum"):
            low = math.nextafter(low, math.inf)
        if schema.get("exclusiveMaximum"):
            high = math.nextafter(high, -math.inf)
        rules.append(("range", low, high))
    least, most = (word + SIZES.get(type_, "") for word in ("min", "max"))
    if least in schema or most in schema:
        rules.append(("size", schema.get(least, 0), schema.get(most, math.inf)))
    if schema.get("x-kubernetes-list-type") in ("map", "set"):
        rules.append(("unique",))
    return tuple(rules)

def json_field(name, schema, is_required=False):
    """The Field that a JSON schema describes."""
    field = Field(name, "Raw", pointer=True, default=schema.get("default"),
                  rules=json_rules(schema, is_required))
    type_, more = schema.get("type"), schema.get("additionalProperties")
    if schema.get("x-kubernetes-int-or-string"):
        return field._replace(type="IntOrString")
    if type_ == "array":
        list_type = schema.get("x-kubernetes-list-type")
        keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))
        return field._replace(kind="[]", type=json_field("", schema.get("items", {})), keys=keys,
                              applies=list_type in ("map", "set"))
    atomic = schema.get("x-kubernetes-map-type") == "atomic"
    if isinstance(more, dict):
        return field._replace(kind="{}", type=json_field("", more), atomic=atomic)
    if type_ == "object" and more is not True:
        return field._replace(type=json_message(schema), atomic=atomic)
    return field._replace(type=JSON_TYPES.get(type_, "Raw"))

def json_message(schema, is_root=False):
    """The Message of an object's JSON schema; is_root: of a whole custom resource."""
    required = schema.get("required", ())
    fields = [json_field(name, each, name in required)
              for name, each in schema.get("properties", {}).items()]
    if is_root or schema.get(EMBEDDED):
        own = ("metadata", "kind", "apiVersion")
        rules = () if is_root else (("req",),)
        typed = [Field(name, "string", rules=rules) for name in ("kind", "apiVersion")]
        fields = [META, *typed, *(field for field in fields if field.name not in own)]
    return Message("", fields, RAW if schema.get(LOOSE) else None)

@lru_cache(maxsize=16)
def custom_message(schema):
    """The Message of a JSON schema in bytes; the last few are kept."""
    return json_message(json.loads(schema), is_root=True)

# -- the walkers
class Findings:
    """What reading an object brought to light, as paths: fields unknown, unheeded, refused; the
    first FAULTS of each, and how many more. weight: of what was read, see Message."""
    def __init__(self):
        self.unknown, self.hints, self.refused, self.more, self.weight = [], [], [], 0, 0

    def note(self, found, path):
        if len(found) < FAULTS:
            found.append(path)
        else:
            self.more += 1
    def weigh(self, fields, path):
        """Raises Mismatch where there is too much to check, all in all."""
        self.weight += fields.weight
        if self.weight > WEIGHT:
            raise Mismatch("the object is too large for all that its schema says", path)

def zero_of(field):
    """What Go's zero value of a field's type is, None for that of a message."""
    return None if field.kind or is_message(field.type) else SCALARS[field.type][2]

def clean_scalar(type_, value, path):
    types, wanted, _ = SCALARS[type_]
    if type_ == "int" and type(value) is float and value.is_integer():
        value = int(value)
    if types and type(value) not in types or not has_form(type_, value):
        raise Mismatch(f"want {wanted}, found {dumps(value).decode()[:80]}", path)
    return canonical_quantity(value) if type_ == "Quantity" else value

def has_form(type_, value):
    """Whether a value of the right type of Python is what a scalar type wants."""
    if type_ in ("Time", "MicroTime"):
        return bool(TIME.fullmatch(value))
    if type_ == "int":
        return -1 << 63 <= value < 1 << 63
    if type_ == "ExtraValue":
        return all(isinstance(each, str) for each in value)
    return type_ != "bytes" or is_base64(value)

def is_base64(text):
    try:
        # Go passes over line ends, and over nothing else
        base64.b64decode(text, validate="\n" not in text)
        return True
    except ValueError:
        return False

def clean(field, value, findings, path):
    """The value as the API server would hold it: types checked, unknown fields and nulls dropped,
    quantities in canonical form. What was dropped or cannot be honoured goes to findings. path:
    where it stands, such as "spec.containers[0].name". Raises Mismatch."""
    if field.kind == "[]":
        return clean_list(field, value, findings, path)
    if field.kind:
        return clean_map(field, value, findings, path)
    if is_message(field.type):
        return clean_message(message_of(field.type), value, findings, path)
    if field.type.startswith("SchemaOr") and isinstance(value, dict):
        return clean_message(message_of("JSONSchemaProps"), value, findings, path)
    return clean_scalar(field.type, value, path)

def clean_list(field, value, findings, path):
    """clean() of a list; those of custom resources have no bound but the object's."""
    one = element(field)
    if not isinstance(value, list):
        raise Mismatch(f"want a list, found {TYPE_WORDS[type(value)]}", path)
    if len(value) > LIST_ITEMS and one is not field.type:
        raise Mismatch(f"a list may have {LIST_ITEMS} items", path)
    return [clean(one, item, findings, f"{path}[{i}]") for i, item in enumerate(value)]

def clean_map(field, value, findings, path):
    """clean() of a map."""
    one, out = element(field), {}
    if not isinstance(value, dict):
        raise Mismatch(f"want a map, found {TYPE_WORDS[type(value)]}", path)
    place = f"{path}.%s" if one is field.type else f"{path}[%s]"
    for key, item in sorted(value.items()):
        item = zero_of(one) if item is None else item
        if item is not None:
            out[key] = clean(one, item, findings, place % key[:STEP_CHARS])
    return out

TYPE_WORDS = {str: "a string", bool: "a boolean", int: "a number", float: "a number",
              list: "a list", dict: "an object", type(None): "null"}

def is_absent(field, value):
    """Go's omitempty: a zero that is no pointer is not there."""
    if value or field.pointer:
        return False
    return bool(field.kind) or value == zero_of(field)

def clean_message(fields, value, findings, path):
    """clean() for the fields of a Message; those that are there even when empty are added."""
    if not isinstance(value, dict):
        raise Mismatch(f"want an object, found {TYPE_WORDS[type(value)]}", path)
    findings.weigh(fields, path)
    out, is_object = {}, not path or "metadata" in fields.by_name
    for name, item in value.items():
        where = f"{path}.{name[:STEP_CHARS]}" if path else name[:STEP_CHARS]
        field = fields.by_name.get(name, fields.rest)
        if is_object and name in ("kind", "apiVersion"):
            out[name] = item    # those of the object, which the caller checks
        elif field is None:
            findings.note(findings.unknown, where)
        elif item is None:
            out.update({name: None} if ("nullable",) in field.rules else {})
        else:
            item = clean(field, item, findings, where)
            if not is_absent(field, item):
                out[name] = item
                if field.flag:
                    findings.note(findings.hints if field.flag == "~" else findings.refused, where)
    for field in fields.at_all:
        if field.name not in out:
            out[field.name] = empty(field)
    return out

def empty(field):
    """What stands in a field that is there even when it is empty."""
    if field.kind:
        return [] if field.kind == "[]" else {}
    if field.plain:
        return clean_message(message_of(field.type), {}, Findings(), ".")
    return None if field.pointer else zero_of(field)

# == 6. Objects ==============================================================================
# What all kinds have in common: keys, labels, owners, conditions; and the containers of a pod.
# Annotation: this pod, or the Service of its published ports, is a container that somebody else
# started; holds its name. As a label: the first digits of its id.
FOREIGN = "k2d.io/container"
# annotation of pods that the API did not make: `kubectl drain` skips them
MIRROR = "kubernetes.io/config.mirror"
# label of an EndpointSlice: the Service that it is for; labels that tell who derived an object
SERVICE_NAME, MANAGED_BY = "kubernetes.io/service-name", {
    "Endpoints": "endpoints.kubernetes.io/managed-by",
    "EndpointSlice": "endpointslice.kubernetes.io/managed-by"}

def key_of(obj):
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]

def annotation(obj, name):
    return dig(obj, ["metadata", "annotations", name])

def labels_of(obj):
    return dig(obj, "metadata.labels", {})

def name_of(obj):
    return obj["metadata"].get("name", "")

def uid_of(obj):
    return obj["metadata"]["uid"]

def is_deleting(obj):
    return bool(obj["metadata"].get("deletionTimestamp"))

def has_ended(pod):
    return dig(pod, "status.phase") in ("Succeeded", "Failed")

def is_foreign(obj, kind="Pod"):
    return obj["kind"] == kind and FOREIGN in (obj["metadata"].get("annotations") or ())

def is_published(obj):
    return is_foreign(obj, "Service")

def home_of(obj):
    """The Kind that an object at rest is of."""
    return kind_named(obj["apiVersion"], obj["kind"])

def controller_of(obj):
    return next((ref for ref in obj["metadata"].get("ownerReferences") or ()
                 if ref.get("controller")),
                None)

def owner_reference(owner):
    return {**pick(owner, ("apiVersion", "kind")), **pick(owner["metadata"], ("name", "uid")),
            "controller": True, "blockOwnerDeletion": True}

def new_object(kind, name, namespace="", **fields):
    """An object of our own making, at its beginning."""
    meta = {"name": name, **filled(namespace=namespace), "uid": new_uid(),
            "creationTimestamp": now()}
    return {"kind": kind.name, "apiVersion": group_version(kind), "metadata": meta, **fields}

def replicas_of(obj):
    return obj["spec"].get("replicas", 1)

def condition(conditions, type_, status, reason="", text="", **more):
    """A condition as it should be; it keeps lastTransitionTime while its status stays."""
    old = next((c for c in conditions or () if c["type"] == type_), {})
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    return {"type": type_, **more, "status": status, "lastTransitionTime": since or now(),
            **filled(reason=reason, message=text)}

def get_condition(obj, type_):
    return next((c for c in dig(obj, "status.conditions", ()) if c["type"] == type_), None)

def is_condition(obj, type_):
    return dig(get_condition(obj, type_), "status") == "True"

def set_condition(pod, *words):
    """Set one condition of a pod, as condition() makes it; the others stay."""
    old = dig(pod, "status.conditions", [])
    new = condition(old, *words, lastProbeTime=None,
                    observedGeneration=pod["metadata"].get("generation", 1))
    pod["status"]["conditions"] = [c for c in old if c["type"] != new["type"]] + [new]

def resolve_count(value, total, up):
    """An IntOrString such as maxSurge, a number or "25%" of total, rounded up or down."""
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        return int(value)
    return (int(value[:-1]) * total + (99 if up else 0)) // 100

def is_sidecar(container):
    """Whether an init container goes on beside the others (KEP-753)."""
    return container.get("restartPolicy") == "Always"

def is_ending_init(spec, container):
    """Whether a container of a pod is an init container that ends before the others begin."""
    return container in spec.get("initContainers", ()) and not is_sidecar(container)

def containers_of(spec):
    """The containers of a pod spec with the paths to them, the init containers first."""
    return [(f".{field}[{i}]", container)
            for field in ("initContainers", "containers", "ephemeralContainers")
            for i, container in enumerate(spec.get(field, ()))]

def container_named(spec, name):
    """One of the containers of a pod spec, {} if there is none of that name."""
    return next((container for _, container in containers_of(spec) if container["name"] == name),
                {})

def sidecars_of(spec):
    return [c for c in spec.get("initContainers", ()) if is_sidecar(c)]

def restart_policy(spec, container):
    """What a container of a pod is to do when it ends."""
    if container in spec.get("ephemeralContainers", ()):
        return "Never"
    own = container.get("restartPolicy") or spec["restartPolicy"]
    return "OnFailure" if own == "Always" and is_ending_init(spec, container) else own

def restarts(spec, container, exit_code):
    """Whether a container that ended with this code runs again."""
    policy = restart_policy(spec, container)
    return policy == "Always" or policy == "OnFailure" and exit_code != 0

def nanos_of(amounts):
    return Counter({name: quantity_nanos(each) for name, each in amounts.items()})

def pod_total(spec, side):
    """Counter {resource: units of 10^-9} of the requests or limits of a pod as a whole
    (component-helpers/resource; KEP-753)."""
    sidecars, peak = Counter(), Counter()
    asked = lambda container: nanos_of(dig(container, f"resources.{side}", {}))
    for container in spec.get("initContainers", ()):
        peak |= sidecars + asked(container)                 # what is needed while this one starts
        if is_sidecar(container):
            sidecars += asked(container)
    return sum(map(asked, spec["containers"]), sidecars) | peak

def qos_class(spec):
    """Guaranteed, Burstable or BestEffort (Kubernetes: Pod Quality of Service Classes)."""
    containers = [*spec.get("containers", ()), *spec.get("initContainers", ())]
    sides = [(dig(c, ["resources", "requests", name]), dig(c, ["resources", "limits", name]))
             for c in containers for name in ("cpu", "memory")]
    if not any(request or limit for request, limit in sides):
        return "BestEffort"
    equal = all(limit and request in (None, limit) for request, limit in sides)
    return "Guaranteed" if equal else "Burstable"

def is_selected(selector, pod):
    """Whether a LabelSelector, which selects nothing if it is absent, selects a pod."""
    return selector is not None and selects(selector_of(selector), labels_of(pod))

def claims_of(pod):
    """The names of the claims behind a pod's volumes."""
    return [each["persistentVolumeClaim"]["claimName"] for each in pod["spec"].get("volumes") or ()
            if "persistentVolumeClaim" in each]

def split_image(image):
    """"host:5000/a/b:tag" -> ("host:5000/a/b", "tag"); a digest is a tag to the engine, and wins;
    none is latest."""
    image, at, digest = image.partition("@")
    name, colon, tag = image.rpartition(":")
    name, tag = (name, tag) if colon and "/" not in tag else (image, "latest")
    return name, digest if at else tag

def data_of(obj):
    """The data of a ConfigMap or Secret as {key: bytes}; None for None."""
    if obj is None:
        return None
    coded = obj.get("data" if obj["kind"] == "Secret" else "binaryData", {})
    out = {key: base64.b64decode(value) for key, value in coded.items()}
    if obj["kind"] == "ConfigMap":
        out.update((key, value.encode()) for key, value in obj.get("data", {}).items())
    return out

def pod_hostname(pod):
    """(host name, its domain) of a pod; the domain is "" for a pod without a subdomain."""
    spec, (namespace, name) = pod["spec"], key_of(pod)
    subdomain = spec.get("subdomain")
    return ((spec.get("hostname") or name)[:63].rstrip("-."),
            f"{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}" if subdomain else "")

def cluster_ip(service):
    """The address of a Service; None for a headless one, or an alias."""
    ip = service["spec"].get("clusterIP")
    return None if ip in ("", "None") else ip

# == 7. Host [host] ==========================================================================
# All that runs programs, reads, writes and mounts files, signals processes, and dials. Callers
# decide what; what stands here never follows a symlink that a container may have planted, and
# writes nowhere else than it is told.
Timeout = socket.timeout
KILL = signal.SIGKILL
unverified_tls = lru_cache(1)(ssl._create_unverified_context)   # PEP 476; for probes and the proxy

def run(*argv, stdin=b""):
    """Run a program of the host: (exit code, what it printed). The subprocess module would keep
    0.4 MB resident."""
    given, taken = os.memfd_create("stdin"), os.memfd_create("output")
    try:
        os.pwrite(given, stdin, 0)
        pid = os.posix_spawnp(argv[0], argv, os.environ,
                              file_actions=[(os.POSIX_SPAWN_DUP2, given, 0),
                                            (os.POSIX_SPAWN_DUP2, taken, 1),
                                            (os.POSIX_SPAWN_DUP2, taken, 2)])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, os.pread(taken, os.fstat(taken).st_size, 0)
    except FileNotFoundError:
        return 127, f"{argv[0]}: program not found".encode()
    finally:
        os.close(given)
        os.close(taken)

def run_checked(*command, stdin=b""):
    """What a program of the host printed; OSError with its words if it fails."""
    code, output = run(*command, stdin=stdin)
    if code:
        raise OSError(f"{' '.join(command)}: {output.decode('utf-8', 'replace').strip()}")
    return output.decode()

def machine_facts():
    """(the kernel's word for the machine, the host's name as a node's, bytes of memory, the least
    oom_score_adj that our children may have)."""
    machine, name = os.uname().machine, socket.gethostname().lower()
    name = re.sub("[^a-z0-9.-]", "-", name).strip("-.") or "node"
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Who may not lower it (a rootless engine, one inside a container) cannot start what asks for a
    # lower one.
    capabilities = int(re.search(r"CapEff:\s*(\w+)", read_text("/proc/self/status"))[1], 16)
    can_lower = capabilities >> 24 & 1                      # CAP_SYS_RESOURCE
    least = -1000 if can_lower else int(read_text("/proc/self/oom_score_adj"))
    return machine, name, memory_bytes, least

def own_address():
    """The address that the default route would use, "" without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # RFC 5737; a datagram socket sends nothing by connecting
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return ""

# -- files
def read_bytes(path, limit):
    """The beginning of a file. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(limit)

def read_text(path):
    """A file, or the first MiB of it. Raises OSError, UnicodeError."""
    return read_bytes(path, FILE_BYTES).decode()

def first_line(path):
    return read_text(path).split("\n")[0] if os.path.exists(path) else ""

def write_text(path, text):
    """Write to a file of the kernel's, below /proc or /sys."""
    with open(path, "w") as file:
        file.write(text)

def make_folder(path, mode=0o700):
    """Make a folder and those above it, unless they are there."""
    os.makedirs(path, mode, exist_ok=True)

def keep_private(path):
    """Have a folder, and the files right in it, for root alone, whatever has made them."""
    os.chmod(path, 0o700)
    for entry in os.scandir(path):
        if entry.is_file(follow_symlinks=False):
            os.chmod(entry.path, 0o600)

def list_folder(path):
    """The names in a folder; none if it is not there."""
    return os.listdir(path) if os.path.isdir(path) else []

def write_file(path, data, mode=0o600):
    """Replace a file as a whole and synced, so that a power cut leaves the old or the new one."""
    with open(path + ".new", "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)

def make_open_file(path):
    """An empty file that whoever a container runs as may write."""
    make_folder(os.path.dirname(path))
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o666)

def take_bytes(path, limit, empty):
    """The beginning of what a container has written to a file; empty: then empty it."""
    with open(path, "rb+") as file:
        words = file.read(limit)
        if empty:
            file.truncate(0)
    return words

def write_in_place(path, text, create=False):
    """Change a file that is mounted into a container, which must stay the same inode: one write,
    padded with newlines so that it never shrinks and no reader sees half of it. Unless create, it
    must be there."""
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        data, size = text.encode(), os.fstat(descriptor).st_size
        if size > max(FILE_BYTES, len(data)):           # by the container's own doing
            size = 0
            os.ftruncate(descriptor, size)
        if os.pread(descriptor, size, 0).rstrip(b"\n") != data.rstrip(b"\n"):
            os.pwrite(descriptor, data.ljust(size, b"\n"), 0)
    finally:
        os.close(descriptor)

def remove_tree(path):
    """Remove a folder and all below it, however deep a container has made it. Raises OSError."""
    run_checked("rm", "-rf", "--one-file-system", "--", path)

def write_version(folder, files, group):
    """The files of one version of project_files(), in a new folder."""
    os.mkdir(folder, 0o755)
    for path, (data, mode, *owner) in files.items():
        full = os.path.join(folder, path)
        make_folder(os.path.dirname(full), 0o755)
        with open(full, "wb") as file:
            os.fchown(file.fileno(), *(owner or [-1]), -1 if group is None else group)
            os.fchmod(file.fileno(), mode if group is None else mode | 0o440)
            file.write(data)

def project_files(folder, files, group=None):
    """Make a folder show exactly these files, {path: (bytes, mode[, owner])}, all at once for its
    readers, as the kubelet's AtomicWriter does: files live in a folder of their own, "..data"
    points to it, each name points through "..data". Unchanged files are left alone. Raises
    ConfigError for a path that leads elsewhere."""
    odd = [path for path in files if path[:2] == ".." or not fits("path", path)]
    if odd:
        raise ConfigError(f"invalid path {odd[0]}: {form_text('path')}")
    make_folder(folder, 0o755)
    told = [[path, base64.b64encode(data).decode(), *more, group]
            for path, (data, *more) in sorted(files.items())]
    target = "..k2d-" + hashlib.sha256(dumps(told)).hexdigest()[:16]
    present = os.path.join(folder, "..data")
    before = os.readlink(present) if os.path.islink(present) else None
    if before == target:
        return
    remove_tree(os.path.join(folder, target))
    write_version(os.path.join(folder, target), files, group)
    if os.path.lexists(present + "_tmp"):                    # left by a kill just here
        os.unlink(present + "_tmp")
    os.symlink(target, present + "_tmp")
    os.replace(present + "_tmp", present)
    link_names(folder, {path.split("/")[0] for path in files})
    if before:
        remove_tree(os.path.join(folder, before))

def link_names(folder, names):
    """Have each of the names in a folder point through "..data", and no others."""
    for name in names | set(os.listdir(folder)):
        full = os.path.join(folder, name)
        if name not in names and not name.startswith("..") and os.path.islink(full):
            os.unlink(full)
        elif name in names and not os.path.lexists(full):
            os.symlink(os.path.join("..data", name), full)

def set_group(folder, group, only_if_root_differs=False):
    """Give a folder and all below it to a group, through no symlink (SetVolumeOwnership)."""
    here = os.stat(folder)
    if only_if_root_differs and here.st_gid == group and here.st_mode & 0o2770 == 0o2770:
        return
    for _, _, names, parent in os.fwalk(folder, topdown=False):
        for name in (*names, "."):  # the folder last: then a pass cut off begins anew
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
            except FileNotFoundError:   # who else uses the volume has removed it
                continue
            try:
                mode, path = os.fstat(fd).st_mode, f"/proc/self/fd/{fd}"
                if not stat.S_ISLNK(mode):
                    os.chown(path, -1, group)
                    os.chmod(path, stat.S_IMODE(mode) | (0o2770 if stat.S_ISDIR(mode) else 0o660))
            finally:
                os.close(fd)

def make_scratch(folder, mode, group):
    """An empty folder with this mode and group, unless it is there."""
    if os.path.isdir(folder):
        return
    make_folder(folder + ".new")
    os.chown(folder + ".new", -1, -1 if group is None else group)
    os.chmod(folder + ".new", mode)                             # makedirs subtracts our umask
    os.rename(folder + ".new", folder)

HOST_PATH_TYPES = {"Directory": stat.S_ISDIR, "File": stat.S_ISREG, "Socket": stat.S_ISSOCK,
                   "CharDevice": stat.S_ISCHR, "BlockDevice": stat.S_ISBLK}

def prepare_host_path(source):
    """Check or make what a hostPath names; returns the path. Raises ConfigError, OSError."""
    path, type_ = source["path"], source.get("type", "")
    if type_ in ("", "DirectoryOrCreate") and not os.path.lexists(path):
        make_folder(path, 0o755)
    elif type_ == "FileOrCreate" and not os.path.lexists(path):
        make_folder(os.path.dirname(path), 0o755)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    wanted = type_.replace("OrCreate", "")
    if wanted and not (os.path.exists(path) and HOST_PATH_TYPES[wanted](os.stat(path).st_mode)):
        raise ConfigError(f"hostPath type check failed: {path} is not a {wanted.lower()}")
    return path

def open_to_all(path):
    """Let whoever a container runs as write in a folder. Raises OSError."""
    os.chmod(path, 0o777)

def device_nodes(patterns):
    """The paths of the devices that are there, of patterns of the shell's with commas between."""
    import glob
    return sorted(path for pattern in patterns.split(",") for path in glob.glob(pattern))

def free_memory():
    """Bytes of memory that nobody uses."""
    found = re.search(r"MemAvailable:\s+(\d+)", read_text("/proc/meminfo"))
    return int(found[1]) << 10

def free_disk(path):
    """(bytes, share of all) that are free where a path is, or would be."""
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize, disk.f_bavail / (disk.f_blocks or 1)

def disk_bytes(path):
    """The size of the file system that a path is on."""
    disk = os.statvfs(path)
    return disk.f_blocks * disk.f_frsize

def open_beneath(root, path):
    """A descriptor (O_PATH) of what stands at a path below root, reached through no symlink; what
    is missing is made a folder, with the mode of root. Raises OSError."""
    at, mode = os.open(root, os.O_PATH | os.O_DIRECTORY), stat.S_IMODE(os.stat(root).st_mode)
    for step in [step for step in path.split("/") if step not in ("", ".")]:
        try:
            try:
                below = os.open(step, os.O_PATH | os.O_NOFOLLOW, dir_fd=at)
            except FileNotFoundError:
                os.mkdir(step, dir_fd=at)
                below = os.open(step, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=at)
                os.chmod(f"/proc/self/fd/{below}", mode)        # our umask took from it
        finally:
            os.close(at)
        at = below
        if step == ".." or stat.S_ISLNK(os.fstat(at).st_mode):
            os.close(at)
            raise OSError(f"{step} leads elsewhere")
    return at

def stat_beneath(root, path):
    """The os.stat() of what open_beneath() finds. Raises OSError."""
    descriptor = open_beneath(root, path)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)

# -- mounts: they live in /run/k2d/UID, outlive k2d, and are gone after a reboot
def run_folder(uid, *parts):
    return os.path.join("/run/k2d", uid, *parts)

def host_root():
    """Where the host's files are seen as the engine sees them: k2d may live in a mount namespace
    of its own, such as that of a service, in which a mount would be invisible to containers."""
    try:
        return ("" if os.stat("/proc/1/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
                else "/proc/1/root")
    except PermissionError:     # process 1 is out of reach: no better place than here
        return ""

def mount_on_host(script, *args):
    """Run a shell script where mounts are seen by containers. Raises OSError with what it said."""
    code, said = run(*(["nsenter", "-t", "1", "-m", "--"] if host_root() else []), "sh", "-ec",
                     script, "sh", *args)
    if code:
        raise OSError(said.decode("utf-8", "replace").strip())

MOUNT_MEMORY = 'mkdir -m 700 -p /run/k2d; mkdir -p "$1"; mount -t tmpfs -o "$2" k2d "$1"'
HOLD = ('umount -l "$2" || rmdir "$2" || rm -f "$2" || :; mkdir -m 700 -p /run/k2d; mkdir -p '
        '"${2%/*}"; if [ -d "$1" ]; then mkdir -p "$2"; else : >> "$2"; fi; mount --bind "$1" '
        '"$2"')
# What is held may lie on the same file system as /run: after an umount that failed, nothing may be
# removed in it.
RELEASE = ('cd "$1" || exit 0; for each in volumes/* held/*; do umount -l "$each" || :; done; for '
           'each in held/*; do rmdir "$each" || rm -f "$each"; done; rm -rf --one-file-system '
           'volumes; rmdir held "$1" || :')

def hold(path, wanted, target):
    """Have a bind mount of a path at target; wanted: the os.stat() of what must be there."""
    place = host_root() + target
    is_held = lambda: os.path.lexists(place) and os.path.samestat(os.lstat(place), wanted)
    if not is_held():
        mount_on_host(HOLD, path, target)
    if not is_held():                   # somebody was quick to put something else in its place
        mount_on_host('umount -l "$1"', target)
        raise OSError(f"{path} has changed while it was mounted")
    return target

def mount_memory(folder, options):
    """Have a tmpfs at a folder. Raises OSError."""
    if not os.path.isdir(host_root() + folder):
        mount_on_host(MOUNT_MEMORY, folder, options)

def remove_mounts(uid):
    """Take away what is mounted for a pod. Raises OSError."""
    if os.path.isdir(host_root() + run_folder(uid)):
        mount_on_host(RELEASE, run_folder(uid))

# -- processes

class Process:
    """A process by its pid now: whoever gets its number later is not hit. Raises OSError."""
    def __init__(self, pid):
        self.fd = os.pidfd_open(pid)

    def send(self, number):
        """Send it a signal; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)

    def close(self):
        """Give the descriptor back."""
        os.close(self.fd)

def signal_number(name):
    """"SIGUSR1" -> its number; TERM for a name that is none."""
    return getattr(signal, name or "SIGTERM", signal.SIGTERM)

def clock_alarm():
    """A descriptor that is readable once the clock was set, which no other timer tells
    (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET). Raises OSError."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.timerfd_create(0, os.O_NONBLOCK | os.O_CLOEXEC)
    never = (ctypes.c_long * 4)(0, 0, 2 ** 31 - 1, 0)
    if fd < 0 or libc.timerfd_settime(fd, 3, never, None):
        raise OSError(ctypes.get_errno(), "timerfd: " + os.strerror(ctypes.get_errno()))
    return fd

def give_back_memory():
    """Have malloc give to the system what it holds and nobody uses, which else a burst leaves for
    life (malloc_trim(3)); not where the C library or Python has none of it."""
    with suppress(ImportError, AttributeError):
        import ctypes
        ctypes.CDLL(None).malloc_trim(0)

def host_addresses(name, family):
    """The addresses of a family that the host's own resolver has for a name. Blocks."""
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):                             # no such name, or none to ask
        return []
    return sorted({address[0] for *_, address in found})

# -- keys and certificates, by the openssl program: files 0600, and nothing is ever logged
OPENSSL_CONFIG = """
[req] ; distinguished_name = dn ; [dn]
[ca] ; default_ca = k2d
[k2d] ; database = {folder}/index ; new_certs_dir = {folder} ; rand_serial = yes
default_md = sha256 ; policy = any ; unique_subject = no
[any] ; commonName = supplied ; organizationName = optional
[root] ; basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign,digitalSignature ; subjectKeyIdentifier = hash
[leaf] ; basicConstraints = critical,CA:FALSE ; keyUsage = critical,digitalSignature
extendedKeyUsage = {usage}Auth ; subjectKeyIdentifier = hash ; authorityKeyIdentifier = keyid
subjectAltName = {names}
""".replace(" ; ", "\n")
# a clock may be years behind
VALID = ("-startdate", "20240101000000Z", "-enddate", "20491231235959Z")
def random_bytes(count):
    """Bytes that nobody can foretell."""
    return os.urandom(count)

def make_certificate(folder, name, extensions, subject, names, *issuer, usage="server"):
    """Make NAME.key, for P-256 (an RSA handshake takes seconds on a small ARM), and NAME.crt,
    signed by the CA in the folder, which is for root alone; nothing else is left there. usage:
    server or client. Raises OSError."""
    file = lambda end: os.path.join(folder, end)
    key, request, config, made = (file(name + end) for end in (".key", ".csr", ".cnf", ".pem"))
    write_file(config, OPENSSL_CONFIG.format(folder=folder, names=names, usage=usage).encode())
    write_file(file("index"), b"")
    run_checked("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    run_checked("openssl", "req", "-new", "-config", config, "-key", key, "-subj", subject,
                "-out", request)
    run_checked("openssl", "ca", "-batch", "-notext", "-config", config, "-extensions", extensions,
                "-keyfile", file("ca.key"), *issuer, "-in", request, "-out", made, *VALID)
    os.replace(made, file(name + ".crt"))
    for entry in os.listdir(folder):
        if not re.fullmatch(r"(ca|server|sa|client)\.(key|crt)|server\.names", entry):
            os.unlink(file(entry))
    keep_private(folder)
    os.sync()   # what openssl wrote, before anybody says that it is there

# -- connections to elsewhere
def dial(host, port, deadline):
    """A connection by TCP until a deadline, monotonic, or None. Raises OSError."""
    left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
    return socket.create_connection((host, port), left)

def listening_ports():
    """{(protocol, port)} that programs of the host have, on other addresses than loopback."""
    found = set()
    for protocol, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in read_text("/proc/net/" + protocol).splitlines()[1:]:
            _, local, _, its_state = line.split()[:4]
            address, _, port = local.partition(":")
            if its_state == state and address[-2:] != "7F" and address[-8:] != "01000000":
                found.add((protocol[:3].upper(), int(port, 16)))
    return found

KERNEL_UEVENTS = 15         # NETLINK_KOBJECT_UEVENT, which socket does not know
ADDRESS_NEWS = 0x10 | 0x40  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE
def kernel_news(family, groups):
    """A socket on which the kernel tells what happens (netlink(7)). Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
    sock.bind((0, groups))
    sock.setblocking(False)
    return sock

# -- flows that the kernel remembers (linux/netfilter/nfnetlink_conntrack.h)
NETLINK_NETFILTER, UDP = 12, 17
CONNTRACK_GET, CONNTRACK_DELETE, REQUEST, DUMP = 0x101, 0x102, 1, 0x300
TUPLE_ORIG, TUPLE_REPLY, TUPLE_IP, TUPLE_PROTO = 1, 2, 1, 2
IP_SRC, IP_DST, PROTO_NUM, PORT_SRC, PORT_DST = 1, 2, 1, 2, 3

def forget_flows(is_stale):
    """Have the kernel forget the UDP flows, by IPv4, of which is_stale(asked, answering) holds,
    both (address, port). Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.settimeout(5)
        for original, asked, answering in list(udp_flows(sock)):
            if is_stale(asked, answering):
                head = struct.pack("=HH", 4 + len(original), 0x8000 | TUPLE_ORIG)
                sock.send(conntrack_message(CONNTRACK_DELETE, REQUEST, head + original))

def conntrack_message(type_, flags, attributes=b""):
    """The bytes of a request about IPv4 flows."""
    return (struct.pack("=IHHII", 20 + len(attributes), type_, flags, 0, 0) +
            struct.pack("=BBH", socket.AF_INET, 0, 0) + attributes)

def udp_flows(sock):
    """(the bytes that name it, whom it asked, who answers) of each UDP flow."""
    sock.send(conntrack_message(CONNTRACK_GET, REQUEST | DUMP))
    while True:
        data = sock.recv(65536)
        while data:
            size, type_ = struct.unpack_from("=IH", data)
            if type_ >> 8 != CONNTRACK_GET >> 8:                # an error, or the end
                return
            flow = netlink_attributes(data[20:size])
            (protocol, asked), (_, answering) = (
                flow_end(flow[TUPLE_ORIG], IP_DST, PORT_DST),
                flow_end(flow[TUPLE_REPLY], IP_SRC, PORT_SRC))
            if protocol == UDP:
                yield flow[TUPLE_ORIG], asked, answering
            data = data[size + -size % 4:]

def flow_end(tuple_, ip, port):
    """(protocol, (address, port)) of one end in a flow's tuple."""
    parts = netlink_attributes(tuple_)
    addresses, ports = map(netlink_attributes, (parts[TUPLE_IP], parts[TUPLE_PROTO]))
    return ports[PROTO_NUM][0], (socket.inet_ntoa(addresses[ip]),
                                 int.from_bytes(ports.get(port, b""), "big"))

def netlink_attributes(data):
    """{type: value} of the attributes in bytes."""
    found = {}
    while data:
        size, type_ = struct.unpack_from("=HH", data)
        found[type_ & 0x3fff] = data[4:size]
        data = data[size + -size % 4:]
    return found

def is_own_address(ip):
    """Whether an address is this host's: a socket can then be bound to it."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET,
                       socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
            return True
        except OSError:
            return False

def connect_inside(pid, port):
    """A connection to a port of the loopback that a process sees; a server there may listen on
    nothing else. Made in a thread that ends at once, so that none of ours is ever left in that
    network namespace. Raises OSError."""
    found = []
    def connect():
        """In that thread: the connection, or the error, as the one item of found."""
        try:
            with open(f"/proc/{pid}/ns/net") as namespace:
                if hasattr(os, "setns"):                        # Python 3.12
                    os.setns(namespace.fileno(), os.CLONE_NEWNET)
                else:
                    import ctypes
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000):
                        raise OSError(ctypes.get_errno(),
                                      "setns: " + os.strerror(ctypes.get_errno()))
            try:
                found.append(socket.create_connection(("127.0.0.1", port), 5))
            except ConnectionRefusedError as error:
                found.append(error)
                found[0] = socket.create_connection(("::1", port), 5)
        except OSError as error:
            found.append(error)                                 # the first one counts
    thread = threading.Thread(target=connect, name="connect", daemon=True)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]

def pieces(sock, deadline):
    """What a socket receives until its end. Raises OSError, and Timeout at the deadline."""
    while deadline is None or time.monotonic() < deadline:
        sock.settimeout(deadline and max(deadline - time.monotonic(), 0.001))
        got = sock.recv(1 << 18)
        if not got:
            return
        yield got
    raise Timeout("timed out")

def drain(sock, data, deadline=None):
    """These bytes and what a socket receives until its end. Raises OSError, and Told for more than
    anybody should have to say."""
    parts, size = [data], len(data)
    for got in pieces(sock, deadline):
        parts.append(got)
        size += len(got)
        must(size <= ANSWER_BYTES, f"an answer of more than {ANSWER_BYTES >> 20} MiB")
    return b"".join(parts)

def unblocked(call, argument):
    """What a call of a socket's returns; None where it would have to wait."""
    try:
        return call(argument)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None

def send(sock, data):
    """Send of a bytearray what goes now. Raises OSError."""
    while data:
        sent = unblocked(sock.send, data)
        if sent is None:
            return
        del data[:sent]

# == 8. Store [host] =========================================================================
# Objects rest in memory as compact JSON; what must survive a power cut is in SQLite too, synced
# before the answer. The Store knows nothing of sockets: it tells its listeners what changed.
# on_disk: hash of what is there of it, None if nothing is
Row = namedtuple("Row", "raw version labels on_disk")
# type: a watch's; old: the Row before or None
Change = namedtuple("Change", "version kind type key raw labels old")

def durable(kind, obj):
    """The part of an object that goes to disk, None if no part does. What k2d computes again at
    each start does not."""
    if kind.kept == "memory":
        return None
    if kind.kept == "disk" or kind.kept == "pod" and has_ended(obj):
        return obj
    status = obj.get("status", {})
    kept = pick(status, KEPT_STATUS.get(kind.id, ()))
    gates = {gate["conditionType"] for gate in dig(obj, "spec.readinessGates", ())}
    told = [each for each in status.get("conditions", ()) if each["type"] in gates]
    return {**obj, "status": {**kept, **filled(conditions=told or kept.get("conditions"))}}

KEPT_STATUS = {  # kind -> what of its status cannot be computed again
    "Pod": ("podIP", "podIPs", "startTime"), "StatefulSet": ("currentRevision",),
    "Node": ("capacity",),
    "Job": ("conditions", "startTime", "completionTime", "succeeded", "failed", "completedIndexes",
            "failedIndexes"),
    "CronJob": ("lastScheduleTime", "lastSuccessfulTime")}

def is_same(raw, other):
    """Whether two texts are one object; the order of its fields tells nothing."""
    return raw == other or len(raw) == len(other) and json.loads(raw) == json.loads(other)

TABLES = """
PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
PRAGMA cache_size=-256;
CREATE TABLE IF NOT EXISTS objects (kind TEXT, namespace TEXT, name TEXT, object TEXT,
  PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""

class Store:
    """Objects by kind, (namespace, name); transactions; versions; the ring of recent changes. Any
    thread may call any method. A transaction belongs to one thread at a time; readers never wait
    for it, nor for the disk."""
    def __init__(self, path, most=1 << 30):
        """most: how many bytes of objects it takes."""
        self.most, self.bytes = most, 0
        # those of custom resources come with their first object
        self.rows = {kind.id: {} for kind in KINDS}
        self.writing = threading.RLock()    # held for a whole transaction, disk included
        # held while rows, version and ring change together; never across I/O
        self.view = threading.Lock()
        self.writer, self.pending, self.listeners = None, {}, []
        self.ring, self.ring_bytes, self.watches = deque(), 0, set()
        self.db = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
        os.chmod(path, 0o600)
        try:
            self.db.executescript(TABLES)
            start = int(self.fact("starts") or 0) + 1
            self.set_fact("starts", str(start))
        except sqlite3.OperationalError as error:
            raise SystemExit(f"k2d: {path}: {error}; does another k2d use this data path?")
        # monotonic without a clock; what is older than floor is gone
        self.version = self.floor = start << 32
        self.buried = {name[5:] for name, _ in self.facts("gone/")}
        found = self.db.execute("SELECT kind, namespace, name, object FROM objects")
        for kind, namespace, name, text in found:
            if kind not in KIND or KIND[kind].kept != "empty":     # of an older k2d: not shown
                self.load(kind, (namespace, name), json.loads(text))

    def copy(self, path):
        """Leave a copy of the database as it is now in a file; "ok". Raises sqlite3.Error."""
        with self.writing:
            if os.path.exists(path):
                os.unlink(path)
            self.db.execute("VACUUM INTO ?", (path,))
        return "ok"

    def load(self, kind, key, obj):
        """Take an object from the disk; where its status is computed it gets a new version."""
        meta, on_disk = obj["metadata"], hash(self.unversioned(dumps(obj)))
        if kind in KIND and KIND[kind].kept != "disk":
            self.version += 1
            meta["resourceVersion"] = str(self.version)
        row = Row(dumps(obj), int(meta["resourceVersion"]), meta.get("labels"), on_disk)
        self.rows.setdefault(kind, {})[key] = row
        self.bytes += len(row.raw)

    @staticmethod
    def unversioned(raw):
        return re.sub(rb'"resourceVersion":"\d*",?', b"", raw, count=1)

    def get(self, kind, namespace, name):
        """The object as a dict of the caller's own, or None."""
        row = self.row(kind, (namespace, name))
        return json.loads(row.raw) if row else None

    def row(self, kind, key):
        if self.writer == threading.get_ident() and (kind, key) in self.pending:
            return self.pending[kind, key]
        return self.rows.get(kind, {}).get(key)

    def present(self, kind):
        """{key: Row} as this thread sees it; None for what its transaction has removed."""
        rows = dict(self.rows.get(kind, ()))
        if self.writer == threading.get_ident():
            rows.update({key: row for (other, key), row in self.pending.items() if other == kind})
        return rows

    def keys(self, kind, namespace=None):
        """Sorted keys of a kind, or of its objects in one namespace."""
        rows = self.present(kind).items()
        return sorted(key for key, row in rows if row and namespace in (None, key[0]))


    def list(self, kind, namespace=None, selector=None, holding=b""):
        """Objects as dicts; selector: Requirements on labels; holding: bytes that must occur,
        which spares a parse."""
        def is_asked_for(key, row):
            return (row and namespace in (None, key[0]) and holding in row.raw and
                    (selector is None or selects(selector, row.labels)))
        rows = self.present(kind).items()
        for key in sorted(key for key, row in rows if is_asked_for(key, row)):
            row = self.row(kind, key)                       # our caller may have changed it since
            if row:
                yield json.loads(row.raw)



    def snapshot(self, kind, namespace, watch=None):
        """(version, [(key, Row)]) at one moment; a watch given is registered then."""
        with self.view:
            every, version = self.rows.get(kind, {}).items(), self.version
            rows = [(key, row) for key, row in every if namespace is None or key[0] == namespace]
            if watch:
                self.watches.add(watch)
        return version, sorted(rows)

    def since(self, version, watch):
        """Register a watch; returns (version now, the changes after version). Raises 410."""
        with self.view:
            if version < self.floor:
                raise ApiError(410, "Expired",
                               f"too old resource version: {version} ({self.version})")
            self.watches.add(watch)
            return self.version, [change for change in self.ring if change.version > version]

    def fact(self, name):
        """A small text kept beside the objects, or None."""
        with self.writing:
            found = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return found and found[0]

    def set_fact(self, name, value):
        with self.writing:
            self.db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def facts(self, beginning):
        """(name, value) of those that begin so, in the order of their values."""
        with self.writing:
            return self.db.execute("SELECT name, value FROM facts WHERE substr(name, 1, ?) = ? "
                                   "ORDER BY value", (len(beginning), beginning)).fetchall()

    def drop_fact(self, name):
        with self.writing:
            self.db.execute("DELETE FROM facts WHERE name = ?", (name,))

    def unwatch(self, watch):
        with self.view:
            self.watches.discard(watch)

    @contextmanager
    def transaction(self):
        """All puts and removes inside become visible, and durable, together or not at all. Nests
        within one thread."""
        with self.writing:
            if self.writer is not None:
                yield self
                return
            self.writer, self.pending, self.changes = threading.get_ident(), {}, []
            self.statements = []
            self.burials, self.next_version = set(), self.version
            try:
                yield self
                if self.changes:
                    self.commit()
            finally:
                self.writer, self.pending = None, {}

    def put(self, obj, on_disk=None):
        """Create or replace an object inside a transaction; returns it with its version, the same
        if nothing changed. on_disk: False for one that is derived from others; None: as before,
        and a new one is. Raises ApiError 413."""
        kind, key = home_of(obj), key_of(obj)
        must(kind and key[1] and bool(key[0]) == kind.namespaced, f"{obj['kind']} {key}: no place")
        old = self.row(kind.id, key)
        was_on_disk = bool(old) and old.on_disk is not None
        obj["metadata"]["resourceVersion"] = str(old.version if old else 0)
        meta = obj["metadata"] = {name: obj["metadata"][name]
                                  for name in message_of("ObjectMeta").by_name
                                  if obj["metadata"].get(name) not in (None, {}, [])}
        if old and is_same(dumps(obj), old.raw) and on_disk in (None, was_on_disk):
            return obj
        self.next_version += 1
        meta["resourceVersion"] = str(self.next_version)
        raw = dumps(obj)
        self.check_room(kind, key, len(raw), len(old.raw) if old else 0)
        if on_disk is None:
            on_disk = was_on_disk or not old
        hash_ = self.to_disk(kind, key, obj if on_disk else None, old)
        row = self.pending[kind.id, key] = Row(raw, self.next_version, meta.get("labels"), hash_)
        self.changes.append(Change(row.version, kind, "MODIFIED" if old else "ADDED", key, raw,
                                   row.labels, old))
        return obj

    def check_room(self, kind, key, size, before):
        """Raise ApiError 413 for too large an object, 507 where there is no room for all; the last
        of it is for small ones: what we write ourselves."""
        most = SMALL_BYTES if kind.kept == "memory" else OBJECT_BYTES
        if size > most:
            raise ApiError(413, "RequestEntityTooLarge", f"{kind.name} {'/'.join(key)} would have "
                           f"{size} bytes; {most} are allowed")
        room = self.most - self.bytes - (self.most // 8 if size > SMALL_BYTES // 4 else 0)
        if size - before > max(room, 0):
            raise ApiError(507, "InsufficientStorage", f"all objects have {self.bytes} bytes, of "
                           f"{self.most} that k2d keeps: delete some")

    def to_disk(self, kind, key, obj, old):
        """Have the transaction write an object, or what of it is durable, unless that is there;
        None: remove it. Returns the hash of what is there then."""
        stored, before = durable(kind, obj) if obj else None, old.on_disk if old else None
        if stored is None:
            if before is not None:
                self.statements.append(
                    ("DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?",
                     (kind.id, *key)))
            return None
        text = dumps(stored)
        wanted = hash(self.unversioned(text))
        if before != wanted:
            self.statements.append(("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)",
                                    (kind.id, *key, text.decode())))
        return wanted

    def remove(self, obj):
        """Remove an object inside a transaction; returns it as its watchers see it last."""
        kind, key = home_of(obj), key_of(obj)
        old = self.row(kind.id, key)
        if old:
            self.next_version += 1
            obj["metadata"]["resourceVersion"] = str(self.next_version)
            self.to_disk(kind, key, None, old)
            self.pending[kind.id, key] = None
            self.changes.append(Change(self.next_version, kind, "DELETED", key, dumps(obj),
                                       old.labels, old))
        return obj

    def bury(self, uid):
        """Remember that a pod removed by force may have left containers behind."""
        self.statements.append(("INSERT OR REPLACE INTO facts VALUES (?, '')", ("gone/" + uid,)))
        self.burials.add(uid)

    def unbury(self, uid):
        with self.writing:
            self.db.execute("DELETE FROM facts WHERE name = ?", ("gone/" + uid,))
            self.buried.discard(uid)

    def commit(self):
        self.write()
        with self.view:
            for (kind, key), row in self.pending.items():
                before = self.rows.get(kind, {}).get(key)
                self.bytes += len(row.raw if row else b"") - len(before.raw if before else b"")
                if row:
                    self.rows.setdefault(kind, {})[key] = row
                else:
                    self.rows[kind].pop(key, None)
                    if not self.rows[kind] and "." in kind:     # of a definition that may go, too
                        del self.rows[kind]
            self.version = self.next_version
            self.buried |= self.burials
            self.ring.extend(self.changes)
            self.ring_bytes += sum(len(change.raw) for change in self.changes)
            while len(self.ring) > RING_EVENTS or self.ring_bytes > RING_BYTES:
                gone = self.ring.popleft()
                self.floor = gone.version
                self.ring_bytes -= len(gone.raw)
            kinds = {change.kind.id for change in self.changes}
            watches = [watch for watch in self.watches if watch.kind.id in kinds]
        for listener in self.listeners:     # what is stored is stored, whoever stumbles over it
            guarded(listener, self.changes, watches)

    def write(self):
        """The transaction's statements, synced, or none of them. Raises ApiError 500."""
        try:
            if self.statements:
                self.db.execute("BEGIN")
                for statement, values in self.statements:
                    self.db.execute(statement, values)
                self.db.execute("COMMIT")
        except sqlite3.Error as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise ApiError(500, "InternalError", f"the data path cannot be written: {error}")

    def close(self):
        """Close the file, unless a transaction does not come to its end: none of it is there."""
        if self.writing.acquire(timeout=3):
            self.db.close()

# == 9. Connections [host] ===================================================================
# Sockets. The hub waits for all of them in one thread without ever blocking; a request, once its
# head is complete, is lent a thread, and its connection comes back to the hub when the answer is
# out.
HEAD_END = re.compile(rb"\r?\n\r?\n")
def server_context(certificate, key, authority):
    """One TLS context for all connections; clients may show a certificate of our authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])                # Go's clients offer h2 first
    context.load_cert_chain(certificate, key)
    return context

class WorkQueue:
    """Keys to work on, each once however often it was added, by at most so many threads that live
    only while there is work. A key is worked on by one thread at a time. Failures come back after
    a growing pause."""
    def __init__(self, name, work, threads, hub, tell=lambda key, problem: None):
        """tell(key, problem): called with what went wrong, besides the log."""
        self.name, self.work, self.threads, self.hub = name, work, threads, hub
        self.tell = tell
        self.lock = threading.Lock()               # guards what follows; never held while working
        self.waiting, self.busy, self.due, self.failures = {}, set(), {}, {}
        self.members, self.closed = set(), False   # the idents of its threads

    def add(self, key):
        with self.lock:
            self.waiting[key] = None
        self.allow(0)

    def allow(self, more):
        """Let so many more threads work; start one if there is something for it."""
        with self.lock:
            self.threads += more
            wanted = min(self.threads, len(self.waiting) + len(self.busy))
            if len(self.members) < wanted and not self.closed:
                thread = threading.Thread(target=self.loop, name=self.name, daemon=True)
                try:
                    thread.start()
                    self.members.add(thread.ident)
                except RuntimeError:                # no thread to be had now
                    self.hub.after(1, self.allow, 0)

    def is_own_thread(self):
        return threading.get_ident() in self.members

    def add_after(self, seconds, key):
        """Add a key later, unless it comes up sooner anyway."""
        with self.lock:
            before = self.due.get(key)
            if before and before[0] <= time.monotonic() + seconds:
                return
            self.due[key] = self.hub.after(max(0, seconds), self.add_due, key)
        if before:
            self.hub.cancel(before)

    def add_due(self, key):
        with self.lock:
            self.due.pop(key, None)
        self.add(key)

    def forget(self, key):
        """What a key was for is no more: it need not come up later."""
        with self.lock:
            timer = self.due.pop(key, None)
        if timer:
            self.hub.cancel(timer)

    def take(self):
        """The next key, None if there is none: then its thread has left."""
        with self.lock:
            # in the order they came
            key = next((key for key in self.waiting if key not in self.busy), None)
            if key is None or self.closed:
                self.members.discard(threading.get_ident())
                return None
            del self.waiting[key]
            self.busy.add(key)
            return key

    def loop(self):
        for key in iter(self.take, None):
            problem = self.try_work(key)
            failures = self.failures.pop(key, 0) + 1
            if problem:
                self.failures[key] = failures
                log(f"{' '.join(map(str, key))}: {problem}")
                guarded(self.tell, key, problem.strip().split("\n")[-1])
                self.add_after(min(0.5 * 2 ** min(failures, 8), 60), key)
            with self.lock:
                self.busy.discard(key)

    def try_work(self, key):
        """Work on a key; returns what went wrong, which must not stop the others."""
        try:
            self.work(key)
        except Exception as error:
            return fault_text(error)

    def close(self):
        """Take no more work and wait, not long, for what is under way."""
        self.closed = True
        deadline = time.monotonic() + 3
        while self.members and time.monotonic() < deadline:
            time.sleep(0.02)

class Connection:
    """One client's TLS connection. It has one owner at a time: the hub, or the thread of its
    present request."""
    __slots__ = ("sock", "state", "buffer", "deadline", "watch", "mask", "timer")

    def __init__(self, sock):
        self.sock, self.state, self.buffer = sock, "handshake", b""
        self.deadline, self.watch = None, None
        self.mask, self.timer = 0, None

class DnsClient:
    """Who asks DNS by TCP: each message has its length before it (RFC 7766)."""
    def __init__(self, sock, selector, answer_to):
        self.sock, self.selector, self.answer_to, self.buffer = sock, selector, answer_to, b""
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, self.on_data)

    def on_data(self, sock, mask):
        """Answer what is complete."""
        try:
            got = unblocked(sock.recv, 4096)
        except OSError:
            got = b""
        self.buffer += got or b""
        while 2 < len(self.buffer) >= 2 + int.from_bytes(self.buffer[:2], "big"):
            end = 2 + int.from_bytes(self.buffer[:2], "big")
            query, self.buffer = self.buffer[2:end], self.buffer[end:]
            self.answer_to(query, 65535, self.reply)
        if got == b"" or len(self.buffer) > 8192:
            self.close()

    def reply(self, found):
        """Send an answer; who does not take it at once has to ask anew."""
        try:
            self.sock.sendall(len(found or b"").to_bytes(2, "big") + (found or b""))
        except OSError:
            self.close()

    def close(self):
        """Hang up, unless that is done."""
        if self.sock.fileno() >= 0:
            self.selector.unregister(self.sock)
            self.sock.close()

class Hub:
    """The one thread that waits: connections between requests, watches, timers, DNS, the engine's
    events. Without a timer due it sleeps until something happens. after() and call() are for any
    thread; all else is the hub's own."""
    def __init__(self, store):
        self.store, self.selector = store, selectors.DefaultSelector()
        # lock: guards what is set here
        self.timers, self.order, self.cancelled, self.unsent = [], 0, 0, 0
        self.lock = threading.Lock()
        self.ears, self.mouth = socket.socketpair()
        self.ears.setblocking(False)
        self.mouth.setblocking(False)
        self.selector.register(self.ears, selectors.EVENT_READ, lambda ears, mask: ears.recv(4096))
        self.requests = WorkQueue("request", self.serve, REQUEST_THREADS, self)
        self.connections, self.parked = {}, {}      # all; those between requests; oldest first
        self.running, self.bookmarks_due, self.clock = True, False, None
        self.tidying = False
        self.ident = 0                          # of its thread

    # -- for any thread
    def call(self, function, *args):
        """Have the hub call function(*args) soon, after what it was told to call before."""
        self.after(0, function, *args)

    def after(self, seconds, function, *args):
        """Have the hub call function(*args) in so many seconds; returns a timer for cancel()."""
        with self.lock:
            self.order += 1
            timer = [time.monotonic() + seconds, self.order, function, args]
            heapq.heappush(self.timers, timer)
            if self.timers[0] is timer and threading.get_ident() != self.ident:
                self.mouth.send(b".")
        return timer

    def cancel(self, timer):
        """What a timer was for is no more. It keeps its place until there are many such."""
        with self.lock:
            timer[2:] = None, ()
            self.cancelled += 1
            if self.cancelled > 100 + len(self.timers) // 2:
                self.timers, self.cancelled = [each for each in self.timers if each[2]], 0
                heapq.heapify(self.timers)

    def tidy_soon(self):
        """A connection has ended: its memory goes back to the system, with that of others, and of
        what it had us do."""
        if not self.tidying:
            self.tidying = True
            self.after(TIDY_S, self.tidy)

    def tidy(self):
        self.tidying = False
        give_back_memory()

    def on_clock(self, function, *args):
        """Have function(*args) called each time that the clock is set; the first caller's, for
        good. A hub's thread; raises OSError, ImportError, once."""
        if self.clock is not None:
            return
        def on_set(fd, mask):
            """The news is the error, ECANCELED."""
            with suppress(OSError):
                os.read(fd, 8)
            function(*args)
        self.clock = -1
        self.clock = clock_alarm()
        self.selector.register(self.clock, selectors.EVENT_READ, on_set)

    def on_news(self, sock, function):
        """Have function() called, a moment later, when something has come on a socket, whatever it
        is. A hub's thread."""
        due = []
        def tell():
            due.clear()
            function()
        def on_data(sock, mask):
            with suppress(OSError):     # the kernel had more to say than there was room for
                while unblocked(sock.recv, 65536):
                    continue
            if not due:
                due.append(self.after(1, tell))
        self.selector.register(sock, selectors.EVENT_READ, on_data)

    def run(self):
        self.ident = threading.get_ident()
        while self.running:
            with self.lock:
                # epoll counts in milliseconds of 32 bits: a timer further away is looked at again
                # in between
                wait = (min(max(0, self.timers[0][0] - time.monotonic()), 86400) if self.timers
                        else None)
            for key, mask in self.selector.select(wait):
                guarded(key.data, key.fileobj, mask)
            for _, _, function, args in self.take_due():
                guarded(function, *args)

    def take_due(self):
        """The timers that are due."""
        due, begun = [], time.monotonic()
        with self.lock:
            while self.timers and self.timers[0][0] <= begun:
                due.append(heapq.heappop(self.timers))
        return [timer for timer in due if timer[2]]

    # -- listening and handshakes
    def listen(self, port, context, handle):
        """Serve https; handle(connection) runs in a request thread. Raises OSError."""
        # False without IPv6
        self.context, self.handle, dual = context, handle, socket.has_dualstack_ipv6()
        listener = socket.create_server(("", port),
                                        family=socket.AF_INET6 if dual else socket.AF_INET,
                                        backlog=128, dualstack_ipv6=dual)
        listener.setblocking(False)
        # the connections inherit all three
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 120)
        self.selector.register(listener, selectors.EVENT_READ, self.on_accept)

    def on_accept(self, listener, mask):
        for _ in range(16):
            try:
                raw, _ = listener.accept()
                raw.setblocking(False)
                connection = Connection(self.context.wrap_socket(raw, server_side=True,
                                                                 do_handshake_on_connect=False))
            except OSError as error:    # nobody more now, or one who has gone already
                if error.errno in (EMFILE, ENFILE, ENOMEM):     # readable it stays: not now
                    self.selector.unregister(listener)
                    self.after(1, self.selector.register, listener, mask, self.on_accept)
                return
            self.connections[connection] = None
            self.expect(connection, HEAD_SECONDS)
            if len(self.connections) > CONNECTIONS:
                self.close(self.least_wanted())
            self.on_ready(connection)

    def least_wanted(self):
        """The connection to close where there are too many: the one idle for longest, or the
        first of many that do not come to the end of their handshake, or of a head."""
        strangers = [each for each in self.connections if each.state in ("handshake", "head") and
                     each not in self.parked]
        is_flood = len(strangers) > CONNECTIONS // 4
        return strangers[0] if is_flood or not self.parked else next(iter(self.parked))

    def expect(self, connection, seconds):
        """Close the connection unless it gets on before the deadline."""
        connection.deadline = time.monotonic() + seconds
        if not connection.timer:
            connection.timer = self.after(seconds, self.on_deadline, connection)

    def on_deadline(self, connection):
        """One timer a connection: where the deadline has moved on, wait again."""
        connection.timer = None
        left = connection.deadline and connection.deadline - time.monotonic()
        if left and left > 0:
            self.expect(connection, left)
        elif left is not None:
            self.close(connection)

    def want(self, connection, mask):
        """Wait for the socket to become readable or writable, or with 0 for nothing."""
        if connection.mask and connection.mask != mask:
            self.selector.unregister(connection.sock)
        if mask and connection.mask != mask:
            self.selector.register(connection.sock, mask,
                                   lambda sock, ready: self.on_ready(connection))
        connection.mask = mask

    def forget(self, connection):
        self.want(connection, 0)
        self.parked.pop(connection, None)
        connection.deadline = None

    def close(self, connection):
        self.forget(connection)
        self.connections.pop(connection, None)
        connection.state = "closed"
        self.tidy_soon()
        if connection.timer:
            self.cancel(connection.timer)       # which would keep it
        if connection.watch:
            self.store.unwatch(connection.watch)
            self.cancel(connection.watch.timer)
            connection.watch.out.clear()
            connection.watch.connection = connection.watch = None
        connection.sock.close()

    def on_ready(self, connection):
        """Bring a connection of the hub's on as far as it goes without waiting."""
        try:
            if connection.state == "watch":
                self.send_events(connection, connection.watch)
            elif connection.state in ("handshake", "head"):
                self.read_head(connection)
        except ssl.SSLWantReadError:
            self.want(connection, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self.want(connection, selectors.EVENT_WRITE)
            if not connection.deadline:         # a watch whose client does not read
                self.expect(connection, IO_SECONDS)
        except OSError:     # reset, no TLS at all, an unknown certificate authority
            self.close(connection)

    def read_head(self, connection):
        """Bring a handshake or a request's head on; hand a complete head to a thread."""
        if connection.state == "handshake":
            connection.sock.do_handshake()
            connection.state = "head"
        seen = 0
        for _ in range(64):
            if HEAD_END.search(connection.buffer, seen) or len(connection.buffer) > HEAD_BYTES:
                self.forget(connection)
                connection.state = "lent"
                return self.requests.add(connection)
            data, seen = connection.sock.recv(16384), max(0, len(connection.buffer) - 3)
            if not data:
                return self.close(connection)
            if not connection.buffer:
                self.parked.pop(connection, None)
                self.expect(connection, HEAD_SECONDS)
            connection.buffer += data
        self.call(self.on_ready, connection)   # many small records: let the others have their turn

    # -- requests
    def release(self, connection):
        """A connection's thread goes on, but no longer counts as one that answers a request: it
        waits for its client, or for the engine."""
        if connection.state == "lent":
            connection.state = "streaming"
            self.requests.allow(1)

    @contextmanager
    def sending(self, size):
        """Around the sending of an answer: whether there is room for it among those under way."""
        with self.lock:
            has_room = size < SMALL_BYTES or self.unsent + size < UNSENT_BYTES
            self.unsent += size
        try:
            yield has_room
        finally:
            with self.lock:
                self.unsent -= size

    def serve(self, connection):
        """A request thread: answer what is asked on this connection, then give it back."""
        self.call(self.give_back, connection, guarded(self.handle, connection))

    def give_back(self, connection, keep):
        if connection.state == "streaming":
            self.requests.allow(-1)
        if not keep or not self.running:
            return self.close(connection)
        connection.sock.setblocking(False)
        connection.state = "watch" if connection.watch else "head"
        if not connection.watch:
            self.parked[connection] = None                      # in order of their becoming idle
        self.on_ready(connection)

    # -- watches
    def deliver(self, changes, watches):
        for change in changes:
            memo = {}
            for watch in watches:
                if watch.kind.id == change.kind.id and change.version > watch.version:
                    data = watch.event(change, memo)
                    if data:
                        watch.out.append(data)
                        watch.out_bytes += len(data)
                        watch.sent = change.version
                    # its reader does not drain, or does not even begin to
                    if watch.out_bytes > WATCH_BYTES:
                        self.store.unwatch(watch)
                        self.end(watch)
        for watch in watches:
            if watch.connection and watch.out:
                self.on_ready(watch.connection)

    def send_events(self, connection, watch):
        """Send what a watch has to say; notice that its client has gone."""
        while watch.out:
            sent = connection.sock.send(watch.out[0])
            connection.deadline = connection.deadline if watch.ended else None
            watch.out_bytes -= sent
            rest = watch.out.pop(0)[sent:]
            watch.out[:0] = [rest] if rest else []
        if not watch.ended:
            # Raises SSLWantReadError where the client is silent; else it has gone, or has said
            # what it has no business to say.
            connection.sock.recv(4096)
        self.close(connection)

    def end_watch(self, watch):
        if watch.connection:
            watch.out.append(b"0\r\n\r\n")
            self.end(watch)
            self.on_ready(watch.connection)

    def end(self, watch):
        """Close a watch once all is sent, and soon even if its client does not read."""
        watch.ended = True
        if watch.connection:
            self.expect(watch.connection, IO_SECONDS)


    def bookmarks(self):
        """Tell watches that asked for it which version they have reached."""
        self.bookmarks_due = False
        for watch in list(self.store.watches):
            is_silent = watch.connection and not watch.out and watch.sent < self.store.version
            if watch.bookmarks and is_silent:
                watch.sent = self.store.version
                watch.out.append(watch.bookmark(watch.sent))
                self.on_ready(watch.connection)

    # -- DNS
    def serve_dns(self, address, answer_to):
        """Answer DNS by UDP and TCP at address, on a port of the kernel's choice, which is
        returned. answer_to(query, longest, reply) calls reply(bytes, or None for what is no query)
        at once or later."""
        udp, tcp = (socket.socket(socket.AF_INET, kind)
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        for sock in (udp, tcp):
            sock.setsockopt(socket.IPPROTO_IP, 15, 1)   # IP_FREEBIND: no bridge there yet, perhaps
            sock.setblocking(False)
        tcp.bind((address, 0))
        udp.bind(tcp.getsockname())
        tcp.listen(16)
        def on_query(sock, mask):
            with suppress(OSError):     # nothing more to read
                for _ in range(64):
                    data, sender = sock.recvfrom(4096)
                    answer_to(data, 0, lambda found, sender=sender: send(found, sender))
        def send(found, sender):
            with suppress(OSError):     # nobody to answer
                if found:
                    udp.sendto(found, sender)
        clients = deque()
        def on_client(listener, mask):
            with suppress(OSError):     # gone again
                client = DnsClient(listener.accept()[0], self.selector, answer_to)
                clients.append(client)
                self.after(HEAD_SECONDS, client.close)
                if len(clients) > DNS_CLIENTS:
                    clients.popleft().close()
        self.selector.register(udp, selectors.EVENT_READ, on_query)
        self.selector.register(tcp, selectors.EVENT_READ, on_client)
        return tcp.getsockname()[1]

    # -- the engine's events
    def follow(self, sock, data, on_line, on_end):
        """Call on_line(bytes) for each line that comes on a socket, on_end() when it ends."""
        def on_data(sock, mask):
            nonlocal data
            try:
                got = unblocked(sock.recv, 65536)
            except OSError:
                got = b""
            *lines, data = (data + (got or b"")).split(b"\n")
            data = data[:FILE_BYTES]    # a longer line is no JSON in the end, and passed over
            for line in filter(bytes.strip, lines):
                guarded(on_line, line)
            if got == b"":
                self.selector.unregister(sock)
                sock.close()
                on_end()
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, on_data)
        on_data(sock, 0)

# == 10. HTTP ================================================================================
# One request: its head, its body, its answer. RFC 9112.
Answer = namedtuple("Answer", "code body content_type headers")

def answer(code, body, content_type="application/json", headers=()):
    """An Answer; a body that is not bytes becomes JSON."""
    data = body if isinstance(body, bytes) else dumps(body) + b"\n"
    return Answer(code, data, content_type, dict(headers))

def refusal(error):
    return answer(error.code, error.status)

def text_answer(code, text):
    return answer(code, text.encode(), "text/plain; charset=utf-8")

def chunk(data):
    """One chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)

class Headers(dict):
    """Header fields by lower-case name; repeated ones joined by commas (RFC 9110, 5.3)."""
    def get(self, name, default=None):
        return super().get(name.lower(), default)

def parse_head(data):
    """(method, target, minor version, Headers) of a head (RFC 9112). Raises ApiError 400."""
    first, *lines = data.decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n")
    found, headers = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.([01])", first), Headers()
    if not found:
        raise bad_request(f"malformed request line {first[:80]!r}")
    for line in lines:
        name, colon, value = line.partition(":")
        # no folded lines either
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise bad_request(f"malformed header line {line[:80]!r}")
        name, value = name.lower(), value.strip()
        if (name in headers and
                name in ("content-length", "transfer-encoding", "host", "authorization")):
            raise bad_request(f"the header {name} may be there once")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if "content-length" in headers and "transfer-encoding" in headers:
        raise bad_request("Content-Length and Transfer-Encoding exclude each other")
    return found[1], found[2], int(found[3]), headers

class Warnings(list):
    """Sentences for Warning headers (RFC 9111, 5.5). more: how many there are besides."""
    more = 0

    def texts(self):
        """As few and as plain as all clients can take; the last says how many more there are."""
        plain = [re.sub(r"[^ -\[\]-~]", "?", text.replace('"', "'"))[:180]
                 for text in dict.fromkeys(self)]
        if len(plain) > WARNINGS:
            left = len(plain) + self.more - WARNINGS + 1
            plain[WARNINGS - 1:] = [f"and {left} more warnings"]
        return plain

class Handler:
    """One request: read, answered, and no more. respond(handler) -> Answer, or for one that goes
    on a function that sends it."""
    def __init__(self, connection, hub, respond):
        self.connection, self.hub, self.respond = connection, hub, respond
        self.sock = connection.sock
        self.keep, self.wish, self.warnings = False, False, Warnings()
        self.deadline = time.monotonic() + IO_SECONDS   # for the body, then for the answer
        self.method, self.target, self.headers = "", "", Headers()

    def run(self):
        """Serve one request; returns whether the connection can serve another."""
        try:
            try:
                self.read_head()
                found = self.respond(self)
            except ApiError as error:
                found = refusal(error)
            if isinstance(found, Answer):
                with self.hub.sending(len(found.body)) as has_room:
                    self.send(found if has_room else refusal(too_many()))
            else:
                found(self)
            return self.keep
        except OSError:                                         # the client went away
            return False

    def send(self, found):
        is_bare = self.method == "HEAD" or found.code == 304
        kind = found.content_type
        if (kind == "application/json" and
                self.headers.get("Accept", "").startswith("application/yaml")):
            kind = "application/yaml"
        headers = {"Content-Type": kind, **found.headers, "Content-Length": str(len(found.body))}
        self.write_head(found.code, headers, b"" if is_bare else found.body)

    def read_head(self):
        """Raises ApiError 400, 431."""
        data, end = self.connection.buffer, HEAD_END.search(self.connection.buffer)
        if not end or end.end() > HEAD_BYTES:
            raise ApiError(431, "", f"the head of the request is larger than {HEAD_BYTES} bytes")
        self.connection.buffer = data[end.end():]
        self.method, self.target, minor, self.headers = parse_head(data[:end.start()])
        wish = self.headers.get("Connection", "").lower()
        self.wish = "close" not in wish and (minor == 1 or "keep-alive" in wish)
        has_body = (self.headers.get("Content-Length", "0") != "0" or
                    self.headers.get("Transfer-Encoding"))
        self.keep = self.wish and not has_body                  # a stranger's body is not read

    def read_body(self, limit, bulk):
        """The whole body, by Content-Length or chunked; a large one takes a place of bulk, a
        semaphore, while it comes. Raises ApiError 400, 413, 429, 501; OSError where it ends
        early."""
        self.limit = limit
        size = self.headers.get("Content-Length", "0")
        is_small = size.isdigit() and len(size) < 9 and int(size) < SMALL_BYTES
        if is_small and "transfer-encoding" not in self.headers:
            return self.whole_body()
        if not bulk.acquire(timeout=IO_SECONDS):
            raise too_many()
        try:
            return self.whole_body()
        finally:
            bulk.release()

    def whole_body(self):
        coding = self.headers.get("Transfer-Encoding", "").lower()
        if coding not in ("", "chunked"):
            raise ApiError(501, "", f"Transfer-Encoding {coding[:40]!r} is not supported")
        if coding:
            body = b"".join(self.chunks())
        else:
            body = self.read(self.length(self.headers.get("Content-Length", "0"), 10))
        self.keep = self.wish
        return body

    def chunks(self):
        """The parts of a chunked body."""
        total, size = 0, None
        while size != 0:
            size = self.length(self.read_line().partition(b";")[0].decode("ascii", "replace"), 16,
                               total)
            total += size
            yield self.read(size)
            if size and self.read(2) != b"\r\n":
                raise bad_request("a chunk of the body does not end where it says")
        while self.read_line():                                 # trailers
            continue

    def length(self, text, base, before=0):
        """How many bytes a text announces. Raises ApiError 400, 413."""
        if not re.fullmatch("[0-9a-fA-F]{1,15}" if base == 16 else "[0-9]{1,15}", text):
            raise bad_request(
                f"the length {text[:40]!r} of the body or of a chunk of it is no number")
        if before + int(text, base) > self.limit:
            raise ApiError(413, "RequestEntityTooLarge", f"the body may have {self.limit} bytes")
        return int(text, base)

    def wait(self, call, argument):
        """What a call of the socket's returns, in the time that is left for the whole request."""
        try:
            self.sock.settimeout(PATIENCE_S)
            return call(argument)
        except Timeout:
            self.step_aside()
            self.sock.settimeout(max(0.01, self.deadline - time.monotonic()))
            return call(argument)

    def step_aside(self):
        """Leave the place of this thread to another request's."""
        self.hub.call(self.hub.release, self.connection)

    def receive(self):
        got = self.wait(self.sock.recv, 65536)
        if not got:
            raise OSError("hung up in the middle of a request")
        return got

    def write(self, data):
        """Send it all. Raises OSError where the client takes too long."""
        self.deadline = time.monotonic() + IO_SECONDS + len(data) / SLOWEST
        rest = memoryview(data)
        while rest:
            rest = rest[self.wait(self.sock.send, rest):]

    def read(self, size):
        parts, held = [self.connection.buffer], len(self.connection.buffer)
        while held < size:
            parts.append(self.receive())
            held += len(parts[-1])
        data = b"".join(parts)
        self.connection.buffer = data[size:]
        return data[:size]

    def read_line(self):
        while b"\n" not in self.connection.buffer:
            if len(self.connection.buffer) > 4096:
                raise OSError("a chunk's head too long")
            self.connection.buffer += self.receive()
        found, _, self.connection.buffer = self.connection.buffer.partition(b"\n")
        return found.strip()

    def write_head(self, code, headers, body=b""):
        """Send the head of an answer, and what of its body there is, in one write."""
        headers = {"Audit-Id": new_uid(), "Cache-Control": "no-cache, private", **headers,
                   "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
                   **filled(Connection="" if self.keep else "close")}
        lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}",
                 *(f"{name}: {value}" for name, value in headers.items())]
        lines += [f'Warning: 299 - "{text}"' for text in self.warnings.texts()]
        self.write("\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body)

    def take_over(self, code, headers):
        """Begin an answer that may go on for days, to the end of the connection."""
        self.keep = code == 101     # such a head says itself what becomes of the connection
        self.write_head(code, headers)
        self.keep = False
        self.step_aside()

# == 11. Who =================================================================================
# Who is asking, by token, and what they may, by RBAC. Nothing here is ever logged.
User = namedtuple("User", "name groups uid extra")
ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"), "kubernetes-admin",
             {})
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",), "", {})
ACCOUNT_NAME = "kubernetes.io/service-account.name"

def user_info(user):
    return filled(username=user.name, uid=user.uid, groups=list(user.groups), extra=user.extra)

def is_subject(user, subject, namespace):
    """Whether a subject of a role binding means this user."""
    if subject["kind"] == "ServiceAccount":
        where = subject.get("namespace") or namespace
        return user.name == f"system:serviceaccount:{where}:{subject['name']}"
    return subject["name"] in (user.groups if subject["kind"] == "Group" else (user.name,))

def permits(rule, verb, group, resource, name, path):
    """Whether a PolicyRule allows one thing; its asterisks are the only wildcards."""
    has = lambda field, *wanted: any(value in wanted for value in rule.get(field) or ())
    if path is not None:
        return (has("verbs", "*", verb) and
                any(path == url or url.endswith("*") and path.startswith(url[:-1])
                    for url in rule.get("nonResourceURLs") or ()))
    below = ("*/" + resource.partition("/")[2],) if "/" in resource else ()
    return (has("verbs", "*", verb) and has("apiGroups", "*", group) and
            has("resources", "*", resource, *below) and
            (not rule.get("resourceNames") or has("resourceNames", name)))

def resource_rules(*wanted, verbs):
    """A rule a group for the kinds that are asked for, by their plural."""
    groups = {}
    for kind in [kind for kind in KINDS if kind.plural in wanted]:
        below = [f"{kind.plural}/{each}" for each in kind.subresources
                 if each not in (CONNECTS if verbs == READ else ("status",))]
        groups.setdefault(kind.group, set()).update([kind.plural, *below])
    return [{"verbs": verbs.split(), "apiGroups": [group], "resources": sorted(found)}
            for group, found in sorted(groups.items())]

def path_rules(*paths):
    return [{"verbs": ["get"], "nonResourceURLs": list(paths)}]

CONNECTS = ("attach", "exec", "portforward", "proxy")   # to get them is no mere reading
COMMON = [kind.plural for kind in KINDS if kind.namespaced and
          kind.group != "rbac.authorization.k8s.io" and kind.kept != "-" and
          kind.plural not in ("secrets", "resourcequotas", "limitranges", "leases", "events")]
READ, WRITE = "get list watch", "create delete deletecollection patch update"
VIEW = resource_rules(*COMMON, "namespaces", "resourcequotas", "limitranges", "events", verbs=READ)
EDIT = (VIEW + resource_rules("secrets", "leases", verbs=READ) +
        resource_rules(*COMMON, "secrets", "leases", verbs=WRITE) +
        [{"verbs": READ.split(), "apiGroups": [""],
          "resources": ["services/proxy", *(f"pods/{name}" for name in CONNECTS)]}])
PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
ROLES = {  # the ClusterRoles that every cluster has, and what they allow
    "cluster-admin": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                      {"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "admin": EDIT + resource_rules("roles", "rolebindings",
                                   verbs=f"{READ} {WRITE}") + resource_rules(
        "localsubjectaccessreviews", verbs="create"),
    "edit": EDIT, "view": VIEW,
    "system:discovery": path_rules(*sorted(["/api", "/api/*", "/apis", "/apis/*", "/openapi",
                                            "/openapi/*", *PUBLIC])),
    "system:public-info-viewer": path_rules(*PUBLIC),
    "system:basic-user": resource_rules("selfsubjectaccessreviews", "selfsubjectrulesreviews",
                                        "selfsubjectreviews",
                                        verbs="create"),
}
BOOTSTRAP = {"kubernetes.io/bootstrapping": "rbac-defaults"}
AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"
GRANTED = {  # ClusterRole -> the groups that have it
    "cluster-admin": ("system:masters",), "system:discovery": ("system:authenticated",),
    "system:public-info-viewer": ("system:authenticated", "system:unauthenticated"),
    "system:basic-user": ("system:authenticated",)}

class Access:
    """The certificates and tokens of one data path; who is asking, and what they may."""
    issuer = "https://kubernetes.default.svc"

    def __init__(self, settings, store):
        self.settings, self.store, self.folder = settings, store, settings.path("pki")
        make_folder(self.folder)
        keep_private(self.folder)
        self.certify()
        token = settings.path("token")
        if not settings.secret and not first_line(token):
            write_file(token, (random_bytes(24).hex() + "\n").encode())
        self.token = settings.secret or read_text(token).strip()
        if not os.path.exists(self.file("sa.key")):
            write_file(self.file("sa.key"), random_bytes(32))
        self.key = read_bytes(self.file("sa.key"), 32)
        self.ca = read_text(self.file("ca.crt"))

    def file(self, name):
        return os.path.join(self.folder, name)

    def certify(self):
        """Make the CA once, and the server's certificate again whenever its names change."""
        s = self.settings
        within = ("", ".default", ".default.svc", ".default.svc." + CLUSTER_DOMAIN)
        own = [s.node, s.node + ".local", *filter(None, [s.advertise_name])]
        names = dict.fromkeys(["localhost", *own, *("kubernetes" + end for end in within)])
        addresses = sorted({"127.0.0.1", "::1", s.host_ip, s.kubernetes_ip, s.gateway})
        wanted = ",".join([*("DNS:" + name for name in names),
                           *("IP:" + address for address in addresses)])
        if not os.path.exists(self.file("ca.crt")):
            make_certificate(self.folder, "ca", "root", "/CN=k2d-ca", "DNS:none", "-selfsign")
        if first_line(self.file("server.names")) != wanted:
            write_file(self.file("server.names"), b"")      # were we cut off, it is made again
            make_certificate(self.folder, "server", "leaf", "/CN=k2d", wanted, "-cert",
                             self.file("ca.crt"))
            write_file(self.file("server.names"), wanted.encode())

    # -- who is asking
    def user(self, headers, certificate=None):
        """The User of a request's headers, impersonation included, or of the certificate that its
        client has shown. Raises ApiError 400, 401, 403."""
        given = headers.get("Authorization")
        scheme, _, token = (given or "").partition(" ")
        user = self.named(certificate or {}) if given is None else None
        if scheme.lower() == "bearer":
            user = self.user_of(token.strip())
        if not user:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        asked = [field for field in headers if field.startswith("impersonate-")]
        return self.impersonate(user, headers, asked) if asked else user

    @staticmethod
    def named(certificate):
        """The User of a certificate (SSLSocket.getpeercert()): commonName, with organizationName
        as groups; the anonymous one for none."""
        names = [pair for part in certificate.get("subject", ()) for pair in part]
        name = dict(names).get("commonName")
        groups = [value for key, value in names if key == "organizationName"]
        return User(name, (*groups, "system:authenticated"), "", {}) if name else ANONYMOUS

    def impersonate(self, user, headers, asked):
        """The User whom a user wants to be, by these headers."""
        odd = set(asked) - {"impersonate-user", "impersonate-group", "impersonate-uid"}
        name, uid = headers.get("Impersonate-User"), headers.get("Impersonate-Uid")
        if odd or not name:
            raise bad_request(f"{', '.join(asked)}: want Impersonate-User, and take groups and a "
                              "uid with it")
        groups = [group for group in headers.get("Impersonate-Group", "").split(",") if group]
        account = re.fullmatch("system:serviceaccount:([^:]+):([^:]+)", name)
        who = ("", "serviceaccounts", *account.groups()) if account else ("", "users", None, name)
        wanted = [who, *(("", "groups", None, group) for group in groups)]
        if uid:
            wanted.append(("authentication.k8s.io", "uids", None, uid))
        for group, resource, namespace, who in wanted:
            if not self.allowed(user, "impersonate", group, resource, namespace, who):
                kind = KIND["Pod"]._replace(plural=resource)
                raise forbidden(kind, who,
                                f'User "{user.name}" cannot impersonate resource "{resource}"')
        return self.impersonated(name, groups, uid or "")

    @staticmethod
    def impersonated(name, groups, uid):
        own = ANONYMOUS.groups if name == ANONYMOUS.name else ("system:authenticated",)
        account = re.fullmatch("system:serviceaccount:([^:]+):[^:]+", name)
        if account and not groups:
            groups = ["system:serviceaccounts", "system:serviceaccounts:" + account[1]]
        return User(name, tuple(dict.fromkeys([*groups, *own])), uid, {})

    def user_of(self, token, audiences=None):
        """The User that a bearer token stands for, or None."""
        if hmac.compare_digest(token.encode(), self.token.encode()):
            return ADMIN
        claims = self.read_token(token)
        if not claims or not set(audiences or [self.issuer]) & set(claims["aud"]):
            return None
        known, extra = claims["kubernetes.io"], {"credential-id": "JTI=" + claims["jti"]}
        namespace, prefix = known["namespace"], "authentication.kubernetes.io/"
        # what the token is bound to must still be there
        for kind in ("ServiceAccount", "Pod", "Secret"):
            bound = known.get(kind.lower())
            obj = bound and self.store.get(kind, namespace, bound["name"])
            if bound and dig(obj, "metadata.uid") != bound["uid"]:
                return None
            if bound and kind == "Pod":
                node = self.store.get("Node", "", obj["spec"].get("nodeName", ""))
                extra.update({"pod-name": name_of(obj), "pod-uid": bound["uid"]})
                extra.update({"node-name": name_of(node), "node-uid": uid_of(node)} if node
                             else {})
        groups = ("system:serviceaccounts", "system:serviceaccounts:" + namespace,
                  "system:authenticated")
        return User(claims["sub"], groups, known["serviceaccount"]["uid"],
                    {prefix + key: [value] for key, value in extra.items()})

    # -- service account tokens: JWTs, HMAC-SHA256 (RFC 7519, RFC 7518 3.2)
    def make_token(self, account, seconds, audiences, bound=None):
        """A token for a ServiceAccount object. seconds: how long it is good, None for ever; bound:
        kind, name, uid."""
        meta, start = account["metadata"], int(time.time())
        known = {"namespace": meta["namespace"], "serviceaccount": pick(meta, ("name", "uid"))}
        if bound:
            known[bound["kind"].lower()] = pick(bound, ("name", "uid"))
        claims = {"aud": list(audiences), "iat": start, "nbf": start - 60, "iss": self.issuer,
                  "jti": new_uid(), "kubernetes.io": known,
                  "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}"}
        if seconds is not None:
            claims["exp"] = start + seconds
        text = b".".join(base64.urlsafe_b64encode(dumps(part)).rstrip(b"=") for part in (
            {"alg": "HS256", "typ": "JWT"}, claims))
        return (text + b"." + self.sign_token(text)).decode()

    def sign_token(self, text):
        return base64.urlsafe_b64encode(hmac.digest(self.key, text, "sha256")).rstrip(b"=")

    def read_token(self, token):
        """The claims of one of our tokens, None if it is not ours or has expired."""
        text, _, signature = token.encode("utf-8", "replace").rpartition(b".")
        if not text or not hmac.compare_digest(signature, self.sign_token(text)):
            return None
        # more of = than needed
        claims = json.loads(base64.urlsafe_b64decode(text.rpartition(b".")[2] + b"=="))
        return claims if claims.get("exp", time.time() + 1) > time.time() else None

    def fill_token(self, secret):
        """Give a Secret of type service-account-token what that type promises."""
        meta, wanted = secret["metadata"], annotation(secret, ACCOUNT_NAME) or ""
        account = self.store.get("ServiceAccount", meta["namespace"], wanted)
        if account:
            meta["annotations"][ACCOUNT_NAME.replace(".name", ".uid")] = uid_of(account)
            token = self.make_token(account, None, [self.issuer],
                                    {"kind": "Secret", **pick(meta, ("name", "uid"))})
            told = {"ca.crt": self.ca, "namespace": meta["namespace"], "token": token}
            fill(secret.setdefault("data", {}),
                 **{key: in_base64(value) for key, value in told.items()})

    # -- what they may: RBAC (pkg/registry/rbac, plugin/pkg/auth/authorizer/rbac)
    def rules(self, user, namespace=None):
        """Every rule that a user has, in the cluster and in one namespace."""
        for kind, where in (("ClusterRoleBinding", ""), ("RoleBinding", namespace)):
            for binding in self.store.list(kind, where) if where is not None else ():
                if any(is_subject(user, subject, namespace)
                       for subject in binding.get("subjects", ())):
                    yield from self.rules_of(self.role(binding["roleRef"], where))

    def role(self, ref, namespace):
        return self.store.get(ref["kind"], namespace if ref["kind"] == "Role" else "", ref["name"])

    def rules_of(self, role):
        """The rules of a Role or ClusterRole, those it aggregates included."""
        yield from dig(role, "rules", ())
        for selector in dig(role, "aggregationRule.clusterRoleSelectors", ()):
            for each in self.store.list("ClusterRole", "", selector_of(selector)):
                yield from each.get("rules", ())

    def allowed(self, user, verb, group, resource, namespace=None, name=None, path=None):
        """Whether a user may do this: to a resource ("pods", "pods/log"), or to another path."""
        return ("system:masters" in user.groups or
                any(permits(rule, verb, group, resource, name, path)
                    for rule in self.rules(user, namespace)))

    def require(self, request, verb):
        """Raise ApiError 403 unless the user of a request may do what it asks for."""
        user, kind = request.user, request.kind
        who = f"User {json.dumps(user.name)} cannot {verb}"
        if not kind:
            if self.allowed(user, verb, None, None, path=request.path):
                return
            raise ApiError(403, "Forbidden", f"forbidden: {who} path {json.dumps(request.path)}")
        resource = "/".join(filter(None, (kind.plural, request.subresource)))
        if not self.allowed(user, verb, kind.group, resource, request.namespace or None,
                            request.name):
            where = (f'in the namespace "{request.namespace}"' if request.namespace
                     else "at the cluster scope")
            why = f'{who} resource "{resource}" in API group "{kind.group}" {where}'
            raise forbidden(kind, request.name or "", why)

    def check_escalation(self, user, kind, obj):
        """Nobody gives away rights that they do not have (pkg/registry/rbac, escalation_check)."""
        if "system:masters" in user.groups:
            return
        namespace, ref = obj["metadata"].get("namespace"), obj.get("roleRef")
        role, verb, of = obj, "escalate", kind
        if ref:
            role, verb, of = self.role(ref, namespace), "bind", KIND[ref["kind"]]
        name = ref["name"] if ref else name_of(obj)
        if self.allowed(user, verb, kind.group, of.plural, namespace, name):
            return
        if not role:
            raise not_found(of, name)
        own = list(self.rules(user, namespace))
        rights = list(islice(chain.from_iterable(map(rights_of, self.rules_of(role))), RIGHTS + 1))
        lacking = next(filter(lambda right: not any(permits(rule, *right) for rule in own),
                              dict.fromkeys(rights)), None)
        if lacking or len(rights) > RIGHTS:
            raise forbidden(kind, name_of(obj),
                            f'user "{user.name}" is attempting to grant RBAC permissions not '
                            f"currently held: {json.dumps(lacking or 'more than can be checked')}")

    def review(self, request, given):
        """The status of an authentication or authorization review."""
        user, spec, name = request.user, given.get("spec", {}), request.kind.name
        if name == "SelfSubjectReview":
            return {"userInfo": user_info(user)}
        if name == "TokenReview":
            found = self.user_of(spec.get("token", ""), spec.get("audiences"))
            if not found:
                return {"user": {}, "error": "invalid bearer token"}
            audiences = spec.get("audiences") or [self.issuer]
            return {"authenticated": True, "user": user_info(found), "audiences": audiences}
        if name == "SelfSubjectRulesReview":
            rules, given["spec"] = list(self.rules(user, spec.get("namespace", ""))), {}
            return {"resourceRules": [rule for rule in rules if "resources" in rule],
                    "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule],
                    "incomplete": False}
        if not name.startswith("Self"):
            user = User(spec.get("user", ""), tuple(spec.get("groups", ())), spec.get("uid", ""),
                        {})
        other = spec.get("nonResourceAttributes")
        if other is not None:
            return {"allowed": self.allowed(user, other.get("verb"), None, None,
                                            path=other.get("path", ""))}
        asked = spec["resourceAttributes"]
        if request.namespace and asked.get("namespace") != request.namespace:
            raise bad_request("a LocalSubjectAccessReview asks about its own namespace")
        resource = "/".join(filter(None, (asked.get("resource"), asked.get("subresource"))))
        return {"allowed": self.allowed(user, asked.get("verb", ""), asked.get("group", ""),
                                        resource, asked.get("namespace") or None,
                                        asked.get("name"))}

    def kubeconfig(self):
        return kubeconfig_text(self.settings.server, self.ca, "admin", {"token": self.token})

def kubeconfig_text(server, ca, user, credentials):
    """A kubeconfig, in YAML; credentials: {field: text} of its user."""
    told = "".join(f"    {field}: {text}\n" for field, text in credentials.items())
    entry = json.dumps("k2d-" + user)       # an "admin" may be there of another cluster
    return ("apiVersion: v1\nkind: Config\nclusters:\n- name: k2d\n  cluster:\n"
            f"    server: {server}\n    certificate-authority-data: {in_base64(ca)}\n"
            f"users:\n- name: {entry}\n  user:\n{told}"
            f"contexts:\n- name: k2d\n  context:\n    cluster: k2d\n    user: {entry}\n"
            "current-context: k2d\n")

RIGHTS = 2000               # of one role, that are compared with those of who gives them

def rights_of(rule):
    """All that a PolicyRule gives, as arguments of permits() after the rule."""
    names = rule.get("resourceNames") or [None]
    for verb in rule["verbs"]:
        for group in rule.get("apiGroups", ()):
            for resource in rule.get("resources", ()):
                yield from ((verb, group, resource, name, None) for name in names)
        for path in rule.get("nonResourceURLs", ()):
            yield verb, None, None, None, path

# == 12. Requests ============================================================================
# What a request is about: which resource, which object, in which form it wants its answer.
# kind: "" objects, "Table" or "PartialObjectMetadata"
Form = namedtuple("Form", "kind version include columns")
APPLY, STRATEGIC = "application/apply-patch+yaml", "application/strategic-merge-patch+json"

class Request:
    """One request. warnings: sentences for Warning headers, gathered on the way."""
    def __init__(self, method, target, headers, user, warnings):
        path, _, query = target.partition("?")
        self.method, self.path, self.headers = method, urllib.parse.unquote(path), headers
        self.user = user
        self.target, self.warnings = target, warnings
        # as given, some of them repeated
        self.options = urllib.parse.parse_qsl(query, keep_blank_values=True)
        self.query = dict(self.options)
        self.media = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.dry_run, self.body = "dryRun" in self.query, b""
        self.kind, self.namespace, self.name, self.subresource, self.verb = None, "", None, "", ""

    @property
    def parts(self):
        return [part for part in self.path.split("/") if part]

    @property
    def form(self):
        """The Form of its answer. Raises ApiError 406."""
        return negotiate(self.headers.get("Accept"), self.query)

    def flag(self, name):
        # anything else is true to Kubernetes
        return self.query.get(name, "false") not in ("false", "0")

    def number(self, name):
        """An integer of the query, 0 if it is not there. Raises ApiError 400."""
        try:
            return int(self.query.get(name) or 0)
        except ValueError:
            raise bad_request(f"{name}: {self.query[name][:80]!r} is no number")

    def selection(self):
        """What a request for several objects is about, as a Watch. Raises ApiError 400."""
        labels = parse_selector(self.query.get("labelSelector", ""))
        terms = parse_field_selector(self.kind, self.query.get("fieldSelector", ""))
        named = [value for path, equal, value in terms if path == "metadata.name" and equal]
        name = self.name or (named[0] if named else None)
        terms = [term for term in terms if term != ("metadata.name", True, name)]
        return Watch(self.kind, self.namespace, name, labels, terms, None,
                     self.flag("allowWatchBookmarks"))

def route(request, parts):
    """Set kind, namespace (None: all), name, subresource by the path. Raises ApiError 404."""
    group, version, rest = (("", parts[1], parts[2:]) if parts[0] == "api"
                            else (parts[1], parts[2], parts[3:]))
    if rest[:1] == ["watch"]:   # deprecated, but Kubernetes still answers it
        request.query["watch"] = "1"
        rest = rest[1:]
    namespace = None
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in RESOURCES:
        namespace, rest = rest[1], rest[2:]
    if rest[2:3] == ["proxy"]:  # what follows is for whom it is passed on to
        rest = rest[:3]
    plural, name, subresource, more = [*rest, None, None, None, None][:4]
    kind = RESOURCES.get((group, version, plural))
    is_known = bool(kind) and not more and (not subresource or subresource in kind.subresources)
    if not is_known or not is_placed(kind, namespace, name):
        raise no_such_resource()
    request.kind, request.namespace = kind, namespace if kind.namespaced else ""
    request.name, request.subresource = name, subresource or ""

def is_placed(kind, namespace, name):
    """Whether an object, or all (name None), can be in a namespace, or in none (None)."""
    if kind.namespaced:
        return namespace is not None or not name
    return namespace is None

def negotiate(accept, query):
    """The Form by the Accept header; the first that we can give. Raises ApiError 406."""
    for choice in (accept or "*/*").split(","):
        media, *parameters = [part.strip() for part in choice.split(";")]
        # JSON is YAML
        if media not in ("application/json", "application/*", "*/*", "application/yaml"):
            continue
        given = dict(p.split("=", 1) for p in parameters if "=" in p)
        kind = given.get("as", "").replace("MetadataList", "Metadata")
        version = f"{given.get('g')}/{given.get('v')}"
        if not kind:
            return Form("", "", "", True)
        if (kind in ("Table", "PartialObjectMetadata") and
                version in ("meta.k8s.io/v1", "meta.k8s.io/v1beta1")):
            include = query.get("includeObject") or "Metadata"
            if include not in ("None", "Metadata", "Object"):
                raise bad_request("includeObject is None, Metadata or Object")
            return Form(kind, version, include, True)
    raise not_acceptable()

def not_acceptable():
    return ApiError(406, "NotAcceptable", "the answer can be application/json or application/yaml")

VERBS = {  # (method, whether one object is named) -> verb of KINDS; HEAD is as GET
    ("GET", False): "list", ("POST", False): "create", ("GET", True): "get",
    ("DELETE", False): "deletecollection",
    ("DELETE", True): "delete", ("PUT", True): "update", ("PATCH", True): "patch",
    ("POST", True): "create"}
METHODS = {"HEAD", *(method for method, _ in VERBS)}
SUB_VERBS = {"log": ["get"], "finalize": ["update"], "eviction": ["create"], "token": ["create"],
             **dict.fromkeys(("scale", "status", "ephemeralcontainers"),
                             ["get", "patch", "update"]),
             **dict.fromkeys(CONNECTS, ["create", "get"]),
             "proxy": ["create", "delete", "get", "patch", "update"]}
SUB_KINDS = {name: kind_of(line + " - Namespace - - -")     # what subresources read and answer
             for name, line in (
                 ("scale", "autoscaling/v1 Scale"), ("eviction", "policy/v1 Eviction"),
                 ("token", "authentication.k8s.io/v1 TokenRequest"),
                 ("delete", "v1 DeleteOptions"), ("attach", "v1 PodAttachOptions"),
                 ("exec", "v1 PodExecOptions"), ("portforward", "v1 PodPortForwardOptions"))}

def is_about_resources(parts):
    """Whether a path leads to resources, if of a version not there, and not to discovery."""
    # how many parts name the version
    head = {"api": 2, "apis": 3}.get(parts[0] if parts else "", 0)
    if not head or len(parts) < head:
        return False
    group = parts[1] if head == 3 else ""
    versions = {kind.version for kind in KINDS if kind.group == group}
    return bool(versions) and (len(parts) > head or parts[-1] not in versions)

def verb_of(request, method):
    """The verb of RBAC and of KINDS that a request is, "" for none."""
    if request.method == "GET" and not request.subresource and request.flag("watch"):
        return "watch"
    return VERBS.get((method, request.name is not None), "")

def admit(request, access):
    """Find out what a request is about and whether its user may; its body need not be read yet.
    Raises ApiError."""
    if is_about_resources(request.parts):
        route(request, request.parts)
    method = request.method.replace("HEAD", "GET")
    if not request.kind:
        return access.require(request, method.lower())
    request.verb = verb = verb_of(request, method)
    if request.kind.kept == "empty" and verb == "create":
        raise ApiError(405, "MethodNotAllowed",
                       f"no {request.kind.name} can be made: one board gains nothing from more "
                       "replicas; set spec.replicas")
    known = SUB_VERBS.get(request.subresource) or request.kind.verbs.split()
    wants_place = verb in ("create", "deletecollection") and not request.subresource
    if verb not in known or wants_place and (request.name or request.namespace is None):
        raise wrong_method()
    access.require(request, verb)

OPTION_VALUES = {"dryRun": ("All",), "fieldValidation": ("", "Ignore", "Strict", "Warn"),
                 "propagationPolicy": ("Foreground", "Background", "Orphan")}

def check_options(kind_name, query, is_apply=False):
    """Refuse query options that the API server would refuse (kind_name: "CreateOptions", ...)."""
    faults, match = Faults(), query.get("resourceVersionMatch")
    for option, values in OPTION_VALUES.items():
        if query.get(option, values[0]) not in values:
            faults.add(option, "NotSupported", "want one of " + ", ".join(filter(None, values)))
    if is_apply and not query.get("fieldManager"):
        faults.add("fieldManager", "Required", "an apply says who applies")
    if kind_name == "PatchOptions" and "force" in query and not is_apply:
        faults.add("force", "Forbidden", "is for an apply")
    if query.get("sendInitialEvents") and match != "NotOlderThan":
        faults.add("resourceVersionMatch", "Forbidden", "sendInitialEvents wants NotOlderThan")
    elif match and "sendInitialEvents" not in query and not query.get("resourceVersion"):
        faults.add("resourceVersionMatch", "Forbidden", "wants a resourceVersion")
    faults.check(SUB_KINDS["delete"]._replace(name=kind_name, group="meta.k8s.io"), "")

def parse_field_selector(kind, text):
    """"a.b=c,d!=e" as [(path, equal, value)]. Raises ApiError 400 for other fields."""
    known = ["metadata.name", *["metadata.namespace"] * kind.namespaced, *kind.fields]
    terms = []
    for term in filter(None, text.split(",", TERMS)):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if not found or found[1] not in known:
            raise bad_request(f"field selector {term[:80]!r}: want FIELD=VALUE or "
                              "FIELD!=VALUE, of " + ", ".join(known))
        terms.append((found[1], found[2] != "!=", found[3]))
    return terms

def selected_text(obj, path):
    """What a field selector compares."""
    found = dig(obj, path)
    if path == "source":
        found = dig(found, "component") or obj.get("reportingComponent")
    if path in ("spec.hostNetwork", "spec.unschedulable") or isinstance(found, bool):
        return str(bool(found)).lower()
    return str(found or "")

def field_matches(terms, obj):
    return all((selected_text(obj, path) == value) == equal for path, equal, value in terms)

def parse_version(text):
    """A resourceVersion of a query as int, 0 if absent. Raises ApiError 400."""
    if text and not re.fullmatch("[0-9]{1,19}", text):
        raise bad_request(f"resourceVersion: {text[:80]!r} is no version")
    return int(text or 0)

# == 13. Bodies ==============================================================================
# Bytes of a request -> dict. What comes out goes through clean(): whatever the encoding, the same
# object.
def no_constant(name):
    raise ValueError(f"invalid literal {name[:40]}")

def finite(digits):
    """A number with a fraction or an exponent. Raises ValueError."""
    number = float(digits)
    return no_constant(digits) if math.isinf(number) else number

def bounded_int(digits):
    """A whole number. Raises ValueError for one that an old Python would read for ever."""
    return int(digits) if len(digits) < 400 else no_constant(digits)

PARSE_INT = int if hasattr(sys, "get_int_max_str_digits") else bounded_int

def parse_json(data, duplicates=None):
    """JSON as Go reads it: UTF-8, no NaN or Infinity; paths of doubled keys go to duplicates.
    Raises ValueError."""
    twice = {}  # id of an object -> it, and its doubled keys
    def read_pairs(pairs):
        out = dict(pairs)
        if len(out) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice[id(out)] = out, [key for key, count in counts.items() if count > 1]
        return out

    def find(value, path):  # only now is it known where the doubled keys stand
        _, keys = twice.get(id(value), (None, ()))
        duplicates.extend(path + key[:STEP_CHARS] for key in keys[:FAULTS - len(duplicates)])
        if isinstance(value, dict):
            for key, item in value.items():
                find(item, f"{path}{key[:STEP_CHARS]}.")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                find(item, f"{path[:-1]}[{i}].")

    text = data if isinstance(data, str) else data.decode()
    try:
        hook = None if duplicates is None else read_pairs
        out = json.loads(text, parse_constant=no_constant, parse_float=finite,
                         parse_int=PARSE_INT, object_pairs_hook=hook)
        if twice:
            find(out, "")
    except RecursionError as error:
        raise ValueError(error)
    if "\\ud" in text.lower():  # half a pair of surrogates is U+FFFD to Go
        halved = json.dumps(out, ensure_ascii=False).encode("utf-16", "surrogatepass")
        out = json.loads(halved.decode("utf-16", "replace"))
    return out

def is_no_time(resolver):
    return resolver[0] != "tag:yaml.org,2002:timestamp"

def parse_yaml(data, duplicates=None):
    """A YAML object; doubled keys go to duplicates, in words. Raises ApiError 400, 413, 415."""
    if len(data) > YAML_BYTES:
        raise ApiError(413, "RequestEntityTooLarge",
                       f"YAML bodies may have {YAML_BYTES} bytes; send JSON")
    try:
        import yaml
    except ImportError:
        raise ApiError(415, "UnsupportedMediaType",
                       "YAML bodies need PyYAML on the host (Debian: python3-yaml); send JSON")

    class Loader(yaml.SafeLoader):         # the one in C has no limit of depth, and crashes
        """Dates stay text, as in JSON; an alias could stand for more than memory holds."""
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not supported")
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                text = str(key.value)
                if text in seen and duplicates is not None:
                    duplicates.append(
                        f'line {key.start_mark.line + 1}: key "{text}" already set in map')
                seen.add(text)
            return super().construct_mapping(node, deep)
        yaml_implicit_resolvers = {
            first: list(filter(is_no_time, found))
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    try:
        found = parse_json(json.dumps(yaml.load(data, Loader)))
        if not isinstance(found, dict):
            raise ValueError("the document is no object")
        return found
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}")

def parse_config(data, duplicates):
    """The configuration of an apply: YAML, or JSON, for which no PyYAML is needed."""
    try:
        found = parse_json(data, duplicates)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else parse_yaml(data, duplicates)

def varint(data, at):
    """(value, next position) of a base-128 varint. Raises IndexError where the data ends."""
    value = 0
    for i in range(10):
        value |= (data[at + i] & 0x7F) << 7 * i
        if data[at + i] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise ValueError("varint too long")

def wire_fields(data):
    """The (field number, value) pairs of a protobuf message; value is int or a memoryview. Raises
    ValueError, IndexError."""
    at, data = 0, memoryview(data)
    while at < len(data):
        key, at = varint(data, at)
        wire = key & 7
        if wire > 2:    # Kubernetes has no field of another type
            raise ValueError(f"wire type {wire}")
        size, at = (8, at) if wire == 1 else varint(data, at)   # 1: a double
        value = size                                            # 0: the number is the value itself
        if wire:
            value, at = data[at:at + size], at + size
        if at > len(data):
            raise ValueError("truncated message")
        yield key >> 3, value

def wire_text(data):
    return str(data, "utf-8")

def signed(value):
    return value - (1 << 64) if value >> 63 else value

def wire_time(data, fraction=""):
    """A Timestamp in RFC 3339; fraction is the format of its microseconds."""
    found = dict(wire_fields(data))
    seconds, nanos = signed(found.get(1, 0)), found.get(2, 0)
    if not found or not -62135596800 < seconds <= 253402300799:
        return None                                       # Go's zero time is null in JSON
    return time_text(seconds, fraction.format(nanos // 1000))

def wire_int_or_string(data):
    found = dict(wire_fields(data))
    return wire_text(found.get(3, b"")) if found.get(1) else signed(found.get(2, 0))

def wire_raw(data):
    """RawExtension and FieldsV1 hold JSON; what a refused field holds need not be read."""
    try:
        return parse_json(bytes(dict(wire_fields(data)).get(1, b"null")))
    except (ValueError, IndexError, TypeError):
        return {"": "not read"}

def wire_schema(data, type_):
    """JSONSchemaPropsOrArray, OrBool and OrStringArray: a schema, or something else."""
    found = list(wire_fields(data))
    schema = lambda data: from_protobuf(message_of("JSONSchemaProps"), data)
    first = dict(found)
    if type_ == "SchemaOrBool":
        return schema(first[2]) if 2 in first else bool(first.get(1))
    read = schema if type_ == "SchemaOrArray" else wire_text
    return (schema(first[1]) if 1 in first
            else [read(value) for number, value in found if number == 2])

WIRE = {  # how a scalar stands on the wire -> its JSON value
    "string": wire_text, "int": signed, "bool": bool, "IntOrString": wire_int_or_string,
    "Raw": wire_raw,
    "Time": wire_time, "MicroTime": lambda data: wire_time(data, ".{:06d}"),
    "bytes": lambda value: base64.b64encode(value).decode(),
    "Double": lambda data: struct.unpack("<d", data)[0],
    "Quantity": lambda data: wire_text(dict(wire_fields(data)).get(1, b"0")),
    "ExtraValue": lambda data: [wire_text(value) for _, value in wire_fields(data)],
    **{name: lambda data,
       name=name: wire_schema(data, name) for name in SCALARS if name.startswith("SchemaOr")}}

def from_protobuf(fields, data):
    """The dict that the JSON of a protobuf message would be; fields is its Message. Raises
    ValueError, IndexError."""
    out, known = {}, fields.by_number
    for field, value in ((known[number], value) for number, value in wire_fields(data)
                         if number in known):
        read = WIRE.get(field.type) or (lambda data: from_protobuf(message_of(field.type), data))
        if not field.name:
            out.update(read(value))
        elif field.kind == "{}":
            entry = dict(wire_fields(value))
            key = wire_text(entry.get(1, b""))
            out.setdefault(field.name, {})[key] = read(entry.get(2, b""))
        elif field.kind:
            out.setdefault(field.name, []).append(read(value))
        else:
            out[field.name] = read(value)
    return out

def parse_protobuf(data, type_):
    """The envelope: four bytes, then runtime.Unknown {1: {1: apiVersion, 2: kind}, 2: raw}."""
    try:
        if data[:4] != b"k8s\0":
            raise ValueError("no k8s prefix")
        envelope = dict(wire_fields(data[4:]))
        named = {number: wire_text(value) for number, value in wire_fields(envelope.get(1, b""))}
        meta = {key: named[number] for number, key in ((1, "apiVersion"), (2, "kind"))
                if named.get(number)}
        return dict(meta, **from_protobuf(message_of(type_), envelope.get(2, b"")))
    except (ValueError, IndexError, AttributeError, TypeError, struct.error,
            RecursionError) as error:
        raise bad_request(f"the protobuf body is no {type_}: {error}")

def parse_body(data, media, kind, duplicates=None):
    """A request's body as a dict, not yet cleaned. Raises ApiError 400, 415."""
    if media == "application/vnd.kubernetes.protobuf" and not is_custom(kind):
        return parse_protobuf(data, kind.schema)
    if media in ("application/yaml", "text/yaml"):
        return parse_yaml(data, duplicates)
    if media not in ("", "application/json"):
        raise ApiError(415, "UnsupportedMediaType",
                       "the body can be application/json, application/yaml or, but for custom "
                       "resources, application/vnd.kubernetes.protobuf")
    try:
        body = parse_json(data, duplicates)
    except ValueError as error:
        raise bad_request(f"the body is no JSON: {error}")
    if not isinstance(body, dict):
        raise bad_request("the body is no object")
    return body

# == 14. Patches =============================================================================
# Pure: (present object, patch) -> new object; the arguments are never changed.
def json_patch(current, operations):
    """Apply a JSON patch (RFC 6902). Raises ApiError 422 where an operation does not apply."""
    document, copied = json.loads(dumps(current)), 0
    if len(operations) > 10_000:                                # the API server's own limit
        raise ApiError(413, "RequestEntityTooLarge", "a JSON patch may have 10000 operations")
    for operation in operations:
        try:
            copied += patch_once(document, operation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise unprocessable(f"{dumps(operation).decode()[:200]}: {error}")
        if copied > BODY_BYTES:
            raise unprocessable("it copies too much")
    return document

def find_parent(document, pointer):
    """(what holds the place of a JSON pointer, the key or index in it); RFC 6901."""
    *steps, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    where = document
    for step in steps:
        where = where[int(step)] if isinstance(where, list) else where[step]
    if isinstance(where, list):
        last = len(where) if last == "-" else int(last)
        if not 0 <= last <= len(where):
            raise IndexError(pointer)
    return where, last

def patch_once(document, operation):
    """Carry out one operation in place; returns how many bytes it copied."""
    op, value, copied = operation["op"], operation.get("value"), 0
    if op in ("move", "copy"):
        where, last = find_parent(document, operation["from"])
        value = where.pop(last) if op == "move" else json.loads(dumps(where[last]))
        copied = len(dumps(value)) if op == "copy" else 0
    elif op != "remove" and "value" not in operation:
        raise KeyError("value")
    where, last = find_parent(document, operation["path"])
    is_list = isinstance(where, list)
    copied += len(where) // 16 if is_list else 0                # what comes after it moves
    if op in ("add", "copy", "move") and is_list:
        where.insert(last, value)
    elif op in ("add", "copy", "move") or op == "replace" and not is_list:       # as Kubernetes
        where[last] = value
    else:
        change_present(op, where, last, value)
    return copied

def change_present(op, where, last, value):
    """An operation on what must be there (RFC 6902, 4.3)."""
    found = where[last]
    if op == "replace":
        where[last] = value
    elif op == "remove":
        where.pop(last)
    elif op != "test" or found != value or (
            json.dumps(found, sort_keys=True) != json.dumps(value, sort_keys=True)):
        raise ValueError("is not what is there")

def merge_patch(current, patch):
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    out = dict(current) if isinstance(current, dict) else {}
    out.update((key, merge_patch(out.get(key), value)) for key, value in patch.items())
    return {key: value for key, value in out.items() if patch.get(key, 0) is not None}

# directives that a field's name follows
DELETES, ORDERS = "$deleteFromPrimitiveList/", "$setElementOrder/"

def strategic_merge(fields, current, patch):
    """Apply a strategic merge patch to an object of a Message, by SCHEMA's merge keys; fields
    None: of no known form (apimachinery: strategicpatch). Raises ApiError 400 for a directive that
    is none."""
    if not isinstance(patch, dict):
        raise bad_request("the patch has something else where an object is wanted")
    directive = patch.get("$patch")
    if directive in ("delete", "replace"):
        return {} if directive == "delete" else without(patch, "$patch")
    check_directives(patch)
    out = dict(current) if isinstance(current, dict) else {}
    if "$retainKeys" in patch:
        out = pick(out, patch["$retainKeys"])
    known = fields.by_name if fields else {}
    orders = {key[len(ORDERS):]: value for key, value in patch.items() if key.startswith(ORDERS)}
    for key, value in patch.items():
        if key.startswith(DELETES):
            name = key[len(DELETES):]
            gone = set(map(dumps, value))
            out[name] = [item for item in out.get(name, ()) if dumps(item) not in gone]
        elif key[:1] != "$":
            merge_field(out, key, value, known.get(key), orders.pop(key, None))
    for name in orders.keys() & out.keys():
        out[name] = merge_list(known.get(name), out[name], [], orders[name])
    return out

def check_directives(patch):
    for key, value in patch.items():
        if key[:1] == "$" and not isinstance(value, list):
            raise bad_request(f"{key}: {value!r} is no directive")

def merge_field(out, name, value, field, order):
    """Set one field of an object by what a patch says of it."""
    old, merges = out.get(name), bool(field and field.merges)
    if value is None or is_directive(value) and not isinstance(old, dict):
        out.pop(name, None)                                 # null, or a directive about nothing
    elif isinstance(value, dict) and isinstance(old, dict):
        known = field and not field.kind and is_message(field.type)
        below = message_of(field.type) if known else None
        # for an object it means: replaces
        out[name] = value if merges else strategic_merge(below, old, value)
    elif isinstance(value, list) and isinstance(old, list) and merges:
        out[name] = merge_list(field, old, value, order)
    else:
        out[name] = undirected(value)

def is_directive(value):
    return isinstance(value, dict) and "$patch" in value

def undirected(value):
    """A value that meets nothing to merge with: without nulls, without directives."""
    if isinstance(value, dict):
        return {key: undirected(item) for key, item in value.items() if item is not None and
                key[:1] != "$"}
    if isinstance(value, list):
        return [undirected(item) for item in value if not is_directive(item)]
    return value

def keep_items(current, value, identity):
    """(the items that stay by the directives in a patch of a list, the other items of it)."""
    directives = [item for item in value if is_directive(item)]
    words = {item["$patch"] for item in directives}
    if not words <= {"delete", "merge", "replace"}:
        raise bad_request("$patch of a list's item is delete, merge or replace")
    gone = {identity(item) for item in directives if item["$patch"] == "delete"}
    kept = [] if "replace" in words else [item for item in current if identity(item) not in gone]
    return kept, [item for item in value if not is_directive(item)]

def merge_list(field, current, value, order):
    """The new value of a list that is merged; order: its $setElementOrder, or None. Of equal keys
    the first counts."""
    key = field.keys[0] if field and field.keys else None
    def identity(item):
        if key and key not in item:
            raise bad_request(
                f"{dumps(item).decode()[:200]} has no {key}, by which the list is merged")
        return dumps(item[key] if key else item)
    kept, fresh = keep_items(current, value, identity)
    merged, places = list(kept), {}
    for i, item in enumerate(kept):
        places.setdefault(identity(item), i)
    for item in fresh:
        at = places.setdefault(identity(item), len(merged))
        if at == len(merged):
            merged.append(item)
        elif key:
            merged[at] = strategic_merge(message_of(field.type), merged[at], item)
    order = fresh if order is None else order
    return in_order(merged, list(map(identity, order)), list(map(identity, kept)), identity)

def in_order(items, order, before, identity, new_last=False):
    """The items of a merged list: those in order by it, the others after what they followed
    (mergeSortedSlice). new_last: what was not there before comes after what was."""
    rank = {at: i for i, at in reversed(list(enumerate(order)))}
    place = {at: i for i, at in reversed(list(enumerate(before)))}
    named = deque(sorted((item for item in items if identity(item) in rank),
                         key=lambda item: rank[identity(item)]))
    others, out = deque(item for item in items if identity(item) not in rank), []
    while named and others:
        first, second = place.get(identity(others[0])), place.get(identity(named[0]))
        others_turn = first is not None and (new_last if second is None else first < second)
        out.append((others if others_turn else named).popleft())
    return [*out, *named, *others]

# == 15. Apply ===============================================================================
# Server-side apply: which applier owns which field (KEP-555, sigs.k8s.io/structured-merge-diff).
# Pure. A field set is a set of paths, a path a tuple of elements as fieldsV1 spells them: f:NAME,
# k:{KEYS} or v:VALUE of an item. Other writes take no ownership; conflicts are between appliers.
PARTS = object()                        # stands for a value whose parts are owned one by one
STRIPPED = {("f:apiVersion",), ("f:kind",), ("f:metadata",),
            *(("f:metadata", "f:" + name)
              for name in ("name", "namespace", "creationTimestamp", "selfLink", "uid",
                           "generation", "managedFields", "resourceVersion"))}

def root_field(schema):
    """The Field that a whole object of a kind's schema stands in."""
    return Field("", schema)

def parts_of(field, value):
    """The parts of a map or list as [(path element, its Field, part, whether it is owned itself)];
    None for a value that is owned as a whole."""
    if field.kind == "[]":
        one = element(field)
        return ([(element_of(field.keys, one, item), one, item, True) for item in value or ()]
                if field.applies else None)
    if field.atomic or not isinstance(value, dict):
        return None
    if field.kind == "{}" or field.type == "Raw":
        one = element(field) if field.kind else RAW
        return [(f"f:{name}", one, part, True) for name, part in value.items()]
    fields = message_of(field.type)
    return [(f"f:{name}", fields.by_name.get(name, RAW), part, name not in fields.by_name)
            for name, part in value.items()]

def element_of(keys, field, item):
    """The path element of a list's item: by its keys (or their defaults), or by its value."""
    if not keys:
        return "v:" + json.dumps(item, sort_keys=True)
    fields = message_of(field.type).by_name
    found = {key: dig(item, [key], fields[key].default if key in fields else None) for key in keys}
    if None in found.values():
        raise bad_request(
            f"{dumps(item).decode()[:200]} has no {', '.join(keys)}, by which the list is applied")
    return "k:" + json.dumps(found, sort_keys=True, separators=(",", ":"))

def walk(field, value, path=(), is_own=True, out=None):
    """{path: value, or PARTS} of all in a value that somebody can own. Raises ApiError 400."""
    out, parts = {} if out is None else out, parts_of(field, value)
    if path in out:
        raise bad_request(f"{path_text(path)} is there twice")
    if len(out) > OWNED_FIELDS or len(path) > OWNED_DEPTH:
        raise bad_request(f"what is applied may have {OWNED_FIELDS} fields, {OWNED_DEPTH} deep")
    if path and (not parts or is_own):
        out[path] = value if parts is None else PARTS
    for name, below, part, owns in parts or ():
        walk(below, part, path + (name,), owns, out)
    return out

def owned_by(field, config):
    return walk(field, config).keys() - STRIPPED

def changed_paths(before, after):
    """What was added, modified or removed from one walk() to another."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}

def to_fields_v1(paths):
    """A field set as FieldsV1: a tree in which {} marks the end of a path and "." a path that
    others go through."""
    tree = {}
    for path in paths:
        node = tree
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    return pruned(tree)

def pruned(tree):
    """A tree of field paths in order, without the "." of those that nothing goes through."""
    return {name: pruned(below) if below.keys() != {"."} else {}
            for name, below in sorted(tree.items())}

def from_fields_v1(tree, path=(), out=None):
    out = set() if out is None else out
    must(len(path) <= OWNED_DEPTH, "too deep")
    for element, below in tree.items():
        must(len(out) <= OWNED_FIELDS, "too many fields")
        if element == "." or not below:
            out.add(path if element == "." else path + (element,))
        else:
            from_fields_v1(below, path + (element,), out)
    return out

Manager = namedtuple("Manager", "name version subresource")

def read_managers(entries):
    """The appliers in managedFields as {Manager: (field set, time)}. Raises ApiError 400."""
    try:
        return {Manager(e.get("manager", ""), e.get("apiVersion", ""), e.get("subresource", "")):
                (from_fields_v1(e.get("fieldsV1") or {}), e.get("time"))
                for e in entries or () if e.get("operation") == "Apply"}
    except (TypeError, AttributeError, Told):
        raise bad_request(
            "metadata.managedFields: want a list of entries as the server gives them")

def write_managers(managers):
    """The other way, by name."""
    return [filled(manager=m.name, operation="Apply", apiVersion=m.version, time=time_,
                   fieldsType="FieldsV1", fieldsV1=to_fields_v1(paths), subresource=m.subresource)
            for m, (paths, time_) in sorted(managers.items()) if paths]

def apply_merge(field, live, config):
    """What live becomes when config is applied: its leaves win, the rest of live stays."""
    parts = parts_of(field, config)
    if parts is None or live is None or parts_of(field, live) is None:
        return config if config is not None else live
    old = {name: part for name, _, part, _ in parts_of(field, live)}
    new = {name: apply_merge(below, old.get(name), part) for name, below, part, _ in parts}
    if isinstance(config, dict):
        return {**live, **{name[2:]: part for name, part in new.items()}}
    merged = {**old, **new}
    # by identity, for parts may be equal
    place = {id(part): name for name, part in merged.items()}
    return in_order(list(merged.values()), list(new), list(old), lambda part: place[id(part)],
                    new_last=True)

def remove_paths(field, value, tree):
    """The value without the paths of a FieldsV1 tree; None if nothing is left."""
    kept = []
    for element, below, part, _ in parts_of(field, value) or ():
        node = tree.get(element)
        is_gone = node is not None and (not node or "." in node)
        if node and not is_gone:
            part = remove_paths(below, part, node)
            is_gone = part is None
        if not is_gone:
            kept.append((element[2:], part))
    if not kept:
        return None
    return dict(kept) if isinstance(value, dict) else [part for _, part in kept]

def apply_patch(field, live, config, managers, manager, force):
    """Server-side apply: (new object, managers). What the manager applied before and leaves out
    now goes, unless another applier owns it. Raises ApiError 409 naming all conflicts."""
    wanted, last = owned_by(field, config), managers.get(manager, (set(), None))
    others = {each: paths for each, (paths, _) in managers.items() if each != manager}
    new, before = apply_merge(field, live, config), walk(field, live)
    kept = wanted.union(*others.values())
    held = set()                                                # and what they stand in
    for path in kept:
        while path and path not in held:
            held.add(path)
            path = path[:-1]
    gone = last[0] - held
    if gone:
        new = remove_paths(field, new, to_fields_v1(gone))
    changed = changed_paths(before, walk(field, new)) - STRIPPED
    conflicts = {each: sorted(paths & changed) for each, paths in others.items()
                 if paths & changed}
    if conflicts and not force:
        raise apply_conflict(conflicts)
    is_unchanged = last[0] == wanted and not changed
    out = {each: (paths - changed, managers[each][1]) for each, paths in others.items()}
    return new, {**out, manager: (wanted, last[1] if is_unchanged else now())}

def path_text(path):
    """A path as people read it: .spec.containers[name="c"].image"""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "k":
            rest = ",".join(f"{key}={json.dumps(value)}"
                            for key, value in json.loads(rest).items())
        text += {"f": f".{rest}", "k": f"[{rest}]", "v": f"[={rest}]"}[kind]
    return text

def apply_conflict(conflicts):
    """The 409 for {Manager: paths} that the applied fields belong to."""
    causes = [{"reason": "FieldManagerConflict",
               "message": f"conflict with {json.dumps(manager.name)}", "field": path_text(path)}
              for manager, paths in sorted(conflicts.items()) for path in paths]
    text = "\n".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    return ApiError(409, "Conflict", f"Apply failed with {len(causes)} conflict(s):\n{text}",
                    {"causes": causes})

# == 16. Of each kind ========================================================================
# What is one kind's own, one kind after the other: what it is filled in with, what its checks are
# beyond the rules in SCHEMA, what admission adds or refuses, what an update keeps or may not
# change, its cells in a Table. A check yields a row for each thing that may be wrong: (whether it
# is, the path below the message, the cause's reason, a sentence).
Own = namedtuple("Own", "defaults admit update cells last", defaults=(None,) * 5)
# defaults(obj)                     on every write
# admit(writer, obj)                of a new object; may raise ApiError
# update(writer, old, new)          keeps what the server had filled in; yields what may not
#                                   change, like a check
# cells(obj)                        the cells of the columns that have no path, in their order
# last(writer, obj, old, request)   once all is checked; may raise ApiError
IMMUTABLE = "what is there may not be changed"

# -- Pod, and what has a pod in it
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
AUTOMOUNT_S = 3607  # the life of a token that no pod asked for: its number is its mark

def pull_policy(image):
    return "Always" if split_image(image or "")[1] == "latest" else "IfNotPresent"

def default_pod_spec(spec):
    for _, container in containers_of(spec):
        fill(container, imagePullPolicy=pull_policy(container.get("image")))
    for volume in spec.get("volumes", ()):
        if len(volume) == 1:
            volume["emptyDir"] = {}
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name

def check_mounts(spec, at=".spec", claims=()):
    """claims: what volumeClaimTemplates give besides the volumes."""
    names = {volume["name"] for volume in (*spec.get("volumes", ()), *claims)}
    for where, container in containers_of(spec):
        for i, mount in enumerate(container.get("volumeMounts", ())):
            yield (mount["name"] not in names, f"{at}{where}.volumeMounts[{i}].name", "NotFound",
                   "is the name of no volume")

def check_pod_spec(spec):
    regular = {container["name"] for container in spec.get("containers", ())}
    for i, container in enumerate(spec.get("initContainers", ())):
        at = f".initContainers[{i}]"
        yield (container["name"] in regular, at + ".name", "Duplicate",
               "is the name of another container")
        for field in pick(container,
                          ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")):
            yield (not is_sidecar(container), f"{at}.{field}", "Forbidden",
                   "is for those with restartPolicy Always")
    needs_server = spec.get("dnsPolicy") == "None" and not dig(spec, "dnsConfig.nameservers")
    yield (needs_server, ".dnsConfig.nameservers", "Required",
           "dnsPolicy None has no other name server")

def check_container(container):
    names = [port["name"] for port in container.get("ports", ()) if "name" in port]
    yield len(names) > len(set(names)), ".ports", "Duplicate", "two ports have one name"
    for field in ("livenessProbe", "startupProbe"):
        threshold = dig(container, f"{field}.successThreshold", 1)
        yield threshold != 1, f".{field}.successThreshold", "Invalid", "must be 1"

def check_resources(resources):
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for name in {**requests, **limits}:
        at = f".{'limits' if name in limits else 'requests'}[{name}]"
        yield name.startswith("hugepages-"), at, "Forbidden", "the engine cannot limit huge pages"
        more = quantity_nanos(requests.get(name, "0")) > quantity_nanos(
            limits.get(name, requests.get(name, "0")))
        yield more, ".requests", "Invalid", f"more {name} is requested than the limit of it"

def check_env(entry):
    both = bool(entry.get("value")) and "valueFrom" in entry
    yield both, ".valueFrom", "Invalid", "may not be given beside a value"

def check_requirement(term):
    given = bool(term.get("values"))
    wants = term["operator"] not in ("Exists", "DoesNotExist")
    yield wants and not given, ".values", "Required", "this operator wants values"
    yield given and not wants, ".values", "Forbidden", "this operator takes no values"

def add_tolerations(spec):
    """A pod outlives trouble of its node for five minutes, unless it says something else."""
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key") in (None, key) and t.get("effect") in (None, "NoExecute")
                   for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute",
                                "tolerationSeconds": 300})

def admit_priority(store, pod):
    spec, wanted = pod["spec"], pod["spec"].get("priorityClassName")
    if wanted:
        chosen = store.get("PriorityClass", "", wanted)
    else:
        chosen = next((each for each in store.list("PriorityClass") if each.get("globalDefault")),
                      None)
    if wanted and not chosen:
        raise forbidden(KIND["Pod"], name_of(pod),
                        f"no PriorityClass with name {wanted} was found")
    value = chosen["value"] if chosen else 0
    if spec.get("priority", value) != value:
        raise forbidden(KIND["Pod"], name_of(pod),
                        f"its PriorityClass gives priority {value}, not {spec['priority']}")
    if chosen:
        spec.update(priorityClassName=name_of(chosen), priority=value)
        fill(spec, preemptionPolicy=chosen.get("preemptionPolicy", "PreemptLowerPriority"))
    fill(spec, priority=0, preemptionPolicy="PreemptLowerPriority")

def mounts_at(container, path):
    return any(mount.get("mountPath") == path for mount in container.get("volumeMounts", ()))

def mount_token(store, pod):
    """Give the containers a token of the pod's service account (plugin ServiceAccount)."""
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    user = spec["serviceAccountName"]
    account = store.get("ServiceAccount", namespace, user)
    if not account and user != "default":   # that one comes a moment after its namespace
        raise forbidden(KIND["Pod"], name_of(pod),
                        f'serviceaccount "{user}" not found in {namespace}')
    if dig(account, "imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    wants = dig(spec, "automountServiceAccountToken",
                dig(account, "automountServiceAccountToken", True))
    bare = [container for _, container in containers_of(spec)
            if not mounts_at(container, TOKEN_FOLDER)]
    if not wants or not bare:
        return
    volume = random_name("kube-api-access-")
    for container in bare:
        container.setdefault("volumeMounts", []).append(
            {"name": volume, "readOnly": True, "mountPath": TOKEN_FOLDER})
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    spec.setdefault("volumes", []).append(
        {"name": volume,
         "projected": {"defaultMode": 420,
                       "sources": [{"serviceAccountToken": {"expirationSeconds": AUTOMOUNT_S,
                                                            "path": "token"}},
                                   {"configMap": {"name": "kube-root-ca.crt",
                                                  "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                                   {"downwardAPI": {"items": [{"path": "namespace",
                                                               "fieldRef": field}]}}]}})

def admit_pod(writer, pod):
    """What the default plugins add to a new pod: requests, priority, limits, a token."""
    spec = pod["spec"]
    if is_foreign(pod):
        return
    spec["serviceAccountName"] = spec["serviceAccount"] = (spec.get("serviceAccountName") or
                                                           "default")
    fill(spec, enableServiceLinks=True)
    for _, container in containers_of(spec):
        resources = container["resources"]
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
        for port in container.get("ports", ()) if spec.get("hostNetwork") else ():
            fill(port, hostPort=port["containerPort"])
    add_tolerations(spec)
    admit_priority(writer.store, pod)
    runtime, faults = spec.get("runtimeClassName"), Faults()
    if runtime and runtime not in writer.runtime_names:
        known = ", ".join(writer.runtime_names)
        faults.add("spec.runtimeClassName", "NotFound",
                   f"the engine has no runtime {runtime}; it has {known}")
    if spec.get("ephemeralContainers"):
        faults.add("spec.ephemeralContainers", "Forbidden", "come to a pod that is there")
    faults.check(KIND["Pod"], name_of(pod))
    pod["status"] = {"phase": "Pending"}
    if spec.get("schedulingGates"):
        set_condition(pod, "PodScheduled", "False", "SchedulingGated",
                      "Scheduling is blocked due to non-empty scheduling gates")
    limit_ranges(writer.store, KIND["Pod"], pod)
    pod["status"]["qosClass"] = qos_class(spec)
    mount_token(writer.store, pod)

def fixed_in_pod(spec):
    """What an update of a pod may not change (pkg/apis/core/validation, ValidatePodUpdate)."""
    out = without(spec, "tolerations", "activeDeadlineSeconds", "schedulingGates")
    for field in ("containers", "initContainers"):
        out[field] = [without(each, "image") for each in spec.get(field, ())]
    return out

def update_pod(writer, old, new):
    before, after = old["spec"], new["spec"]
    if not is_foreign(new):
        add_tolerations(after)
        fill(after, **pick(before, ("priority", "preemptionPolicy", "nodeName")))
    gates = before.get("schedulingGates", ())
    added = any(gate not in gates for gate in after.get("schedulingGates", ()))
    yield added, "spec.schedulingGates", "Forbidden", "gates can only be taken away"
    present = [without(each, "tolerationSeconds") for each in after.get("tolerations", ())]
    lost = any(without(each, "tolerationSeconds") not in present
               for each in before.get("tolerations", ()))
    yield lost, "spec.tolerations", "Forbidden", "tolerations can only be added"
    other = fixed_in_pod(before) != fixed_in_pod(after)
    yield (other, "spec", "Forbidden",
           "of a pod only images, activeDeadlineSeconds, tolerations and gates can be changed")

def check_ephemeral(old, new):
    """What may not be done to spec.ephemeralContainers: one only adds
    (ValidatePodEphemeralContainersUpdate)."""
    where, spec = "spec.ephemeralContainers", new["spec"]
    others = {c["name"] for field in ("containers", "initContainers") for c in spec.get(field, ())}
    present = spec.get("ephemeralContainers", [])
    yield (is_foreign(old), "", "Forbidden",
           "the engine made this container, and it has no pod around it")
    for each in old["spec"].get("ephemeralContainers", ()):
        yield (each not in present, where, "Forbidden",
               "one that is there may not be changed or removed")
    for i, each in enumerate(present):
        at, target = f"{where}[{i}]", each.get("targetContainerName")
        yield each["name"] in others, at + ".name", "Duplicate", "is the name of another container"
        yield (target and target not in others, at + ".targetContainerName", "NotFound",
               "is the name of no container")
        for field in pick(
                each, ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports")):
            yield True, f"{at}.{field}", "Forbidden", "is not for an ephemeral container"

def ended_text(end):
    return (end.get("reason") or
            (f"Signal:{end['signal']}" if end.get("signal") else f"ExitCode:{end['exitCode']}"))

def init_reason(pod):
    """(what kubectl says of a pod whose init containers are not done, else ""; how many sidecars
    are ready)."""
    ready, sidecars = 0, {c["name"] for c in sidecars_of(pod["spec"])}
    total = len(pod["spec"].get("initContainers", ()))
    for i, s in enumerate(dig(pod, "status.initContainerStatuses", ())):
        end = dig(s, "state.terminated")
        waiting = dig(s, "state.waiting.reason", "PodInitializing")
        is_done = bool(end) and not end["exitCode"]
        if s["name"] in sidecars and s.get("started") and not is_done:
            ready += s["ready"]
        elif not is_done:
            step = f"{i}/{total}" if waiting == "PodInitializing" else waiting
            return "Init:" + (ended_text(end) if end else step), ready
    return "", ready

def run_reason(pod, reason):
    """(what kubectl says of a pod by its regular containers, how many of them are ready)."""
    error, running, ready = "", False, 0
    for s in reversed(dig(pod, "status.containerStatuses", [])):
        end, waiting = dig(s, "state.terminated"), dig(s, "state.waiting.reason")
        if waiting or end:
            reason = waiting or ended_text(end)
        if end and end["exitCode"]:
            error = reason
        if s["ready"] and dig(s, "state.running") is not None:
            running, ready = True, ready + 1
    if reason == "Completed" and running:
        reason = "Running" if is_condition(pod, "Ready") else error or "NotReady"
    elif reason == "Completed":
        reason = error or reason
    return reason, ready

def pod_reason(pod):
    """(what kubectl says of a pod, how many of its containers are ready, the statuses whose
    restarts count)."""
    status, sidecars = pod.get("status", {}), {c["name"] for c in sidecars_of(pod["spec"])}
    inits, statuses = status.get("initContainerStatuses", []), status.get("containerStatuses", [])
    reason = status.get("reason") or status.get("phase", "")
    if dig(get_condition(pod, "PodScheduled"), "reason") == "SchedulingGated":
        reason = "SchedulingGated"
    initializing, ready = init_reason(pod)
    if initializing and not is_condition(pod, "Initialized"):
        return initializing, ready, inits
    reason, more = run_reason(pod, reason)
    return (initializing or reason, ready + more,
            [s for s in inits if s["name"] in sidecars] + statuses)

def pod_cells(pod):
    """Ready, Status, Restarts, Readiness Gates (printPod)."""
    spec, gates = pod["spec"], pod["spec"].get("readinessGates", ())
    reason, ready, statuses = pod_reason(pod)
    if is_deleting(pod) and not has_ended(pod):
        reason = "Terminating"
    count, ended = sum(s["restartCount"] for s in statuses), 0
    for s in statuses:
        ended = max(ended, seconds_of(dig(s, "lastState.terminated.finishedAt")) or 0)
    ago = f" ({duration(time.time() - ended)} ago)" if count and ended else ""
    open_gates = sum(is_condition(pod, gate["conditionType"]) for gate in gates)
    return [f"{ready}/{len(spec['containers']) + len(sidecars_of(spec))}", reason, f"{count}{ago}",
            f"{open_gates}/{len(gates)}" if gates else "<none>"]

# -- workloads
TEMPLATE_COUNT = "deprecated.daemonset.template.generation"

def default_rolling(message_name):
    """The defaults of an update strategy, which has more to say if it is RollingUpdate."""
    def default(strategy):
        if strategy.get("type") == "RollingUpdate":
            fill_defaults(message_of(message_name), strategy.setdefault("rollingUpdate", {}))
    return default

def check_template(spec):
    claims = [{"name": name_of(each)} for each in spec.get("volumeClaimTemplates", ())]
    return check_mounts(dig(spec, "template.spec", {}), ".template.spec", claims)

def check_workload(spec):
    selector, labels = spec.get("selector"), dig(spec, "template.metadata.labels", {})
    if is_plain(selector):
        selector = {"matchLabels": selector}
    mismatch = bool(selector) and not selects(selector_of(selector), labels)
    yield selector == {}, ".selector", "Invalid", "selects everything"
    yield mismatch, ".template.metadata.labels", "Invalid", "the selector does not select them"
    yield from check_template(spec)
    policy = dig(spec, "template.spec.restartPolicy", "Always")
    yield policy != "Always", ".template.spec.restartPolicy", "NotSupported", "must be Always"

def default_replication_controller(obj):
    spec, meta = obj["spec"], obj["metadata"]
    labels = dig(spec, "template.metadata.labels")
    if labels:
        spec["selector"] = spec.get("selector") or labels
        meta["labels"] = meta.get("labels") or labels

def default_stateful_set(obj):
    for claim in obj["spec"].get("volumeClaimTemplates", ()):
        claim.update(kind="PersistentVolumeClaim", apiVersion="v1")

def default_daemon_set(obj):
    obj["metadata"].setdefault("annotations", {}).setdefault(TEMPLATE_COUNT, "1")

def update_daemon_set(writer, old, new):
    changed = old["spec"]["template"] != new["spec"]["template"]
    count = int(annotation(old, TEMPLATE_COUNT) or 1) + changed
    new["metadata"].setdefault("annotations", {})[TEMPLATE_COUNT] = str(count)
    return ()

def default_job(job):
    spec = job["spec"]
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    fill(spec, parallelism=1, completionMode="NonIndexed", suspend=False, manualSelector=False,
         backoffLimit=2 ** 31 - 1 if "backoffLimitPerIndex" in spec else 6,
         podReplacementPolicy="Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")

INDEXES = 100_000           # of a Job

def check_job_spec(spec):
    yield from check_template(spec)
    restart = dig(spec, "template.spec.restartPolicy")
    indexed = spec.get("completionMode") == "Indexed"
    yield (restart == "Always", ".template.spec.restartPolicy", "Required",
           "must be OnFailure or Never")
    yield (indexed and "completions" not in spec, ".completions", "Required",
           "an Indexed job says how many")
    yield (indexed and spec.get("completions", 0) > INDEXES, ".completions", "Invalid",
           f"an Indexed job may have {INDEXES}")
    per_index = "backoffLimitPerIndex" in spec and not indexed
    yield per_index, ".backoffLimitPerIndex", "Invalid", "is for Indexed jobs"

def admit_job(writer, job):
    """A Job's pods carry its uid, unless it brings its own selector; two old labels remain."""
    spec, meta = job["spec"], job["metadata"]
    if spec["manualSelector"]:
        return
    labels = spec["template"]["metadata"].setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        fill(labels, **{prefix + "controller-uid": meta["uid"], prefix + "job-name": name_of(job)})
    meta["labels"] = meta.get("labels") or labels
    fill(spec.setdefault("selector", {}).setdefault("matchLabels", {}),
         **{"batch.kubernetes.io/controller-uid": meta["uid"]})

def update_job(writer, old, new):
    before, after = old["spec"], new["spec"]
    is_asleep = before.get("suspend") and not dig(old, "status.startTime")
    elastic = (after.get("completionMode") == "Indexed" and
               after.get("completions") == after.get("parallelism"))
    moved = before.get("completions") != after.get("completions")
    yield moved and not elastic, "spec.completions", "Invalid", IMMUTABLE
    changed = before["template"] != after["template"]
    yield changed and not is_asleep, "spec.template", "Invalid", IMMUTABLE

CRON_WORDS = {"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
              "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
              "@hourly": "0 * * * *"}
CRON_FIELDS = (  # lowest, highest, names from the lowest on
    (0, 59, ""), (0, 23, ""), (1, 31, ""),
    (1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    (0, 7, "sun mon tue wed thu fri sat"))

def cron_numbers(text, low, high, names):
    """The numbers that a field of a schedule means: "1,5-9/2,mon". Raises ValueError."""
    numbers, known = set(), names.split()
    value = lambda word: known.index(word) + low if word in known else int(word)
    for part in text.lower().split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span in ("*", "?"):
            begin, end = low, high
        else:
            begin = value(first)
            end = value(last or first) if dash or not slash else high
        if not low <= begin <= end <= high or slash and int(step) < 1:
            raise ValueError(f"{part!r} is not within {low}-{high}")
        numbers.update(range(begin, end + 1, int(step or 1)))
    return numbers

def parse_cron(text):
    """(minutes, hours, days, months, weekdays, whether a day must meet both) of a schedule (cron,
    as robfig/cron reads it). Raises ValueError."""
    fields = CRON_WORDS.get(text, text).split()
    if len(fields) != 5:
        raise ValueError("want five fields, or @daily and the like")
    found = [cron_numbers(field, *limits) for field, limits in zip(fields, CRON_FIELDS)]
    found[4] = {day % 7 for day in found[4]}
    return (*found, any(field[0] in "*?" for field in (fields[2], fields[4])))

def zone_of(spec):
    """The time zone of a CronJob; None is the host's own. Raises ValueError."""
    if not spec.get("timeZone"):
        return None
    from zoneinfo import ZoneInfo
    try:
        return ZoneInfo(spec["timeZone"])
    except (OSError, LookupError):
        raise ValueError(f"{spec['timeZone'][:80]!r} is not known on this host")

def cron_days(cron, day, step):
    """The days from one on, or back, that a schedule means, for nine years: leap days come in
    four, or eight."""
    _, _, days, months, weekdays, is_both = cron
    for _ in range(366 * 9):
        by_date, by_week = day.day in days, day.isoweekday() % 7 in weekdays
        if day.month in months and (by_date and by_week if is_both else by_date or by_week):
            yield day
        day += timedelta(days=step)

def cron_times(cron, zone, begin, step):
    """The times, Unix seconds, from one on (step 1) or back (-1) that a schedule means. What a
    change of the clocks leaves out is passed over."""
    minutes, hours = (sorted(each, reverse=step < 0) for each in cron[:2])
    begin = datetime.fromtimestamp(begin, zone).replace(tzinfo=None)
    for day in cron_days(cron, begin.replace(hour=0, minute=0, second=0, microsecond=0), step):
        for hour, minute in product(hours, minutes):
            local = day.replace(hour=hour, minute=minute)
            if (local - begin).total_seconds() * step < 0:
                continue
            at = local.replace(tzinfo=zone).timestamp()
            if datetime.fromtimestamp(at, zone).replace(tzinfo=None) == local:
                yield at

def next_time(cron, zone, after):
    """The first time after one, Unix seconds, that a schedule means; None for never."""
    return next((at for at in cron_times(cron, zone, after, 1) if at > after), None)

def last_time(cron, zone, after, until):
    """The last time that a schedule means, after one and until another; None for none."""
    at = next((at for at in cron_times(cron, zone, until, -1) if at <= until), None)
    return at if at is not None and at > after else None

def check_cron_job_spec(spec):
    for field, read in (("schedule", lambda: parse_cron(spec["schedule"])),
                        ("timeZone", lambda: zone_of(spec))):
        try:
            read()
        except ValueError as error:
            yield True, "." + field, "Invalid", str(error)

def check_budget(spec):
    both = "minAvailable" in spec and "maxUnavailable" in spec
    yield both, "", "Invalid", "minAvailable and maxUnavailable exclude each other"

def ready_cells(obj):
    return [f"{dig(obj, 'status.readyReplicas', 0)}/{obj['spec'].get('replicas', 0)}"]

def job_cells(job):
    spec, status = job["spec"], job.get("status", {})
    began, until = (seconds_of(status.get(field)) for field in ("startTime", "completionTime"))
    wanted = dig(spec, "completions", 1)
    if "completions" not in spec and spec.get("parallelism", 0) > 1:
        wanted = f"1 of {spec['parallelism']}"
    states = ["Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"]
    state = next((each for each in states if is_condition(job, each)), "Running")
    if is_deleting(job) and state not in ("Complete", "Failed"):
        state = "Terminating"
    took = "" if began is None else duration((until or time.time()) - began)
    return [state, f"{status.get('succeeded', 0)}/{wanted}", took]

def cron_job_cells(obj):
    return [str(obj["spec"].get("suspend", "<unset>")), len(dig(obj, "status.active", ()))]

# -- Service, Endpoints, Ingress
def default_service(service):
    spec = service["spec"]
    for port in spec.get("ports", ()):
        port["targetPort"] = port.get("targetPort") or port["port"]
    if spec.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    if spec["type"] != "ExternalName":
        fill(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        fill(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        fill(spec, allocateLoadBalancerNodePorts=True)
    if spec["sessionAffinity"] == "ClientIP":
        fill(spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}),
             timeoutSeconds=10800)
    else:
        spec.pop("sessionAffinityConfig", None)

SERVICE_PORTS = 100         # of a Service, of an EndpointSlice

def check_service_spec(spec):
    too_many = len(spec.get("ports", ())) > SERVICE_PORTS
    yield too_many, ".ports", "TooMany", f"at most {SERVICE_PORTS}"
    type_, ports = spec["type"], spec.get("ports", ())
    is_headless = spec.get("clusterIP") == "None"
    yield (not ports and type_ != "ExternalName" and not is_headless, ".ports", "Required",
           "a Service has ports")
    yield (type_ == "ExternalName" and not spec.get("externalName"), ".externalName", "Required",
           "a DNS name")
    names = [port.get("name") for port in ports]
    for i, port in enumerate(ports):
        at = f".ports[{i}]"
        yield len(ports) > 1 and not names[i], at + ".name", "Required", "several ports have names"
        yield names[i] in names[:i], at + ".name", "Duplicate", "names another port, too"
        yield (type_ == "ClusterIP" and "nodePort" in port, at + ".nodePort", "Forbidden",
               "is not for type ClusterIP")

def update_service(writer, old, new):
    """It keeps its address; and loses what only its former type had, if that is unchanged."""
    before, after = old["spec"], new["spec"]
    exposed, ports = ("NodePort", "LoadBalancer"), after.get("ports", ())
    if before["type"] in exposed and after["type"] not in exposed:
        had = {port.get("nodePort") for port in before.get("ports", ())}
        for port in ports if had >= {port.get("nodePort") for port in ports} else ():
            port.pop("nodePort", None)
        for field in ("externalTrafficPolicy", "allocateLoadBalancerNodePorts",
                      "loadBalancerClass"):
            if after.get(field) == before.get(field):
                after.pop(field, None)
    if "ExternalName" not in (before["type"], after["type"]):
        after.update(filled(clusterIP=after.get("clusterIP") or before.get("clusterIP")))
        moved = before.get("clusterIP") not in (None, after.get("clusterIP"))
        yield moved, "spec.clusterIPs[0]", "Invalid", IMMUTABLE

def check_slice(obj):
    type_, ports = obj.get("addressType"), obj.get("ports", ())
    yield len(obj.get("endpoints", ())) > 1000, ".endpoints", "TooMany", "at most 1000"
    yield len(ports) > SERVICE_PORTS, ".ports", "TooMany", f"at most {SERVICE_PORTS}"
    names = [port.get("name") for port in ports]
    yield len(names) > len(set(names)), ".ports", "Duplicate", "two ports have one name"
    for i, endpoint in enumerate(obj.get("endpoints", ())):
        for j, address in enumerate(endpoint["addresses"] if type_ in ("IPv4", "IPv6") else ()):
            good = is_endpoint(address) and (":" in address) == (type_ == "IPv6")
            yield (not good, f".endpoints[{i}].addresses[{j}]", "Invalid",
                   f"must be an {type_} address, and not loopback, link-local or multicast")

def ingress_ips(obj):
    """The addresses in the status of a Service or an Ingress."""
    found = dig(obj, "status.loadBalancer.ingress", ())
    return sorted({one.get("ip") or one.get("hostname") for one in found} - {None})

def service_cells(service):
    spec, type_ = service["spec"], service["spec"]["type"]
    external, ports = "<none>", []
    if type_ == "ExternalName":
        external = spec.get("externalName", "")
    elif type_ == "LoadBalancer":
        external = ",".join(ingress_ips(service)) or "<pending>"
    for port in spec.get("ports", ()):
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port['port']}{node_port}/{port['protocol']}")
    return [external, ",".join(ports) or "<none>"]

def ingress_cells(ingress):
    hosts = [rule["host"] for rule in ingress["spec"].get("rules", ()) if rule.get("host")]
    return [cut(hosts, "*"), ",".join(ingress_ips(ingress)),
            "80, 443" if ingress["spec"].get("tls") else "80"]

def endpoints_cells(obj):
    found = []
    for subset in obj.get("subsets", ()):
        addresses = [one["ip"] for one in subset.get("addresses", ())]
        ports = [port["port"] for port in subset.get("ports", ())]
        found += [f"{ip}:{port}" for port in ports for ip in addresses] if ports else addresses
    return [cut(found)]

def slice_cells(obj):
    ports = [str(port.get("port", port.get("name", "*"))) for port in obj.get("ports", ())]
    addresses = [ip for one in obj.get("endpoints", ()) for ip in one.get("addresses", ())]
    return [cut(ports, "<unset>"), cut(addresses, "<unset>")]

def allocate(writer, service, old, request):
    writer.allocate(service, old)

# -- ConfigMap, Secret, ServiceAccount
def default_secret(secret):
    for key, value in secret.pop("stringData", {}).items():
        secret.setdefault("data", {})[key] = in_base64(value)

def admit_secret(writer, secret):
    if secret.get("type") == "kubernetes.io/service-account-token":
        writer.access.fill_token(secret)

def check_config_map(obj):
    for key in obj.get("data", {}).keys() & obj.get("binaryData", {}).keys():
        yield True, f".data[{key}]", "Invalid", "is a key of binaryData, too"

def update_data(writer, old, new):
    changed = any(old.get(field) != new.get(field)
                  for field in ("data", "binaryData", "immutable"))
    where = "data" if new.get("immutable") else "immutable"
    yield old.get("immutable") and changed, where, "Forbidden", IMMUTABLE

def data_cells(obj):
    return [len(obj.get("data", ())) + len(obj.get("binaryData", ()))]

# -- storage
IS_DEFAULT = "storageclass.kubernetes.io/is-default-class"
PROVISIONER, PROVISIONED_BY = "k2d.io/engine-volume", "pv.kubernetes.io/provisioned-by"

def is_ours(pv):
    """Whether a PersistentVolume is an engine volume, that k2d has made or was told of."""
    return annotation(pv, PROVISIONED_BY) == PROVISIONER

def engine_volume(pv):
    """The engine's name of such a volume."""
    return annotation(pv, PROVISIONER) or name_of(pv)

def is_for(pv, claim):
    ref = pv["spec"].get("claimRef") or {}              # a client may reserve it by name alone
    return (ref.get("namespace"), ref.get("name")) == key_of(claim) and (
        ref.get("uid") in (None, "", claim["metadata"]["uid"]))

def default_class(store):
    """The StorageClass for claims that name none: the newest that is marked so, or None."""
    marked = [(c["metadata"]["creationTimestamp"], name_of(c)) for c in store.list(
        "StorageClass", holding=IS_DEFAULT.encode()) if annotation(c, IS_DEFAULT) == "true"]
    return max(marked)[1] if marked else None

def storage_nanos(claim):
    return quantity_nanos(dig(claim, "spec.resources.requests.storage", "0"))

def check_engine_volume(obj):
    named = annotation(obj, PROVISIONER)
    is_odd = named and not fits("filename", named)
    yield is_odd, f"metadata.annotations[{PROVISIONER}]", "Invalid", form_text("filename")

def check_claim_spec(spec):
    no_size = storage_nanos({"spec": spec}) <= 0
    yield no_size, ".resources[storage]", "Required", "must be more than zero"

def admit_claim(writer, claim):
    name = default_class(writer.store)
    if name:
        fill(claim["spec"], storageClassName=name)

def update_claim(writer, old, new):
    """A bound claim may grow, if its class allows it."""
    before, after, is_bound = old["spec"], new["spec"], dig(old, "status.phase") == "Bound"
    had, wants = storage_nanos(old), storage_nanos(new)
    class_ = writer.store.get("StorageClass", "", after.get("storageClassName") or "")
    if wants > had and not (is_bound and dig(class_, "allowVolumeExpansion")):
        raise forbidden(KIND["PersistentVolumeClaim"], name_of(new),
                        "a claim can grow when it is bound, and its StorageClass allows expansion")
    free = ["storageClassName", *["resources"] * is_bound,
            *["volumeName"] * (not before.get("volumeName"))]
    changed = without(before, *free) != without(after, *free)
    yield changed, "spec", "Forbidden", IMMUTABLE
    yield (wants < had and is_bound, "spec.resources.requests.storage", "Forbidden",
           "a claim cannot shrink")

def admit_volume(writer, pv):
    pv["status"]["lastPhaseTransitionTime"] = now()

ACCESS_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX",
                "ReadWriteOncePod": "RWOP"}

def short_modes(modes):
    return ",".join(short for mode, short in ACCESS_MODES.items() if mode in (modes or ()))

def shown_phase(obj):
    return "Terminating" if is_deleting(obj) else dig(obj, "status.phase", "")

def volume_cells(pv):
    """Capacity, Access Modes, Status, Claim, StorageClass."""
    spec, claim = pv["spec"], pv["spec"].get("claimRef")
    return [dig(spec, "capacity.storage", ""), short_modes(spec.get("accessModes")),
            shown_phase(pv),
            f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
            spec.get("storageClassName", "")]

def claim_cells(claim):
    """Status, Capacity, Access Modes, StorageClass, VolumeAttributesClass."""
    spec = claim["spec"]
    status = claim.get("status", {}) if spec.get("volumeName") else {}
    capacity = dig(status, "capacity.storage", "0" if spec.get("volumeName") else "")
    return [shown_phase(claim), capacity, short_modes(status.get("accessModes")),
            spec.get("storageClassName", ""), "<unset>"]

def storage_class_cells(obj):
    return [name_of(obj) + (" (default)" if annotation(obj, IS_DEFAULT) == "true" else "")]

# -- the cluster: Namespace, Node, Event, quotas, roles, definitions
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public")

def default_namespace(namespace):
    namespace["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name_of(
        namespace)

def admit_namespace(writer, namespace):
    fill(namespace["spec"], finalizers=["kubernetes"])

def update_namespace(writer, old, new):
    new["spec"].update(pick(old["spec"], ("finalizers",)))
    return ()

def admit_node(writer, node):
    taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    others = [t for t in node["spec"].get("taints", ()) if t["key"] != taint["key"]]
    node["spec"]["taints"] = [taint, *others]

def node_cells(node):
    role, ready = "node-role.kubernetes.io/", get_condition(node, "Ready")
    status = {"True": "Ready", None: "Unknown"}.get(dig(ready, "status"), "NotReady")
    roles = sorted(key[len(role):] for key in labels_of(node) if key.startswith(role))
    cordoned = ",SchedulingDisabled" if node["spec"].get("unschedulable") else ""
    return [status + cordoned, ",".join(roles) or "<none>"]

def event_cells(event):
    target, source, series = (event.get(field) or {}
                              for field in ("involvedObject", "source", "series"))
    first = age(event.get("firstTimestamp") or event.get("eventTime"))
    last = series.get("lastObservedTime") if series else event.get("lastTimestamp")
    host, name = source.get("host") or event.get("reportingInstance"), target.get("name")
    where = source.get("component") or event.get("reportingComponent") or ""
    return [age(last) if last else first,
            target.get("kind", "").lower() + (f"/{name}" if name else ""),
            where + (f", {host}" if host else ""), event.get("message", "").strip(), first,
            series.get("count", 0) if series else event.get("count") or 1]

def default_limits(item):
    """What a LimitRange gives to containers that ask for nothing."""
    if item.get("type") == "Container":
        default = {**item.get("max", {}), **item.get("default", {})}
        request = {**item.get("min", {}), **default, **item.get("defaultRequest", {})}
        item.update(filled(default=default, defaultRequest=request))

def default_subject(subject):
    if subject.get("kind") in ("User", "Group"):
        subject["apiGroup"] = "rbac.authorization.k8s.io"

def check_rule(rule):
    paths, resources = rule.get("nonResourceURLs"), rule.get("resources")
    yield (paths and resources, ".nonResourceURLs", "Invalid",
           "a rule is about resources or about paths")
    for field in ("apiGroups", "resources"):
        yield (not paths and not rule.get(field), "." + field, "Required",
               "a rule about resources names them")

def check_binding(binding):
    is_cluster = binding.get("kind") == "ClusterRoleBinding"
    wrong = is_cluster and dig(binding, "roleRef.kind") == "Role"
    yield wrong, ".roleRef.kind", "NotSupported", "must be ClusterRole"
    for i, subject in enumerate(binding.get("subjects", ())):
        lost = (is_cluster and subject.get("kind") == "ServiceAccount" and
                not subject.get("namespace"))
        yield lost, f".subjects[{i}].namespace", "Required", "of a ServiceAccount"

def check_rights(writer, obj, old, request):
    """Nobody gives away rights that they do not have."""
    if request:
        writer.access.check_escalation(request.user, home_of(obj), obj)

def check_priority(obj):
    is_system = name_of(obj).startswith("system-")
    known = name_of(obj) in ("system-node-critical", "system-cluster-critical")
    yield (is_system and not known, ".metadata.name", "Forbidden",
           "names with system- are the system's")
    yield (not is_system and obj["value"] > 10 ** 9, ".value", "Forbidden",
           "may be 1000000000 at most")

def check_review(spec):
    given = [field for field in ("resourceAttributes", "nonResourceAttributes") if field in spec]
    yield (len(given) != 1, ".resourceAttributes", "Invalid",
           "want either these or nonResourceAttributes")

def default_definition(crd):
    spec, names, status = crd["spec"], crd["spec"]["names"], crd.setdefault("status", {})
    kind = names.get("kind", "")
    names["singular"] = names.get("singular") or kind.lower()
    names["listKind"] = names.get("listKind") or kind + "List"
    fill(spec, conversion={"strategy": "None"})
    stored = [version["name"] for version in spec["versions"] if version["storage"]]
    status["storedVersions"] = status.get("storedVersions") or stored[:1]

def check_definition(crd):
    spec = crd["spec"]
    names, versions = spec["names"], spec["versions"]
    for field in ("plural", "kind"):
        yield not names.get(field), f".spec.names.{field}", "Required", "of the resources"
    wanted = f"{names.get('plural', '')}.{spec.get('group', '')}"
    yield (name_of(crd) != wanted, ".metadata.name", "Invalid",
           "must be spec.names.plural + . + spec.group")
    yield ("." not in spec.get("group", "."), ".spec.group", "Invalid",
           "must be a domain, such as example.com")
    for i, version in enumerate(versions):
        schema = dig(version, "schema.openAPIV3Schema")
        yield (not schema, f".spec.versions[{i}].schema.openAPIV3Schema", "Required",
               "the form of its objects")
    stored = sum(version["storage"] for version in versions)
    yield stored != 1, ".spec.versions", "Invalid", "just one version has storage: true"

# -- the tables of all this
DEFAULTS = {  # message -> what fills it in beyond the defaults of SCHEMA
    "PodSpec": default_pod_spec, "DeploymentStrategy": default_rolling("RollingUpdateDeployment"),
    "DaemonSetUpdateStrategy": default_rolling("RollingUpdateDaemonSet"),
    "StatefulSetUpdateStrategy": default_rolling("RollingUpdateStatefulSetStrategy"),
    "LimitRangeItem": default_limits, "Subject": default_subject,
}
CHECKS = {  # message -> its check
    "Pod": lambda pod: check_mounts(pod["spec"]),
    "PodSpec": check_pod_spec, "Container": check_container, "EnvVar": check_env,
    "ResourceRequirements": check_resources,
    **dict.fromkeys(("LabelSelectorRequirement", "NodeSelectorRequirement"), check_requirement),
    **dict.fromkeys(("DeploymentSpec", "ReplicaSetSpec", "StatefulSetSpec", "DaemonSetSpec",
                     "ReplicationControllerSpec"), check_workload),
    "JobSpec": check_job_spec, "CronJobSpec": check_cron_job_spec,
    "PodDisruptionBudgetSpec": check_budget, "ServiceSpec": check_service_spec,
    "EndpointSlice": check_slice, "ConfigMap": check_config_map,
    **dict.fromkeys(("PersistentVolume", "PersistentVolumeClaim"), check_engine_volume),
    "PersistentVolumeClaimSpec": check_claim_spec, "PriorityClass": check_priority,
    "PolicyRule": check_rule, "CustomResourceDefinition": check_definition,
    **dict.fromkeys(("RoleBinding", "ClusterRoleBinding"), check_binding),
    **dict.fromkeys(("SelfSubjectAccessReviewSpec", "SubjectAccessReviewSpec"), check_review),
}
OWN = {  # kind -> its Own
    "Pod":                      Own(None, admit_pod, update_pod, pod_cells),
    "ReplicationController":    Own(default_replication_controller),
    "Deployment":               Own(cells=ready_cells),
    "StatefulSet":              Own(default_stateful_set, cells=ready_cells),
    "DaemonSet":                Own(default_daemon_set, None, update_daemon_set),
    "CronJob":                  Own(cells=cron_job_cells),
    "Job":                      Own(default_job, admit_job, update_job, job_cells),
    "Service":                  Own(default_service, None, update_service, service_cells,
                                    allocate),
    "Endpoints":                Own(cells=endpoints_cells),
    "EndpointSlice":            Own(cells=slice_cells),
    "Ingress":                  Own(cells=ingress_cells),
    "ConfigMap":                Own(None, None, update_data, data_cells),
    "Secret":                   Own(default_secret, admit_secret, update_data, data_cells),
    "PersistentVolumeClaim":    Own(None, admit_claim, update_claim, claim_cells),
    "PersistentVolume":         Own(None, admit_volume, None, volume_cells),
    "StorageClass":             Own(cells=storage_class_cells),
    "Namespace":                Own(default_namespace, admit_namespace, update_namespace),
    "Node":                     Own(None, admit_node, None, node_cells),
    "Event":                    Own(cells=event_cells),
    "CustomResourceDefinition": Own(default_definition),
    **dict.fromkeys(("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"),
                    Own(last=check_rights)),
}
NOTHING = Own()

# == 17. Admission ===========================================================================
# What is done to every object that is written: defaults, limits, quotas, validation.
def fill_defaults(fields, value):
    """Set the defaults of a Message in place, in it and in those below it."""
    for name, field in fields.by_name.items():
        if field.default is None and name not in value:
            continue
        found, is_nullable = value.get(name), ("nullable",) in field.rules
        # Go's zero stands for absence
        is_unset = name not in value if is_nullable else found is None
        if field.default is not None and (is_unset or found == "" and not field.pointer):
            found = value[name] = json.loads(dumps(field.default))
        if found is not None:
            default_below(field, found)
    if fields.name in DEFAULTS:
        DEFAULTS[fields.name](value)


def default_below(field, value):
    if field.kind:
        one = element(field)
        for item in value if field.kind == "[]" else value.values():
            default_below(one, item)
    elif is_message(field.type) and isinstance(value, dict):
        fill_defaults(message_of(field.type), value)

# -- LimitRange: what containers get and may ask for
def limit_ranges(store, kind, obj):
    """Fill in the namespace's LimitRanges, then check the containers by them. Raises 403."""
    faults = []
    limits = [limit for each in store.list("LimitRange", obj["metadata"].get("namespace"))
              for limit in each["spec"]["limits"] if limit["type"] == "Container"]
    for limit in limits:
        for _, container in containers_of(obj["spec"]):
            resources = container.setdefault("resources", {})
            for side, field in (("requests", "defaultRequest"), ("limits", "default")):
                resources.update(filled(**{side: {**limit.get(field, {}),
                                                  **resources.get(side, {})}}))
            faults += limit_faults(limit, resources)
    if faults:
        raise forbidden(kind, name_of(obj), "; ".join(faults))

def limit_faults(limit, resources):
    """What is wrong with {requests, limits} by one item of a LimitRange, a sentence each."""
    for field, side, sign in (("min", "requests", 1), ("max", "limits", -1)):
        for name, bound in sorted(limit.get(field, {}).items()):
            has = dig(resources, [side, name])
            text = f"{field}imum {name} usage per Container is {bound}"
            if has is None:
                yield f"{text}, but it has none in its {side}"
            elif (quantity_nanos(has) - quantity_nanos(bound)) * sign < 0:
                yield f"{text}, but {has} is in its {side}"

# -- ResourceQuota: objects are counted, requests and limits summed

def quota_usage(kind, obj):
    """What an object counts for a ResourceQuota: {resource: units of 10^-9}."""
    one, spec = 10 ** 9, obj.get("spec", {})
    out = {"count/" + resource_name(kind): one}
    if kind.id == "Pod" and has_ended(obj):
        return out
    if not kind.group:
        out[kind.plural] = one
    if kind.id == "Pod":
        requests, limits = pod_total(spec, "requests"), pod_total(spec, "limits")
        out.update(pick(requests, ("cpu", "memory", "ephemeral-storage")))
        out.update((f"requests.{name}", nanos) for name, nanos in requests.items())
        out.update((f"limits.{name}", nanos) for name, nanos in limits.items())
    elif kind.id == "Service":
        exposed = len(spec.get("ports", ())) if spec["type"] in ("NodePort", "LoadBalancer") else 0
        out["services.nodeports"] = exposed * one
        out["services.loadbalancers"] = one if spec["type"] == "LoadBalancer" else 0
    elif kind.id == "PersistentVolumeClaim":
        prefix = f"{spec.get('storageClassName', '')}.storageclass.storage.k8s.io/"
        out["requests.storage"] = out[prefix + "requests.storage"] = storage_nanos(obj)
        out[prefix + kind.plural] = one
    return out

def quota_used(store, quota):
    """{resource: units of 10^-9} that the namespace's objects use of a quota's hard limits."""
    hard, used = quota["spec"].get("hard", {}), Counter()
    for kind in [kind for kind in KINDS if kind.namespaced and kind.kept not in ("-", "usage") and
                 is_stored(kind)]:
        counted = "count/" + resource_name(kind) in hard or kind.plural in hard
        if counted or kind.id in ("Pod", "Service", "PersistentVolumeClaim"):
            for obj in store.list(kind.id, quota["metadata"]["namespace"]):
                used.update(quota_usage(kind, obj))
    return {name: used[name] for name in hard}

def unspecified(hard, pod):
    """The resources of a quota that a container of a pod says nothing of."""
    for name in hard:
        side, _, resource = name.partition(".") if "." in name else ("requests", "", name)
        is_summed = (side in ("requests", "limits") and
                     resource in ("cpu", "memory", "ephemeral-storage"))
        for container in pod["spec"].get("containers", ()):
            if is_summed and resource not in dig(container, f"resources.{side}", {}):
                yield f"{name} for: {container['name']}"

def check_quota(store, kind, obj, old=None):
    """Refuse an object that would go beyond a ResourceQuota of its namespace (403); old: what it
    replaces. The caller's transaction."""
    for quota in store.list("ResourceQuota",
                            obj["metadata"]["namespace"]) if kind.namespaced else ():
        hard, more = quota["spec"].get("hard", {}), Counter(quota_usage(kind, obj))
        more.subtract(quota_usage(kind, old) if old else {})
        more = {name: amount for name, amount in more.items() if name in hard and amount > 0}
        missing = sorted(unspecified(hard, obj)) if kind.id == "Pod" and not old else []
        if missing:
            raise forbidden(kind, name_of(obj),
                            f"failed quota: {name_of(quota)}: must specify {'; '.join(missing)}")
        used = quota_used(store, quota) if more else {}
        for name, amount in sorted(more.items()):
            if used[name] + amount > quantity_nanos(hard[name]):
                raise forbidden(kind, name_of(obj),
                                f"exceeded quota: {name_of(quota)}, requested: "
                                f"{name}={quantity_text(amount)}, used: "
                                f"{quantity_text(used[name])}, limited: {hard[name]}")

# -- validation
KIND_NAMES = {"Namespace": "label", "Service": "rfc1035",   # the others: subdomain
              **dict.fromkeys(("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"),
                              "urlpart")}

def add_rows(faults, rows, path=""):
    """Add to Faults what a check yields of a message at a path."""
    for is_wrong, at, *told in rows:
        if is_wrong:
            faults.add(path + at, *told)

def check_message(fields, value, path, faults, old=None):
    """Check an object, and those below it, by the rules of its Message and by CHECKS. old: what
    was there before."""
    given = fields.one & value.keys()
    if fields.one and len(given) != 1:
        faults.add(path, "Invalid" if given else "Required",
                   "want just one of " + ", ".join(sorted(fields.one)))
    for name, field in fields.by_name.items():
        if name not in value and not field.rules:
            continue
        found, before, at = value.get(name), old.get(name) if old else None, f"{path}.{name}"
        if ("fixed",) in field.rules and old is not None and before != found:
            faults.add(at, "Invalid", IMMUTABLE)
        check_field(field, found, at, faults, before)
    if fields.name in CHECKS:
        add_rows(faults, CHECKS[fields.name](value), path)

def check_field(field, value, path, faults, old=None):
    """Check what stands in a field, or None, and what is below it."""
    for rule, *details in field.rules:
        if rule == "form":
            check_forms(field, details[0], value, path, faults)
        elif rule == "unique":
            add_rows(faults, check_unique(field, value or ()), path)
        elif field.kind and rule in ("enum", "range"):
            for i, item in enumerate(value or ()):
                add_rows(faults, [broken(rule, details, item, field)], f"{path}[{i}]")
        else:
            add_rows(faults, [broken(rule, details, value, field)], path)
    if value is not None:
        check_below(field, value, path, faults, old)

def check_below(field, value, path, faults, old):
    """Check the items of a list, the values of a map, or the fields of an object."""
    if not field.kind:
        if is_message(field.type):
            check_message(message_of(field.type), value, path, faults, old)
        return
    one = element(field)
    one = one if one is field.type else one._replace(rules=())
    if one.rules or one.kind or is_message(one.type):
        for i, item in enumerate(value) if field.kind == "[]" else value.items():
            step = str(i)[:STEP_CHARS]
            at = f"{path}.{step}" if is_custom_map(field) else f"{path}[{step}]"
            check_field(one, item, at, faults)

def is_custom_map(field):
    """Whether the paths below a map are those of a JSON schema."""
    return field.kind == "{}" and isinstance(field.type, Field)

def check_unique(field, items):
    """Rows for the items of a list that have the keys of one before them, or its value."""
    seen = set()
    at = "." + field.keys[0] if len(field.keys) == 1 else ""
    for i, item in enumerate(items):
        name = dumps(pick(item, field.keys or ("name",)) if isinstance(item, dict) else item)
        yield name in seen, f"[{i}]{at}", "Duplicate", "is there twice"
        seen.add(name)

def broken(rule, details, value, field):
    """A row, as a check yields it, of one rule and the value, or None, that it is about."""
    is_unset = value is None or value == "" and not (field.always or field.pointer)
    if rule in ("req", "there"):
        return value is None or rule == "req" and not value, "", "Required", "must be given"
    if is_unset or rule in ("fixed", "nullable"):
        return False, "", "", ""
    if rule == "enum" and value in details[0]:
        return False, "", "", ""
    if rule == "enum":
        words = ", ".join(sorted(map(str, details[0])))[:FAULT_CHARS]
        return True, "", "NotSupported", f"must be one of {words}", value
    low, high = details
    if rule == "range":
        return not low <= value <= high, "", "Invalid", f"must be {low} to {high}", value
    reason = "TooLong" if isinstance(value, str) else "TooMany"
    return (not low <= len(value) <= high, "", reason if len(value) > high else "Invalid",
            f"must have {low} to {high}")

def check_forms(field, form, value, path, faults):
    """Check texts by a form: the value, each of a list, or the keys and values of a map."""
    if field.kind == "{}":
        of_key, of_value = MAP_FORMS[form]
        as_a_whole = form in ("labels", "keys")                   # the cause names the map
        texts = []
        for key, item in (value or {}).items():
            at = path if as_a_whole else f"{path}[{key}]"
            # "/", since an empty key has no form
            texts += [(at, of_key, key or "/"), (at, of_value, item)]
    elif field.kind == "[]":
        texts = [(f"{path}[{i}]", form, item) for i, item in enumerate(value or ())]
    else:
        texts = [(path, form, value)]
    for at, wanted, text in texts:
        if wanted and text not in (None, "") and not fits(wanted, text):
            faults.add(at, "Invalid", form_text(wanted), text)

def validate(kind, obj, faults, old=None):
    """Check a whole object."""
    name = name_of(obj)
    form = KIND_NAMES.get(kind.id, "subdomain")
    if not name:
        faults.add("metadata.name", "Required", "or generateName")
    elif not fits(form, name):
        faults.add("metadata.name", "Invalid", form_text(form), name)
    if old and is_deleting(old):
        kept = old["metadata"].get("finalizers", ())
        added = [each for each in obj["metadata"].get("finalizers", ()) if each not in kept]
        add_rows(faults,
                 [(added, "metadata.finalizers", "Forbidden",
                   "none can be added to what is being deleted")])
    check_message(message_of(kind.schema), obj, "", faults, old)

# == 18. Writing =============================================================================
# The one way to the store, for verbs, controllers and worker alike: create, prepare, settle,
# delete.
SERVER_FIELDS = (  # of metadata; an update keeps them
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "managedFields")
PROTECTED = {  # new objects of a kind -> the finalizer that they get
    "PersistentVolumeClaim": "kubernetes.io/pvc-protection",
    "PersistentVolume": "kubernetes.io/pv-protection"}

class Writer:
    """Every method may run in any thread. runtime_names: those that the engine has."""
    def __init__(self, settings, store, access):
        self.settings, self.store, self.access, self.runtime_names = settings, store, access, ()

    def create(self, kind, namespace, obj, dry_run=False, request=None, managers=None):
        """Admit and store a new object; returns it as stored. Raises ApiError."""
        if request is None:                                     # our own: into the same shape
            obj = clean_message(message_of(kind.schema), obj, Findings(), "")
        obj = {"kind": kind.name, "apiVersion": group_version(kind), **obj}
        meta = obj["metadata"] = without(obj["metadata"], "selfLink", "resourceVersion",
                                         "deletionTimestamp", "deletionGracePeriodSeconds",
                                         "managedFields", "generation", "namespace")
        # ours alone: it means a container of somebody else
        meta.get("annotations", {}).pop(FOREIGN, None)
        if managers:
            meta["managedFields"] = write_managers(managers)
        with self.store.transaction():
            if kind.namespaced:
                meta["namespace"] = namespace
                self.check_namespace(kind, namespace, name_of(obj))
            if not name_of(obj) and meta.get("generateName"):
                meta["name"] = self.free_name(kind, namespace, meta["generateName"][:58])
            meta.update(uid=new_uid(), creationTimestamp=now())
            if "gen" in kind.marks:
                meta["generation"] = 1
            if "status" in kind.subresources:
                obj.pop("status", None)
            status = message_of(kind.schema).by_name.get("status")
            if status and status.plain:
                obj["status"] = empty(status)
            obj = self.prepare(kind, obj, None, request)
            if self.store.row(kind.id, key_of(obj)):
                raise already_exists(kind, name_of(obj))
            check_quota(self.store, kind, obj)
            if not dry_run:
                self.store.put(obj)
        return obj

    def free_name(self, kind, namespace, base):
        while True:
            name = random_name(base)
            if not self.store.row(kind.id, (namespace, name)):
                return name

    def check_namespace(self, kind, namespace, name):
        row = self.store.row("Namespace", ("", namespace))
        if not row:
            raise not_found(KIND["Namespace"], namespace)
        if b'"phase":"Terminating"' in row.raw:
            why = f"namespace {namespace} is being terminated"
            cause = {"reason": "NamespaceTerminating", "message": why,
                     "field": "metadata.namespace"}
            raise forbidden(kind, name, f"unable to create new content: {why}", [cause])

    def prepare(self, kind, obj, old, request=None):
        """Defaults, admission, validation, allocation of an object to be stored instead of old.
        Raises ApiError."""
        home, status, faults = KIND[kind.id], obj.get("status") if old else None, Faults()
        is_strange = is_foreign(obj)    # those say what the engine says, and no more
        own = OWN.get(home.id, NOTHING)
        if not is_strange:
            fill_defaults(message_of(kind.schema), obj)
        obj = to_stored(kind, obj)
        if own.defaults:
            own.defaults(obj)
        if status is not None:
            obj["status"] = status                              # defaults are for new objects
        if old:
            is_debug = request and request.subresource == "ephemeralcontainers"
            update = own.update or (lambda *_: ())
            add_rows(faults, check_ephemeral(old, obj) if is_debug else update(self, old, obj))
        else:
            self.admit(home, own, obj)
        if not is_strange:
            validate(home, obj, faults, old)
        faults.check(home, name_of(obj))
        if own.last:
            own.last(self, obj, old, request)
        return obj

    def admit(self, kind, own, obj):
        if kind.id in PROTECTED:
            obj["metadata"].setdefault("finalizers", []).append(PROTECTED[kind.id])
        if own.admit:
            own.admit(self, obj)

    # -- a Service's addresses
    def allocate(self, service, old):
        """Give a Service its address and node ports, or check its wishes. Raises ApiError 422."""
        spec, faults, before = service["spec"], Faults(), dig(old, "spec", {})
        others = [s["spec"] for s in self.store.list("Service") if uid_of(s) != uid_of(service)]
        if spec["type"] == "ExternalName":
            spec = service["spec"] = without(spec, "clusterIP", "clusterIPs", "ipFamilies",
                                             "ipFamilyPolicy")
        else:
            self.allocate_ip(spec, before, others, faults)
        self.allocate_ports(spec, before, others, faults)
        faults.check(KIND["Service"], name_of(service))

    def allocate_ip(self, spec, before, others, faults):
        ip = spec.get("clusterIP") or spec.get("clusterIPs", [None])[0] or before.get("clusterIP")
        taken = {self.settings.dns_ip, self.settings.upstream_ip,
                 *(other.get("clusterIP") for other in others)}
        cidr = self.settings.service_cidr
        if not ip:
            free = (str(cidr[n]) for n in range(16, cidr.num_addresses - 1))
            ip = next((each for each in free if each not in taken), "")
            if not ip:
                faults.add("spec.clusterIPs", "Invalid", f"no address of {cidr} is free")
        elif ip != "None" and ip != before.get("clusterIP"):
            if ip in taken:
                faults.add("spec.clusterIPs", "Invalid", f"{ip} is already allocated")
            elif ipaddress.ip_address(ip) not in cidr:
                faults.add("spec.clusterIPs", "Invalid", f"{ip} is not in {cidr}")
        spec.update(clusterIP=ip, clusterIPs=[ip])
        fill(spec, ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")

    def allocate_ports(self, spec, before, others, faults):
        taken = taken_ports(others)
        balanced, ports = spec["type"] == "LoadBalancer", spec.get("ports", ())
        wants_all = (spec["type"] == "NodePort" or balanced and
                     spec.get("allocateLoadBalancerNodePorts") is not False)
        if spec["type"] not in ("NodePort", "LoadBalancer"):
            for port in ports:
                port.pop("nodePort", None)
        kept = {(p["port"], p.get("protocol")): p.get("nodePort") for p in before.get("ports", ())}
        for i, port in enumerate(ports):
            if wants_all or "nodePort" in port:
                self.take_port(port, kept, taken, faults, f"spec.ports[{i}].nodePort")
        health = spec.pop("healthCheckNodePort", None) or before.get("healthCheckNodePort")
        if balanced and spec.get("externalTrafficPolicy") == "Local":
            spec["healthCheckNodePort"] = health or free_port("TCP", taken)

    @staticmethod
    def take_port(port, kept, taken, faults, at):
        """Give a port its node port: the one it asks for, the one it had, or a free one."""
        protocol = port.get("protocol")
        number = (port.get("nodePort") or kept.get((port["port"], protocol)) or
                  free_port(protocol, taken))
        if number not in NODE_PORTS:
            faults.add(at, "Invalid",
                       f"must be {NODE_PORTS[0]} to {NODE_PORTS[-1]}, and one of them free")
        elif (number, protocol) in taken:
            faults.add(at, "Invalid", f"port {number} is already allocated")
        taken.add((number, protocol))
        port["nodePort"] = number

    # -- the end of an object
    def settle(self, obj, on_disk=None):
        """Store a changed object, or remove it if it was only waiting for its last finalizer."""
        kind = home_of(obj)
        with self.store.transaction():
            is_waiting = kind.id == "Namespace" or kind.id == "Pod" and obj["spec"].get("nodeName")
            if is_deleting(obj) and not obj["metadata"].get("finalizers") and not is_waiting:
                obj["metadata"].pop("finalizers", None)
                return self.store.remove(obj)
            return self.store.put(obj, on_disk)

    def delete(self, obj, options=None):
        """Delete one object inside or outside a transaction; returns what is left of it, None if
        it is gone. options: DeleteOptions. Raises ApiError 403, 409."""
        kind, meta, options = home_of(obj), obj["metadata"], options or {}
        self.check_deletion(kind, obj, options)
        dry_run, finalizers = options.get("dryRun"), self.finalizers_of(obj, options)
        grace = self.grace_of(kind, obj, options)
        if kind.id == "Namespace":
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        elif not finalizers and grace == 0 and not is_foreign(obj):
            if not dry_run:
                self.remove(kind, obj)
            return None
        until, before = in_seconds(grace), meta.get("deletionTimestamp")
        if not before or until < before:
            meta["deletionTimestamp"] = until
            if kind.id != "Namespace":
                meta["deletionGracePeriodSeconds"] = grace
            if not before and "gen" in kind.marks:
                meta["generation"] = meta.get("generation", 1) + 1
        meta.update(filled(finalizers=finalizers))
        if not dry_run:
            with self.store.transaction():
                self.store.put(obj, on_disk=True if is_foreign(obj) else None)
        return obj

    @staticmethod
    def check_deletion(kind, obj, options):
        name, wanted = name_of(obj), options.get("preconditions", {})
        for field in ("uid", "resourceVersion"):
            if wanted.get(field) not in (None, obj["metadata"][field]):
                raise conflict(kind, name,
                               f"the {field} in the precondition is not that of the object")
        is_system = kind.id == "Namespace" and name in SYSTEM_NAMESPACES
        if is_system or kind.id == "PriorityClass" and name.startswith("system-"):
            raise forbidden(kind, name, "this one belongs to the system and may not be deleted")

    @staticmethod
    def finalizers_of(obj, options):
        policies = {"Orphan": "orphan", "Foreground": "foregroundDeletion"}
        kept = [f for f in obj["metadata"].get("finalizers", ()) if f not in policies.values()]
        policy = options.get("propagationPolicy")
        return kept + [policies[policy]] if policy in policies else kept

    @staticmethod
    def grace_of(kind, obj, options):
        """Seconds until it must be gone: a pod's containers stop first."""
        if kind.id != "Pod" or not obj["spec"].get("nodeName") or has_ended(obj):
            return 0
        given = options.get("gracePeriodSeconds")
        if given is None:
            given = obj["spec"].get("terminationGracePeriodSeconds", 30)
        return min(max(0, given), 2 ** 31 - 1)

    def remove(self, kind, obj):
        meta = obj["metadata"]
        with self.store.transaction():
            if kind.id == "Pod":    # its watchers see it marked, then gone
                meta["generation"] = meta.get("generation", 1) + (not is_deleting(obj))
                meta.update(deletionTimestamp=now(), deletionGracePeriodSeconds=0)
                obj = self.store.put(obj)
                if obj["spec"].get("nodeName"):
                    self.store.bury(uid_of(obj))
            self.store.remove(obj)

def taken_ports(specs):
    """{(node port, protocol)} of the Services of these specs."""
    taken = {(spec.get("healthCheckNodePort"), "TCP") for spec in specs}
    return (taken |
            {(p.get("nodePort"), p.get("protocol")) for spec in specs
             for p in spec.get("ports", ())})

def free_port(protocol, taken):
    """A node port that is not taken, 0 if all are."""
    return random.choice([n for n in NODE_PORTS if (n, protocol) not in taken] or [0])

# -- an object in one version of its kind, and in the one that it rests in
# core Event -> events.k8s.io
RENAMED = {"involvedObject": "regarding", "message": "note", "source": "deprecatedSource",
           "count": "deprecatedCount", "firstTimestamp": "deprecatedFirstTimestamp",
           "lastTimestamp": "deprecatedLastTimestamp", "reportingComponent": "reportingController"}

def converted(kind, obj):
    """An object without the fields that this version of its kind does not have, and with those it
    always shows."""
    found = clean_message(message_of(kind.schema), obj, Findings(), "")
    return {**found, "apiVersion": group_version(kind), "metadata": obj["metadata"]}

def renamed_fields(obj, names):
    return {names.get(name, name): value for name, value in obj.items()}

def to_served(kind, obj):
    """An object at rest as this version of its kind shows it."""
    if is_custom(kind):
        fill_defaults(message_of(kind.schema), obj)                # those of the present schema
    if is_stored(kind):
        return obj
    return converted(kind, renamed_fields(obj, RENAMED) if kind.name == "Event" else obj)

def to_stored(kind, obj):
    """The other way."""
    if is_stored(kind):
        return obj
    names = {new: old for old, new in RENAMED.items()} if kind.name == "Event" else {}
    return converted(KIND[kind.id], renamed_fields(obj, names))

# == 19. Verbs ===============================================================================
# What each request for resources is answered.
PATCHES = {  # Content-Type -> (what the body must be, function(Message, object, patch))
    "application/json-patch+json": (list, lambda fields, *both: json_patch(*both)),
    "application/merge-patch+json": (dict, lambda fields, *both: merge_patch(*both)),
    STRATEGIC: (dict, strategic_merge)}
# a PUT names the version
CONDITIONAL = ("Lease", "PodDisruptionBudget", "CustomResourceDefinition")
SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

def read_object(request, kind):
    """The body of a request as a clean object; warnings noted. Raises ApiError 400, 415, 422."""
    duplicates = None if request.query.get("fieldValidation") == "Ignore" else []
    body = parse_body(request.body, request.media, kind, duplicates)
    return cleaned(request, body, kind, duplicates)

def cleaned(request, body, kind, duplicates=()):
    """A body as an object of a kind, with the fields of that alone; warnings noted."""
    findings, version, refused = Findings(), group_version(kind), Faults()
    check_kind(body, kind, version)
    try:
        obj = clean_message(message_of(kind.schema), body, findings, "")
    except Mismatch as error:
        if is_custom(kind) and error.path:
            refused.add(error.path, "Invalid", error.text)
        refused.check(kind, dig(body, "metadata.name", ""))
        raise bad_request(f'{kind.name} in version "{version}" cannot be handled: {error}')
    if findings.unknown and request.media == APPLY:
        raise bad_request(f".{findings.unknown[0]}: field not declared in schema")
    faults = [f'unknown field "{path}"' for path in findings.unknown]
    twice = [f'duplicate field "{path}"' for path in duplicates or ()]
    note_faults(request, faults + twice, findings.more)
    unheeded = "accepted, but k2d does not act on it"
    request.warnings += [f"{path}: {unheeded}" for path in findings.hints]
    request.warnings += value_warnings(kind, obj)
    for path in findings.refused:
        refused.add(path, "Forbidden", "k2d cannot honour this field")
    refused.check(kind, dig(obj, "metadata.name", ""))
    return {"kind": kind.name, "apiVersion": version, **without(obj, "kind", "apiVersion")}

def value_warnings(kind, obj):
    """What is said of values that do less than they say."""
    taints = dig(obj, "spec.taints", ()) if kind.id == "Node" else ()
    ports = dig(obj, "spec.ports", ()) if kind.id == "Service" else ()
    labels = labels_of(obj) if kind.id == "Namespace" else ()
    return ([f"metadata.labels[{label}]: pod security is not enforced"
             for label in labels if label.startswith("pod-security.kubernetes.io/")] +
            [f"spec.taints[{i}].effect: NoExecute keeps new pods out, and evicts none"
             for i, taint in enumerate(taints) if taint["effect"] == "NoExecute"] +
            [f"spec.ports[{i}].protocol: SCTP is not forwarded"
             for i, port in enumerate(ports) if port.get("protocol") == "SCTP"])

def check_kind(body, kind, version):
    """Refuse an object of another kind, or version, than the place is for."""
    for field, wanted in (("kind", kind.name), ("apiVersion", version)):
        if kind.name != "DeleteOptions" and body.get(field) not in (None, "", wanted):
            raise bad_request(f"{field} is {body[field]!r}; this is the place for {wanted}")

def note_faults(request, faults, more):
    """Refuse, warn of, or ignore what a body has besides its fields, as fieldValidation says."""
    validation = request.query.get("fieldValidation") or "Warn"
    if faults and validation == "Strict":
        raise bad_request("strict decoding error: " + ", ".join(faults))
    if validation == "Warn":
        request.warnings += faults
        request.warnings.more += more

def reply(request, code, obj):
    return answer(code, shown(request.kind, dumps(obj), request.form))

UNHEEDED = {  # kind -> (what does not happen to what is stored, the kind that tells that it does)
    "NetworkPolicy": ("stored, but not enforced: every pod reaches every other", ""),
    "Ingress": ("only an Ingress controller acts on it, such as Traefik's chart: is one there?",
                "IngressClass")}

class Api:
    """The verbs. Every method may run in any thread. by_verb, by_subresource, by_kept: which
    method answers what; what streams has its entries there from outside."""
    def __init__(self, store, writer, access):
        self.store, self.writer, self.access = store, writer, access
        self.by_verb = {"get": self.get, "list": self.list, "watch": self.watch,
                        "create": self.post, "update": self.update, "patch": self.update,
                        "delete": self.delete, "deletecollection": self.delete_all}
        self.by_subresource = {"eviction": self.eviction, "token": self.token}
        self.by_kept = {"-": self.review}

    def handle(self, request):
        """The Answer to a request for resources; a watch or a log is a function that takes over
        the connection."""
        kind, subresource = request.kind, request.subresource
        request.warnings += filter(None, [kind.warning])
        is_written = request.verb in ("create", "update", "patch") and not subresource
        what, actor = UNHEEDED.get(kind.id, ("", "")) if is_written else ("", "")
        if what and not self.store.keys(actor):
            request.warnings.append(f"{kind.name}: {what}")
        verb = (self.by_kept.get(kind.kept) or self.by_subresource.get(subresource) or
                self.by_verb[request.verb])
        return verb(request)

    def find(self, request):
        """The bytes of the object that a request names. Raises ApiError 404."""
        row = self.store.row(request.kind.id, (request.namespace or "", request.name))
        if not row:
            raise not_found(request.kind, request.name)
        return row.raw

    # -- reading
    def get(self, request):
        raw = self.find(request)
        if request.subresource == "scale":
            return answer(200, to_scale(request.kind, json.loads(raw)))
        return answer(200, shown(request.kind, raw, request.form))

    def list(self, request):
        check_options("ListOptions", request.query)
        kind, wanted, form = request.kind, request.selection(), request.form
        request.number("limit")                                 # lists are answered whole
        since = parse_version(request.query.get("resourceVersion"))
        version, rows = self.store.snapshot(kind.id, request.namespace)
        if since > version:
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            raise ApiError(504, "Timeout",
                           f"too large resource version: {since}, current: {version}",
                           {"causes": [cause]}, retry_after=1)
        is_exact = request.query.get("resourceVersionMatch") == "Exact" and since != version
        if is_exact or request.query.get("continue"):
            raise ApiError(410, "Expired",
                           "lists show the present, and all of it: list again without continue")
        picked = [row.raw for key, row in rows if wanted.matches(key, row.raw, row.labels)]
        return listed(kind, picked, {"resourceVersion": str(version)}, form)

    def watch(self, request):
        check_options("ListOptions", request.query)
        watch = request.selection()
        initial = request.query.get("sendInitialEvents") in ("true", "1")
        since, watch.form = parse_version(request.query.get("resourceVersion")), request.form
        seconds = request.number("timeoutSeconds") or random.randrange(1800, 3600)
        try:
            first = self.first_events(request, watch, since, initial)
        except ApiError as error:   # 410: on the stream, as Kubernetes tells it
            told = chunk(dumps({"type": "ERROR", "object": error.status}) + b"\n")
            return lambda handler: serve_watch(handler, self.store, None, [told, b"0\r\n\r\n"], 0)
        except BaseException:
            self.store.unwatch(watch)
            raise
        return lambda handler: serve_watch(handler, self.store, watch, first, seconds)

    def first_events(self, request, watch, since, initial):
        """Register a watch; what it has to say at once. Raises ApiError 410."""
        kind = request.kind
        if since and not initial:
            watch.version, changes = self.store.since(since, watch)
            told = [watch.event(change, {}) for change in changes if change.kind.id == kind.id]
            return list(filter(None, told))
        watch.version, rows = self.store.snapshot(kind.id, request.namespace, watch)
        picked = [row.raw for key, row in rows if watch.matches(key, row.raw, row.labels)]
        first = [watch.shown("ADDED", raw) for raw in picked]
        if initial and watch.bookmarks:
            first.append(watch.bookmark(watch.version, initial=True))
        return first

    # -- writing
    def post(self, request):
        check_options("CreateOptions", request.query)
        kind, obj = request.kind, read_object(request, request.kind)
        if (kind.namespaced and
                obj["metadata"].get("namespace") not in (None, "", request.namespace)):
            raise bad_request("the namespace of the object is not that of the request")
        return reply(request, 201,
                     self.writer.create(kind, request.namespace, obj, request.dry_run, request))

    def update(self, request):
        """PUT and PATCH, of an object or a subresource; an apply makes what is missing."""
        kind, is_patch, is_apply = request.kind, request.method == "PATCH", request.media == APPLY
        is_scale = request.subresource == "scale"
        shape = SUB_KINDS["scale"] if is_scale else kind
        # first: 415 tells kubectl to patch in another way
        patch = read_patch(request) if is_patch else None
        check_options("PatchOptions" if is_patch else "UpdateOptions", request.query, is_apply)
        given = None if is_patch else read_object(request, shape)
        with self.store.transaction():
            if (is_apply and not request.subresource and
                    not self.store.row(kind.id, (request.namespace, request.name))):
                return self.create_applied(request, patch)
            old, managers = json.loads(self.find(request)), None
            served = to_served(kind, old)   # old in the version that was asked for
            before = to_scale(kind, served) if is_scale else served    # what the client sees of it
            if is_apply:
                given, managers = self.applied(request, shape, old, before, patch)
            elif is_patch:
                given = patched(request, shape, before, patch)
            self.check_identity(request, given["metadata"])
            self.check_version(request, given["metadata"], old["metadata"])
            new = self.changed(request, old, served, given, managers)
            if not request.dry_run:
                # what clients write to the pod of a foreign container stays
                new = self.writer.settle(new, True if is_foreign(old) else None)
        return answer(200, to_scale(kind, new)) if is_scale else reply(request, 200, new)

    @staticmethod
    def applied(request, shape, old, before, config):
        """(what an apply makes of an object, its managers)."""
        cleaned(request, config, shape)                         # its faults are told once
        present = read_managers(old["metadata"].get("managedFields"))
        given, managers = apply_patch(root_field(shape.schema), before, config, present,
                                      manager_of(request), request.flag("force"))
        return cleaned(request, given, shape), managers

    def create_applied(self, request, config):
        """The object that an apply makes."""
        kind, obj = request.kind, cleaned(request, config, request.kind)
        self.check_identity(request, obj["metadata"])
        if obj["metadata"].get("uid"):
            raise conflict(kind, request.name, "it has an uid, and no such object was found")
        managers = {manager_of(request): (owned_by(root_field(kind.schema), config), now())}
        made = self.writer.create(kind, request.namespace, obj, request.dry_run, request, managers)
        return reply(request, 201, made)

    @staticmethod
    def check_identity(request, meta):
        """Refuse a body whose name or namespace are not those of the URL."""
        if meta.get("name") != request.name:
            raise bad_request(f"the name of the object, {meta.get('name')!r}, is not that of the "
                              f"URL, {request.name!r}")
        if meta.get("namespace") not in (None, "", request.namespace):
            raise bad_request("the namespace of the object is not that of the URL")

    @staticmethod
    def check_version(request, meta, present):
        """Refuse an update of another version than the present, or of another object. Raises
        ApiError 409, 422."""
        kind, faults, is_patch = request.kind, Faults(), request.method == "PATCH"
        version, uid = meta.get("resourceVersion"), meta.get("uid") or present["uid"]
        if version not in (None, "", "0", present["resourceVersion"]):
            raise conflict(kind, request.name)
        if not is_patch and not version and (is_custom(kind) or kind.id in CONDITIONAL):
            faults.add("metadata.resourceVersion", "Invalid", "must be given for an update")
        if uid != present["uid"]:
            if request.media == APPLY or not is_patch:
                raise conflict(kind, request.name,
                               f"the object has uid {present['uid']}, not {uid}")
            faults.add("metadata.uid", "Invalid", IMMUTABLE)
        faults.check(kind, request.name)

    def changed(self, request, old, served, given, managers):
        """What results from old when a client gives this: what it may not write stays."""
        kind, part, before = request.kind, request.subresource, old["metadata"]
        if part == "scale":
            given = scaled(kind, served, dig(given, "spec.replicas", 0))
        given = json.loads(dumps(given))                        # it shares nothing with old
        meta = {**without(given["metadata"], *SERVER_FIELDS), **pick(before, SERVER_FIELDS)}
        # whose container it is does not change
        notes = without(meta.get("annotations", {}), FOREIGN)
        meta.pop("annotations", None)
        meta.update(filled(annotations={**notes,
                                        **pick(before.get("annotations", {}), (FOREIGN,))}))
        if managers is None and "managedFields" in given["metadata"]:
            managers = read_managers(given["metadata"]["managedFields"])
        if managers is not None:
            meta.pop("managedFields", None)
            meta.update(filled(managedFields=write_managers(managers)))
        if part in ("status", "finalize"):
            return self.changed_part(kind, old, served, given, meta,
                                     "status" if part == "status" else "spec")
        new = {**given, "metadata": meta}
        if part == "ephemeralcontainers":                       # of all else, what was there stays
            spec = {**without(served["spec"], "ephemeralContainers"),
                    **pick(given["spec"], ("ephemeralContainers",))}
            new = {**served, "metadata": json.loads(dumps(before)), "spec": spec}
        if "status" in kind.subresources:
            new = {**without(new, "status"), **pick(served, ("status",))}
        new = self.writer.prepare(kind, new, old, request)
        check_quota(self.store, KIND[kind.id], new, old)
        # counts as spec does
        counted = {"Deployment": "annotations", "EndpointSlice": "labels"}.get(kind.id)
        is_changed = without(new, "metadata", "status") != without(old, "metadata", "status")
        if ("gen" in kind.marks and
                (is_changed or new["metadata"].get(counted) != before.get(counted))):
            new["metadata"]["generation"] = before.get("generation", 1) + 1
        return new

    @staticmethod
    def changed_part(kind, old, served, given, meta, part):
        """What results from a write to status or finalize: one part, and metadata."""
        told, faults = given.get(part, {}), Faults()
        meta = {**without(meta, "ownerReferences"), **pick(old["metadata"], ("ownerReferences",))}
        if kind.id == "Pod":
            places = ("podIP", "podIPs", "hostIP", "hostIPs")   # which we alone give
            told = {**without(told, *places), **pick(old.get("status", {}), places)}
        new = {**served, part: told,
               "metadata": dict(old["metadata"]) if is_custom(kind) else meta}
        if part not in given:
            del new[part]
        if kind.id == "Node" and dig(new, "status.capacity"):
            fill(new["status"], allocatable=new["status"]["capacity"])
        if is_custom(kind):
            check_message(message_of(kind.schema), new, "", faults)
        faults.check(kind, name_of(new))
        return to_stored(kind, new)

    # -- deleting
    def delete(self, request):
        kind, options = request.kind, self.delete_options(request)
        with self.store.transaction():
            obj = json.loads(self.find(request))
            if is_published(obj):
                raise forbidden(
                    kind, request.name,
                    f"it is the published ports of the container {annotation(obj, FOREIGN)} and "
                    "goes with it (kubectl delete pod)")
            left = self.writer.delete(obj, options)
        if left or "obj" in kind.marks:
            return reply(request, 200, left or obj)
        return answer(200,
                      {**SUCCESS, "details": {**about(kind, request.name), "uid": uid_of(obj)}})

    def delete_options(self, request):
        """The DeleteOptions in a request's body and query. Raises ApiError 400, 422."""
        options = read_object(request, SUB_KINDS["delete"]) if request.body.strip() else {}
        options.update(pick(request.query, ("propagationPolicy",)))
        if "gracePeriodSeconds" in request.query:
            options["gracePeriodSeconds"] = request.number("gracePeriodSeconds")
        if "gracePeriodSeconds" in options:
            options["gracePeriodSeconds"] = min(max(0, options["gracePeriodSeconds"]), 2 ** 31)
        asked = (options.get("dryRun") or
                 [value for key, value in request.options if key == "dryRun"])
        odd = [each for each in asked if each != "All"]
        check_options("DeleteOptions", {**request.query, **options, "dryRun": (odd or ["All"])[0]})
        orphan = options.get("orphanDependents", request.query.get("orphanDependents"))
        if orphan is not None:                                  # deprecated, but still asked for
            fill(options, propagationPolicy="Orphan" if orphan in (True, "true") else "Background")
        return {**options, "dryRun": asked}

    def delete_all(self, request):
        kind, options, wanted = request.kind, self.delete_options(request), request.selection()
        gone = []                       # as texts: a thousand objects at once are megabytes
        with self.store.transaction():
            _, rows = self.store.snapshot(kind.id, request.namespace)
            for key, row in rows:
                obj = json.loads(row.raw)
                if wanted.matches(key, row.raw, row.labels) and not is_published(obj):
                    self.writer.delete(obj, options)
                    gone.append(dumps(obj))
        return listed(kind, gone, {"resourceVersion": str(self.store.version)}, request.form)


    # -- subresources that are no part of the object, and reviews, which are never stored
    def eviction(self, request):
        """Delete a pod unless a PodDisruptionBudget forbids it (429)."""
        options = read_object(request, SUB_KINDS["eviction"]).get("deleteOptions", {})
        options["dryRun"] = options.get("dryRun") or request.dry_run
        with self.store.transaction():
            pod = json.loads(self.find(request))
            for budget in self.store.list("PodDisruptionBudget", request.namespace):
                if is_selected(budget["spec"].get("selector"), pod) and not has_ended(pod):
                    self.spend(budget, pod, options)
            set_condition(pod, "DisruptionTarget", "True", "EvictionByEvictionAPI",
                          "Eviction API: evicting")
            self.writer.delete(pod, options)
        return answer(201, SUCCESS)

    def spend(self, budget, pod, options):
        """Take an eviction off a budget. Raises ApiError 429."""
        status = budget["status"]
        allowed = status.get("disruptionsAllowed", 0)
        if not allowed and is_condition(pod, "Ready"):
            needs, has = (status.get(key, 0) for key in ("desiredHealthy", "currentHealthy"))
            text = (f"The disruption budget {name_of(budget)} needs {needs} healthy pods and has "
                    f"{has} currently")
            raise ApiError(429, "TooManyRequests", f"the pod cannot be evicted: {text}",
                           {"causes": [{"reason": "DisruptionBudget", "message": text}]})
        if allowed and not options["dryRun"]:
            status["disruptionsAllowed"] = allowed - 1
            self.store.put(budget)

    def token(self, request):
        """TokenRequest: a token for a service account. Raises ApiError 404, 409, 422."""
        kind, given = SUB_KINDS["token"], read_object(request, SUB_KINDS["token"])
        fill_defaults(message_of("TokenRequest"), given)
        account, spec, faults = json.loads(self.find(request)), given["spec"], Faults()
        check_message(message_of("TokenRequest"), given, "", faults)
        faults.check(kind, "")
        seconds, bound = spec["expirationSeconds"], spec.get("boundObjectRef")
        if bound:
            found = self.store.get(bound.get("kind", ""), request.namespace, bound.get("name", ""))
            if bound.get("kind") not in ("Pod", "Secret") or not found:
                raise not_found(KIND.get(bound.get("kind"), KIND["Pod"]), bound.get("name", ""))
            if bound.get("uid") not in (None, "", uid_of(found)):
                raise conflict(home_of(found), name_of(found),
                               "it has another uid than the bound object reference says")
            bound = {"kind": found["kind"], "name": name_of(found), "uid": uid_of(found)}
        audiences = spec.get("audiences") or [self.access.issuer]
        token = self.access.make_token(account, seconds, audiences, bound)
        meta = {**given["metadata"], **pick(account["metadata"], ("name", "namespace", "uid")),
                "creationTimestamp": now()}
        return answer(201,
                      {**given, "metadata": meta, "spec": {**spec, "audiences": audiences},
                       "status": {"token": token, "expirationTimestamp": in_seconds(seconds)}})

    def review(self, request):
        """Who somebody is, and what they may: the answer stands in the status."""
        check_options("CreateOptions", request.query)
        if request.form.kind:                                   # no metadata, no table
            raise not_acceptable()
        given, faults = read_object(request, request.kind), Faults()
        check_message(message_of(request.kind.schema), given, "", faults)
        faults.check(request.kind, "")
        status = self.access.review(request, given)             # may change what was given
        meta = ({"metadata": {"creationTimestamp": now()}}
                if request.kind.id == "SelfSubjectReview" else {})
        return answer(201, {**given, **meta, "status": status})

def manager_of(request):
    """Who an apply belongs to."""
    return Manager(request.query.get("fieldManager", ""), group_version(request.kind),
                   request.subresource)

def read_patch(request):
    """What a PATCH says; of an apply its configuration. Raises ApiError 400, 415."""
    media = request.media
    if media == APPLY:
        return read_config(request)
    if media not in PATCHES or media == STRATEGIC and is_custom(request.kind):
        raise ApiError(415, "UnsupportedMediaType",
                       f"a patch of type {media} is not supported here")
    try:
        patch = parse_json(request.body)
    except ValueError as error:
        raise bad_request(f"the patch is no JSON: {error}")
    if not isinstance(patch, PATCHES[media][0]):
        raise bad_request(f"the patch is {TYPE_WORDS[type(patch)]}, which none of this type is")
    return patch

def read_config(request):
    """The configuration of an apply. Raises ApiError 400."""
    twice, validation = [], request.query.get("fieldValidation") or "Warn"
    config = parse_config(request.body, twice)
    if twice and validation == "Strict":
        raise bad_request("error decoding YAML: " + "; ".join(twice))
    if validation == "Warn":
        request.warnings += twice
    if dig(config, "metadata.managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    if not config.get("kind") or not config.get("apiVersion"):
        raise bad_request("what is applied must have kind and apiVersion")
    return config

def patched(request, kind, before, patch):
    """What a patch makes of an object. Raises ApiError 400, 422."""
    _, apply = PATCHES[request.media]
    try:
        new = apply(message_of(kind.schema), before, patch)
    except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
        # a directive of odd form
        raise unprocessable(error)
    if not isinstance(new, dict):
        raise unprocessable("it leaves no object")
    try:
        return cleaned(request, new, kind)
    except ApiError as error:
        if error.code != 400 or is_custom(kind):
            raise
        cause = {"reason": "FieldValueInvalid", "message": str(error), "field": "patch"}
        raise ApiError(422, "Invalid", f"the patch makes no object: {error}", {"causes": [cause]})

def to_scale(kind, obj):
    """The autoscaling/v1 Scale of an object."""
    wanted, replicas, selector = (dig(obj, path) if path else None for path in kind.scale)
    if isinstance(selector, dict):
        selector = selector_text(selector)
    return {"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": pick(obj["metadata"],
                             ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")),
            "spec": filled(replicas=wanted),
            "status": {"replicas": replicas or 0, **filled(selector=selector)}}

def scaled(kind, obj, replicas):
    """An object with so many replicas."""
    patch = replicas
    for step in reversed(kind.scale[0].split(".")):
        patch = {step: patch}
    return merge_patch(obj, patch)

# == 20. Watch ===============================================================================
# Changes, as those who watch hear of them. Encodes; sends nothing but a watch's first events.

class Watch:
    """One watch: what it selects and how it wants its events. Encodes; sends nothing."""
    def __init__(self, kind, namespace, name, selector, fields, form, bookmarks):
        self.kind, self.namespace, self.name = kind, namespace, name
        self.selector, self.fields = selector, fields
        self.form, self.bookmarks, self.version = form, bookmarks, 0
        # the hub's: chunks not yet sent, the version last told
        self.out, self.out_bytes, self.sent = [], 0, 0
        self.connection, self.ended, self.timer = None, False, None

    def matches(self, key, raw, labels, parse=json.loads):
        return ((self.namespace is None or key[0] == self.namespace) and
                (self.name is None or key[1] == self.name) and
                (not self.selector or selects(self.selector, labels)) and
                (not self.fields or field_matches(self.fields, parse(raw))))

    def event(self, change, memo):
        """The chunk that tells of a change, or None. memo, shared by a change's watches, saves
        encoding it twice."""
        def parse(raw):
            if raw not in memo:
                memo[raw] = json.loads(raw)
            return memo[raw]
        key = change.key
        old = bool(change.old) and self.matches(key, change.old.raw, change.old.labels, parse)
        new = change.type != "DELETED" and self.matches(key, change.raw, change.labels, parse)
        if not old and not new:
            return None
        type_ = {(False, True): "ADDED", (True, True): "MODIFIED"}.get((old, new), "DELETED")
        key = type_, self.form, self.kind.version
        if key not in memo:
            raw = change.raw
            # it left the selection: as it was, at this version
            if type_ == "DELETED" and change.type != "DELETED":
                obj = json.loads(change.old.raw)
                obj["metadata"]["resourceVersion"] = str(change.version)
                raw = dumps(obj)
            memo[key] = self.shown(type_, raw)
        self.form = self.form._replace(columns=False)
        return memo[key]

    def shown(self, type_, raw):
        """The chunk of an object in the form that was asked for; the first of a watch alone tells
        a Table's columns."""
        told = self.encode(type_, shown(self.kind, raw, self.form))
        self.form = self.form._replace(columns=False)
        return told

    def encode(self, type_, raw):
        return chunk(b'{"type":"%s","object":%s}\n' % (type_.encode(), raw))

    def bookmark(self, version, initial=False):
        notes = {"k8s.io/initial-events-end": "true"} if initial else {}
        meta = {"resourceVersion": str(version), **filled(annotations=notes)}
        told = {"kind": self.form.kind or self.kind.name,
                "apiVersion": self.form.version or group_version(self.kind), "metadata": meta}
        if self.form.kind == "Table":
            told = {**to_table(self.kind, [], self.form), "metadata": meta}
        return self.encode("BOOKMARK", dumps(told))

def serve_watch(handler, store, watch, first, seconds):
    """Send the first events of a watch, then leave it to the hub; watch None: that was all."""
    handler.keep = False    # for the client: its end is the connection's
    try:
        head = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        handler.write_head(200, head, b"".join(first))
    except OSError:
        store.unwatch(watch)
        raise
    if watch:
        handler.connection.watch, watch.connection = watch, handler.connection
        watch.timer = handler.hub.after(seconds, handler.hub.end_watch, watch)
        handler.keep = True                                     # the hub goes on with it

# == 21. Table ===============================================================================
# What a reader sees of an object: itself, its metadata, or a row of `kubectl get`
# (pkg/printers/internalversion).
# COLUMNS: the kinds, and their columns after Name; " ; " stands between rows. A column is TITLE
# MARKS =PATH |DEFAULT: _ is a blank; * shows it only with -o wide; the other mark see MARKS; a
# path is one of additionalPrinterColumns without its first point. Those without a path, but Age,
# are what the kind's cells in OWN give, in this order. For example
#   Node*=spec.nodeName|<none>   Node, with -o wide alone, by a path; <none> where nothing is there
TEMPLATE = ("Containers*,=spec.template.spec.containers[*].name "
            "Images*,=spec.template.spec.containers[*].image")
WORKLOAD = f"Age {TEMPLATE} Selector*~=spec.selector"
COLUMNS = f"""
Namespace: Status=status.phase Age ; Node: Status Roles Age Version=status.nodeInfo.kubeletVersion
  Internal-IP*=status.addresses[?(@.type=="InternalIP")].address|<none>
  External-IP*=status.addresses[?(@.type=="ExternalIP")].address|<none>
  OS-Image*=status.nodeInfo.osImage|<unknown>
  Kernel-Version*=status.nodeInfo.kernelVersion|<unknown>
  Container-Runtime*=status.nodeInfo.containerRuntimeVersion|<unknown>
Pod: Ready Status Restarts Age IP*=status.podIP|<none> Node*=spec.nodeName|<none>
  Nominated_Node*=status.nominatedNodeName|<none> Readiness_Gates*
Service: Type=spec.type Cluster-IP=spec.clusterIP|<none> External-IP Port(s) Age
  Selector*~=spec.selector
Endpoints: Endpoints Age ; EndpointSlice: AddressType=addressType Ports Endpoints Age ; ConfigMap:
  Data Age
Secret: Type=type Data Age
Event: Last_Seen Type=type Reason=reason Object Subobject*=involvedObject.fieldPath Source* Message
  First_Seen* Count* Name*=metadata.name
PersistentVolume: Capacity Access_Modes Reclaim_Policy=spec.persistentVolumeReclaimPolicy Status
  Claim StorageClass VolumeAttributesClass=spec.volumeAttributesClassName|<unset>
  Reason=status.reason Age VolumeMode*=spec.volumeMode|<unset>
PersistentVolumeClaim: Status Volume=spec.volumeName Capacity Access_Modes StorageClass
  VolumeAttributesClass Age VolumeMode*=spec.volumeMode|<unset>
ReplicationController,ReplicaSet: Desired#=spec.replicas Current#=status.replicas
  Ready#=status.readyReplicas {WORKLOAD}
Deployment: Ready Up-to-date=status.updatedReplicas|0 Available=status.availableReplicas|0
  {WORKLOAD}
StatefulSet: Ready Age {TEMPLATE}
DaemonSet: Desired#=status.desiredNumberScheduled Current#=status.currentNumberScheduled
  Ready#=status.numberReady Up-to-date#=status.updatedNumberScheduled
  Available#=status.numberAvailable Node_Selector~=spec.template.spec.nodeSelector {WORKLOAD}
Job: Status Completions Duration {WORKLOAD}
CronJob: Schedule=spec.schedule Timezone=spec.timeZone|<none> Suspend? Active#
  Last_Schedule^=status.lastScheduleTime|<none> {WORKLOAD.replace("=", "=spec.jobTemplate.")}
Ingress: Class=spec.ingressClassName|<none> Hosts Address Ports Age
StorageClass: Name Provisioner=provisioner ReclaimPolicy=reclaimPolicy|Delete
  VolumeBindingMode=volumeBindingMode|Immediate AllowVolumeExpansion=allowVolumeExpansion|false Age
PodDisruptionBudget: Min_Available$=spec.minAvailable|N/A Max_Unavailable$=spec.maxUnavailable|N/A
  Allowed_Disruptions#=status.disruptionsAllowed Age
"""
def read_columns(text):
    """{kind: the words of its columns} of a text like COLUMNS."""
    rows = text.replace("\n  ", " ").replace(" ; ", "\n").strip().split("\n")
    pairs = [row.split(": ", 1) for row in rows]
    return {kind: words for kinds, words in pairs for kind in kinds.split(",")}

COLUMNS_OF = read_columns(COLUMNS)
# [?(@left op right)], [index], .name
STEP = re.compile(r"\[\?\(@([^!=()\s]*)(?:\s*([!=]=)([^()]*))?\)\]|"
                  r"\[(-?\d+|\*)\]|\.((?:\\.|[^.\[\]\\])+)")

PATH_CHARS = 500            # of a path, which is searched more than once

def json_steps(path):
    """A path such as .a[0]['b'][?(@.c=="d")].e[*] as groups of STEP; None if unreadable."""
    if len(path) > PATH_CHARS:
        return None
    path = re.sub(r"\[(['\"])(.*?)\1\]", r".\2", path)
    return None if STEP.sub("", path) else [(*groups, re.sub(r"\\(.)", r"\1", name))
                                            for *groups, name in STEP.findall(path)]

def step_once(step, value):
    """What one step of a path finds below a value."""
    left, op, right, index, name = step
    if "*" in (name, index):
        return list(value.values() if isinstance(value, dict) else value or ())
    if name:
        return [value[name]] if isinstance(value, dict) and name in value else []
    if index:
        return [value[int(index)]] if isinstance(value, list) else []
    wanted = json.loads(right.replace("'", '"')) if op else None
    pairs = [(item, jsonpath(json_steps(left), item)[:1]) for item in value]
    return [item for item, found in pairs if found and
            (not op or (found[0] == wanted) == (op == "=="))]

def jsonpath(steps, value):
    """The values at a path. Raises LookupError, TypeError or ValueError."""
    found = [value]
    for step in steps:
        found = [item for each in found for item in step_once(step, each)]
    return found

def first_value(found):
    return [value for value in found if value not in (None, "")][0]

CUSTOM_TYPES = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}

def custom_cell(type_, found):
    """What a custom kind's column shows; None if that is not of its type (tableconvertor)."""
    value = found[0]
    if type_ == "date":
        return age(value) if TIME.fullmatch(str(value)) else "<invalid>"
    if type_ == "string" and not isinstance(value, str):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if type_ == "integer" and isinstance(value, float):
        return int(value)
    return value if isinstance(value, CUSTOM_TYPES.get(type_, ())) else None

MARKS = {  # mark of a column -> (its type, its default, what it shows of the values found)
    "": ("string", "", first_value), "#": ("integer", 0, first_value),
    "?": ("boolean", False, first_value),
    "$": ("string", "", lambda found: str(first_value(found))),
    "^": ("string", "<unknown>", lambda found: age(first_value(found))),
    ",": ("string", "", ",".join),
    "~": ("string", "<none>", lambda found: selector_text(first_value(found)))}
COLUMN = re.compile(r"([^*#?$^,~=|]+)(\*?)([#?$^,~]?)=?([^|]*)\|?(.*)")
Column = namedtuple("Column", "name type format priority steps default show")
# steps  of its path; () for what the kind's cells in OWN give; None for a path that cannot be read

def column_of(word):
    """The Column of a word of COLUMNS."""
    title, wide, mark, path, default = COLUMN.fullmatch(word).groups()
    type_, zero, show = MARKS[mark]
    default = WORDS.get(default, int(default) if default.isdigit() else default or zero)
    return Column(title.replace("_", " "), type_, "name" if title == "Name" else "", len(wide),
                  json_steps("." + path) if path else (), default, show)

def custom_column(told):
    """The Column of an entry of additionalPrinterColumns."""
    type_ = told["type"]
    return Column(told["name"], type_, told.get("format", ""), told.get("priority", 0),
                  json_steps(told["jsonPath"]), None, lambda found: custom_cell(type_, found))

def columns_of(kind):
    if kind.columns is not None:
        ages = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
        told = kind.columns or [ages]
        return [column_of("Name=metadata.name"), *map(custom_column, told)]
    words = COLUMNS_OF.get(kind.name, "Age").split()
    words = ["Age^=metadata.creationTimestamp" if word == "Age" else word for word in words]
    if not any(re.match(r"Name\b", word) for word in words):
        words.insert(0, "Name=metadata.name")
    return [column_of(word) for word in words]

def table_rows(kind, objects, form):
    """The rows of a Table, one after the other."""
    columns, cells_of = columns_of(kind), OWN.get(kind.id, NOTHING).cells
    for obj in objects:
        cells, others = [], iter(cells_of(obj) if cells_of else ())
        for column in columns:
            try:
                cells.append(next(others) if column.steps == ()
                             else column.show(jsonpath(column.steps, obj)))
            except (LookupError, TypeError, ValueError):        # nothing there
                cells.append(column.default)
        included = {"Object": obj, "None": None}
        yield {"cells": cells, "object": included.get(form.include, partial_metadata(obj, form))}

def to_table(kind, objects, form):
    """A meta.k8s.io Table of objects of one kind."""
    version = objects[0]["metadata"].get("resourceVersion", "") if len(objects) == 1 else ""
    heads = [{**dict(zip(Column._fields, column[:4])), "description": ""}
             for column in columns_of(kind)]
    return {"kind": "Table", "apiVersion": form.version, "metadata": {"resourceVersion": version},
            "columnDefinitions": heads if form.columns else None,
            "rows": list(table_rows(kind, objects, form))}

def shown(kind, raw, form):
    """An object at rest, as bytes, in the form and version its reader asked for."""
    if not form.kind and is_stored(kind) and not is_custom(kind):
        return raw
    obj = json.loads(raw)
    if form.kind == "Table":
        return dumps(to_table(kind, [obj], form))
    return dumps(partial_metadata(obj, form) if form.kind else to_served(kind, obj))

def listed(kind, raws, meta, form):
    """The Answer with a list of objects at rest, of which never all are parsed at once."""
    version, objects, word = form.version or group_version(kind), map(json.loads, raws), b"items"
    head = {"kind": (form.kind or kind.name) + "List", "apiVersion": version, "metadata": meta}
    # what the items leave out
    same = dumps({"kind": kind.name, "apiVersion": version})[:-1] + b","
    if form.kind == "Table":
        head, word = {**without(to_table(kind, [], form), "rows"), "metadata": meta}, b"rows"
        items = map(dumps, table_rows(kind, objects, form))
    elif form.kind:
        items = (dumps(partial_metadata(obj, form)) for obj in objects)
    elif is_custom(kind) or not is_stored(kind):
        items = (dumps(to_served(kind, obj)) for obj in objects)
    else:
        items = (b"{" + raw[len(same):] if raw.startswith(same) else raw for raw in raws)
    return answer(200, b'%s,"%s":[%s]}\n' % (dumps(head)[:-1], word, b",".join(items)))

def partial_metadata(obj, form):
    return {"kind": "PartialObjectMetadata", "apiVersion": form.version,
            "metadata": obj["metadata"]}

# == 22. Discovery and OpenAPI ===============================================================
# What there is, for clients that ask before they do anything; and SCHEMA again, in their words.
def version_answer(machine):
    major, minor, _ = SERVES[1:].split(".")
    return answer(200,
                  {"major": major, "minor": minor, "gitVersion": f"{SERVES}+k2d{VERSION}",
                   "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
                   "goVersion": "", "compiler": "python" + sys.version.split()[0],
                   "platform": "linux/" + ARCHITECTURES.get(machine, machine)})

AGGREGATED = re.compile(r"g=apidiscovery\.k8s\.io;v=(v2|v2beta1);as=APIGroupDiscoveryList")
HEALTH_PATHS = "/healthz", "/livez", "/livez/ping", "/readyz", "/readyz/ping"

def groups_below(root):
    """{group: {version: both}} of /api or /apis, the preferred version first."""
    groups = {}
    for kind in KINDS:
        if root == ("apis" if kind.group else "api"):
            groups.setdefault(kind.group, {})[kind.version] = group_version(kind)
    return groups

def root_paths():
    every = {f"/apis/{each}" for kind in KINDS if kind.group
             for each in (kind.group, group_version(kind))}
    known = ["/api", "/api/v1", "/apis", "/apis/", *sorted(every), *HEALTH_PATHS, "/openapi/v2",
             "/openapi/v3"]
    return answer(200, {"paths": [*known, "/version"]})

def group_list(request, root, groups, address):
    """The Answer to /api or /apis."""
    found = AGGREGATED.search(request.headers.get("Accept", ""))
    if found:
        return aggregated(request, groups, found)
    if root == "api":
        client = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
        return answer(200,
                      {"kind": "APIVersions", "versions": [*groups[""]],
                       "serverAddressByClientCIDRs": [client]})
    told = [api_group(group, versions) for group, versions in groups.items()]
    return answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": told})

def discovery(request, address):
    """The Answer to /, /api, /apis and below, plain or aggregated; None if the path is none of
    these. address: HOST:PORT for clients."""
    if not request.parts:
        return root_paths()
    root, *below = request.parts
    groups = groups_below(root)
    if groups and not below:
        return group_list(request, root, groups, address)
    group, *rest = below if root == "apis" else ["", *below]
    versions = groups.get(group)
    if versions and group and not rest:
        return answer(200, {"kind": "APIGroup", "apiVersion": "v1", **api_group(group, versions)})
    if versions and len(rest) == 1 and rest[0] in versions:
        resources = [plain for kind in kinds_in(group, rest[0]) for plain in plain_resources(kind)]
        return answer(200,
                      {"kind": "APIResourceList", "apiVersion": "v1",
                       "groupVersion": versions[rest[0]], "resources": resources})

def kinds_in(group, version):
    found = [kind for kind in KINDS if (kind.group, kind.version) == (group, version)]
    return sorted(found, key=lambda kind: kind.plural)

def aggregated(request, groups, found):
    items = []
    for group, versions in groups.items():
        told = []
        for version in versions:
            resources = list(map(aggregated_resource, kinds_in(group, version)))
            told.append({"version": version, "freshness": "Current", "resources": resources})
        items.append({"metadata": filled(name=group), "versions": told})
    body = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/" + found[1],
            "metadata": {}, "items": items}
    return tagged(request, body, "application/json;" + found[0])

def api_group(group, versions):
    each = [{"groupVersion": both, "version": version} for version, both in versions.items()]
    return {"name": group, "versions": each, "preferredVersion": each[0]}

def names_of(kind):
    """The short names and categories of a kind."""
    return filled(shortNames=list(kind.short),
                  categories=[m for m in kind.marks if m not in ("gen", "obj")])

def answers_of(kind, name):
    """(the kind that a resource, or a subresource of that name, reads and answers; its verbs)."""
    other, verbs = SUB_KINDS.get(name), SUB_VERBS.get(name) or kind.verbs.split()
    if other:
        return {"group": other.group, "version": other.version, "kind": other.name}, verbs
    return {"group": kind.group, "version": kind.version,
            "kind": kind.name + ("ProxyOptions" if name == "proxy" else "")}, verbs

def plain_resources(kind):
    """What APIResourceList says of a kind and its subresources."""
    for name in ("", *sorted(kind.subresources)):
        told, verbs = answers_of(kind, name)
        shown_kind = told if name in SUB_KINDS and told["group"] else pick(told, ("kind",))
        yield {"name": kind.plural + (f"/{name}" if name else ""),
               "singularName": "" if name else kind.singular, "namespaced": kind.namespaced,
               **shown_kind, "verbs": verbs, **({} if name else names_of(kind))}

def aggregated_resource(kind):
    """What APIGroupDiscoveryList says of a kind and its subresources."""
    told, verbs = answers_of(kind, "")
    below = [(name, *answers_of(kind, name)) for name in sorted(kind.subresources)]
    subresources = [{"subresource": name, "responseKind": answers, "verbs": verbs}
                    for name, answers, verbs in below]
    return {"resource": kind.plural, "scope": "Namespaced" if kind.namespaced else "Cluster",
            "singularResource": kind.singular, "responseKind": told, "verbs": verbs,
            **names_of(kind), **filled(subresources=subresources)}

def tagged(request, body, content_type="application/json"):
    """An answer with its ETag, or 304 if the client has it."""
    data = (body if isinstance(body, bytes) else dumps(body)) + b"\n"
    etag = '"' + hashlib.sha256(data).hexdigest().upper() + '"'
    headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": "public"}
    known = request.headers.get("If-None-Match") == etag
    return answer(304 if known else 200, b"" if known else data, content_type, headers)

# -- OpenAPI: types, lists' keys and kinds: what clients merge, validate and explain by. Made when
# asked for, not kept
OPENAPI_SCALARS = {  # type -> its type and format
    "string": ("string",), "int": ("integer", "int32"), "bool": ("boolean",),
    "bytes": ("string", "byte"),
    "Raw": ("object",), "Time": ("string", "date-time"), "MicroTime": ("string", "date-time"),
    "Quantity": ("string",),
    "Double": ("number", "double"), "IntOrString": ("string", "int-or-string"),
    "ExtraValue": ("array",),
    "SchemaOrArray": (), "SchemaOrBool": (), "SchemaOrStrings": ()}
GROUP_PACKAGES = {"apiextensions.k8s.io": "apiextensions-apiserver.pkg.apis.apiextensions"}
META_TYPES = ("ObjectMeta", "DeleteOptions", "Condition", "LabelSelector",
              "LabelSelectorRequirement", "OwnerReference", "ManagedFieldsEntry", "Preconditions")

def messages_below(name):
    """The messages that the fields of one name, as they stand in SCHEMA."""
    return MESSAGES.keys() & re.findall(r":(?:\[\]|\{\})?([\w.]+)", MESSAGES[name])

def definition_names():
    """{message: the name of its definition}, which tells the Go package that it is from."""
    out = {name: f"io.k8s.apimachinery.pkg.apis.meta.v1.{name}" for name in META_TYPES}
    for kind in [kind for kind in KINDS if not is_custom(kind)]:
        package = GROUP_PACKAGES.get(kind.group, f"api.{kind.group.split('.')[0] or 'core'}")
        todo = [kind.schema]
        for name in todo:                                       # it grows on the way
            if name not in out:
                out[name] = f"io.k8s.{package}.{kind.version}.{name.rpartition('.')[2]}"
                todo += messages_below(name)
    return out

def openapi_type(field, refs):
    """The schema of one value of a field; refs: {message: how it is referred to}."""
    if field.type in refs:
        return refs[field.type]
    out = dict(zip(("type", "format"), OPENAPI_SCALARS[field.type]))
    return {**out, "items": {"type": "string"}} if field.type == "ExtraValue" else out

def openapi_field(field, refs):
    """The schema of one field of a message."""
    out = dict(openapi_type(field, refs))
    if field.kind == "{}":
        return {"type": "object", "additionalProperties": out,
                **filled(**{"x-kubernetes-map-type": "atomic" if field.atomic else ""})}
    strategies = ["retainKeys"] if field.retain else []
    if field.merges:
        strategies.insert(0, "merge" if field.kind else "replace")
    if field.kind:
        list_type = {(True, True): "map", (True, False): "set"}.get(
            (field.applies, bool(field.keys)), "atomic")
        out = {"type": "array", "items": out, "x-kubernetes-list-type": list_type}
        if list_type == "map":
            out["x-kubernetes-list-map-keys"] = list(field.keys)
    elif strategies and "$ref" in out:
        out = {"allOf": [out]}  # beside a reference nothing else counts
    merge_key = field.keys[0] if field.merges and field.keys else ""
    return {**out, **filled(**{"x-kubernetes-patch-merge-key": merge_key,
                               "x-kubernetes-patch-strategy": ",".join(strategies)})}

def gvk(kind):
    return {"group": kind.group, "kind": kind.name, "version": kind.version}

TEXT = {"type": "string"}

def custom_definition(kind, refs):
    """(name, schema) of a custom resource: its JSON schema as it was given."""
    schema = json.loads(kind.schema)
    own = {"apiVersion": TEXT, "kind": TEXT, **schema.get("properties", {}),
           "metadata": refs["ObjectMeta"]}
    told = without(schema, "x-kubernetes-validations")
    if schema.get("properties") or not schema.get(LOOSE):
        told["properties"] = own
    return ".".join([*kind.group.split(".")[::-1], kind.version, kind.name]), {
        "type": "object", **told, "x-kubernetes-group-version-kind": [gvk(kind)]}

def openapi_definitions(kinds, root):
    """Yield (name, schema) of these kinds and all messages they reach."""
    names, done = definition_names(), set()
    refs = {name: {"$ref": root + full} for name, full in names.items()}
    named = {kind.schema: kind for kind in KINDS if not is_custom(kind)}
    yield from (custom_definition(kind, refs) for kind in kinds if is_custom(kind))
    todo = ["DeleteOptions", "ObjectMeta", *(kind.schema for kind in kinds if not is_custom(kind))]
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        fields = read_message(name).by_name     # not to be kept: most are never needed again
        properties = {field.name: openapi_field(field, refs) for field in fields.values()}
        told = {"type": "object", **filled(properties=properties)}
        if name in named:
            properties.update(apiVersion=TEXT, kind=TEXT)
            told["x-kubernetes-group-version-kind"] = [gvk(named[name])]
        if name in ATOMIC:
            told["x-kubernetes-map-type"] = "atomic"
        yield names[name], told
        todo += [field.type for field in fields.values() if field.type not in SCALARS]

ATOMIC = set(re.findall(r":(?:\[\])?([\w.]+)[?+&]*#",
                        " ".join(MESSAGES.values()))) - SCALARS.keys()

PARAMETERS = {  # of the query, by method
    "get": (), **dict.fromkeys(("post", "put"), ("dryRun", "fieldManager", "fieldValidation")),
    "patch": ("dryRun", "fieldManager", "fieldValidation", "force"),
    "delete": ("dryRun", "gracePeriodSeconds", "propagationPolicy")}

def openapi_paths(kinds, scalar):
    """Yield (path, operations) of these kinds; scalar is how a parameter says that it is text."""
    for kind in kinds:
        out, space = {}, "namespaces/{namespace}/" if kind.namespaced else ""
        path = f"/{'apis' if kind.group else 'api'}/{group_version(kind)}/{space}{kind.plural}"
        for (method, is_one), verb in VERBS.items():
            if verb not in kind.verbs.split() or (method, is_one) == ("POST", True):
                continue
            action, method = {"create": "post", "update": "put"}.get(verb, verb), method.lower()
            group = kind.group.title().replace(".", "")
            parameters = [{"name": name, "in": "query", **scalar} for name in PARAMETERS[method]]
            out.setdefault(path + ("/{name}" if is_one else ""), {})[method] = {
                "operationId": f"{action}{group}{kind.version.title()}{kind.name}",
                "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(kind),
                "parameters": parameters, "responses": {"200": {"description": "OK"}}}
        yield from out.items()

def joined(pairs):
    """An object whose members come one by one, as JSON: whole it would be MB of dicts."""
    return (b"{" +
            b",".join(dumps(name) + b":" +
                      (dumps(value) if isinstance(value, (str, dict)) else joined(value))
                      for name, value in pairs) + b"}")

def openapi(request):
    """The Answer to /openapi/v2, /openapi/v3, /openapi/v3/GROUP VERSION; else None."""
    _, *parts = request.parts
    info, by_path = {"title": "Kubernetes", "version": SERVES}, {}
    for kind in KINDS:
        by_path.setdefault(("apis/" if kind.group else "api/") + group_version(kind), []).append(
            kind)
    if parts == ["v3"]:
        paths = {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={fingerprint(kinds)}"}
                 for path, kinds in by_path.items()}
        return tagged(request, {"paths": paths}, "text/plain; charset=utf-8")
    kinds = by_path.get("/".join(parts[1:]))
    if parts[:1] == ["v3"] and kinds:
        schemas = openapi_definitions(kinds, "#/components/schemas/")
        return tagged(request,
                      joined([("openapi", "3.0.0"), ("info", info),
                              ("paths", openapi_paths(kinds, {"schema": TEXT})),
                              ("components", [("schemas", schemas)])]))
    if parts != ["v2"]:
        return None
    document = [("swagger", "2.0"), ("info", info), ("paths", openapi_paths(KINDS, TEXT)),
                ("definitions", openapi_definitions(KINDS, "#/definitions/"))]
    if "protobuf" in request.headers.get("Accept", ""):
        media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
        return answer(200, to_gnostic("Document", document), media)
    return tagged(request, joined(document))

def fingerprint(kinds):
    """What changes with the schemas of some kinds."""
    schemas = [kind.schema.decode() if is_custom(kind) else kind.name for kind in kinds]
    return hashlib.sha512(dumps([SCHEMA, VERSION, schemas])).hexdigest().upper()

# -- OpenAPI as protobuf: gnostic's OpenAPIv2.proto, as far as we write it: message -> {JSON key:
# (field number, message; "" for text)}; "*" is any key, "x" one that begins with x-: both are
# written as a pair of the key and its value.
GNOSTIC = {"Document": {"swagger": (1, ""), "info": (2, "Info"), "paths": (8, "Paths"),
                        "definitions": (9, "Definitions")},
           "Info": {"title": (1, ""), "version": (2, "")}, "Paths": {"*": (2, "PathItem")},
           "Definitions": {"*": (1, "Schema")},
           "PathItem": {verb: (number, "Operation")
                        for verb, number in dict(get=2, put=3, post=4, delete=5, patch=8).items()},
           "Operation": {"operationId": (5, ""), "parameters": (8, "Parameter"), "x": (13, "Any")},
           "Query": {"in": (2, ""), "name": (4, ""), "type": (6, "")},
           "Schema": {"$ref": (1, ""), "format": (2, ""), "description": (4, ""),
                      "required": (19, ""), "additionalProperties": (21, "Wrapped"),
                      "type": (22, "Text"), "items": (23, "Wrapped"), "allOf": (24, "Schema"),
                      "properties": (25, "Definitions"), "x": (31, "Any")}}
# message -> (the fields around what it holds, innermost first; that message, None for a value
# itself)
WRAPPED = {
    # Any: the value as YAML, of which JSON is a part
    "": ((), None), "Text": ((1,), None), "Any": ((2,), None),
    "Wrapped": ((1,), "Schema"),    # ItemsItem, AdditionalPropertiesItem
    "Parameter": ((3, 2, 1), "Query"),  # ParametersItem > Parameter > NonBodyParameter > Query
}

def wire_bytes(number, data):
    """A length-delimited protobuf field."""
    out = b""
    for value in (number << 3 | 2, len(data)):
        while value > 0x7F:
            out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
        out += bytes([value])
    return out + data

def to_gnostic(name, value):
    """A part of an OpenAPI v2 document as gnostic's protobuf."""
    if name in WRAPPED:
        return to_wrapped(name, value)
    fields, out = GNOSTIC[name], []
    for key, item in value.items() if isinstance(value, dict) else value:
        is_extension = key.startswith("x-")
        number, inner = fields.get("*") or fields.get("x" if is_extension else key, (0, ""))
        if "*" in fields or number and is_extension:
            out.append(wire_bytes(number,
                                  wire_bytes(1, key.encode()) +
                                  wire_bytes(2, to_gnostic(inner, item))))
        elif number:
            items = item if isinstance(item, list) else [item]
            out += [wire_bytes(number, to_gnostic(inner, each)) for each in items]
    return b"".join(out)

def to_wrapped(name, value):
    """One of the messages that only hold another, or a value."""
    if isinstance(value, bool) and name == "Wrapped":
        return bytes([0x10, value])                             # additionalProperties: true
    numbers, inner = WRAPPED[name]
    if inner is not None:
        data = to_gnostic(inner, value)
    else:
        data = dumps(value) if name == "Any" else value.encode()
    for number in numbers:
        data = wire_bytes(number, data)
    return data

# == 23. Custom resources ====================================================================
# A definition adds its kinds to the table of section 4, and takes them away again.
def version_rank(version):
    """The order of discovery: v2, v1, v1beta2, v1beta1, v1alpha1, then others by name."""
    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version["name"])
    if not found:
        return 2, version["name"]
    return 1, -("alpha", "beta", None).index(found[2]), -int(found[1]), -int(found[3] or 0)

def kinds_of(definition):
    """[(Kind, version)] of a definition, as discovery orders them."""
    spec, names = definition["spec"], definition["spec"]["names"]
    return [(custom_kind(name_of(definition), spec, names, version), version)
            for version in sorted(spec["versions"], key=version_rank)]

def custom_kind(id_, spec, names, version):
    """The Kind of one version of a definition."""
    below = version.get("subresources", {})
    schema = dig(version, "schema.openAPIV3Schema", {LOOSE: True})
    scale = [dig(below, f"scale.{field}", "").lstrip(".")
             for field in ("specReplicasPath", "statusReplicasPath", "labelSelectorPath")]
    fields = tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields", ()))
    marks = "gen", "obj", *names.get("categories", ())
    return Kind(names["kind"], spec["group"], version["name"], names["plural"],
                names.get("singular") or names["kind"].lower(), tuple(names.get("shortNames", ())),
                spec["scope"] == "Namespaced", ALL, tuple(pick(below, ("scale", "status"))), marks,
                "disk", id_, dumps(schema), scale, fields,
                version.get("additionalPrinterColumns", []), deprecation(spec, names, version))

def deprecation(spec, names, version):
    """What is said of a version that is deprecated, "" of others."""
    text = f"{spec['group']}/{version['name']} {names['kind']} is deprecated"
    return version.get("deprecationWarning", text) if version.get("deprecated") else ""

def exchange(table, old, new):
    """Put new entries into a table in place of those of the old keys; what stays is never missing:
    others read it."""
    table.update(new)
    for key in old - new.keys():
        table.pop(key, None)

def register(definition, is_served=True):
    """Serve the custom resources of a definition as it is now, or no longer. Any thread may be
    reading the tables."""
    global KINDS
    name, new = name_of(definition), kinds_of(definition) if is_served else []
    old = [kind for kind in KINDS if is_custom(kind) and kind.id == name]
    served = [kind for kind, version in new if version["served"]]
    homes = {(kind.group, kind.name): kind for kind, version in new if version["storage"]}
    route = lambda kind: (kind.group, kind.version, kind.plural)
    exchange(RESOURCES, set(map(route, old)), {route(kind): kind for kind in served})
    exchange(HOME, {(kind.group, kind.name) for kind in old}, homes)
    exchange(KIND, {name}, {name: kind for kind in homes.values()})
    KINDS = [kind for kind in KINDS if kind not in old] + served

# == 24. Scheduler ===========================================================================
# Pure: whether a pod may go to the node, by kube-scheduler's plugins that matter on one node, in
# their order and words. Containers of others count with their ports and labels, for these are in
# use; they have reserved nothing.
CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
PRESSURES = {   # condition of the node -> its taint
    "DiskPressure": {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"},
    "MemoryPressure": {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}}

def priority_of(pod):
    return pod["spec"].get("priority") or 0

def required_terms(pod, which):
    found = dig(pod, f"spec.affinity.{which}.requiredDuringSchedulingIgnoredDuringExecution", ())
    return dig(found, "nodeSelectorTerms", ()) if which == "nodeAffinity" else found

def tolerates(pod, taint):
    for t in pod["spec"].get("tolerations", ()):
        fits_taint = (t.get("effect", taint["effect"]) == taint["effect"] and
                      t.get("key", taint["key"]) == taint["key"])
        if (fits_taint and
                (t.get("operator") == "Exists" or t.get("value", "") == taint.get("value", ""))):
            return True
    return False

def is_repelled(pod, node, effects=("NoSchedule", "NoExecute")):
    return any(t["effect"] in effects and not tolerates(pod, t)
               for t in node["spec"].get("taints", ()))

def meets_expression(expression, labels):
    """Whether labels, or fields, meet a NodeSelectorRequirement."""
    if expression["operator"] not in ("Gt", "Lt"):
        return selects(selector_of({"matchExpressions": [expression]}), labels)
    pair = labels.get(expression["key"], ""), *expression.get("values", ())[:1]
    if not all(re.fullmatch(r"-?\d{1,18}", each) for each in pair):
        return False
    first, second = map(int, pair)
    return first > second if expression["operator"] == "Gt" else first < second

def is_wanted(pod, node):
    """Whether nodeSelector and one of the required terms mean a node; an empty term means none."""
    labels, fields = labels_of(node), {"metadata.name": name_of(node)}
    if not selects(selector_of(pod["spec"].get("nodeSelector")), labels):
        return False
    terms = required_terms(pod, "nodeAffinity")
    for term in terms:
        tests = ([(e, labels) for e in term.get("matchExpressions", ())] +
                 [(e, fields) for e in term.get("matchFields", ())])
        if tests and all(meets_expression(*test) for test in tests):
            return True
    return not terms

def host_ports(pod):
    """[(address, protocol, number)] of the ports that a pod takes of its node."""
    return [(p.get("hostIP", "0.0.0.0"), p.get("protocol", "TCP"), p["hostPort"])
            for c in (*sidecars_of(pod["spec"]), *pod["spec"]["containers"])
            for p in c.get("ports", ()) if p.get("hostPort")]

def lacks_ports(pod, view):
    return any(a[1:] == b[1:] and (a[0] == b[0] or "0.0.0.0" in (a[0], b[0]))
               for a in host_ports(pod) for b in view.ports)

class View:
    """What the pods that have not ended take of the node; namespaces: {name: labels}."""
    def __init__(self, pods, namespaces):
        self.pods, self.namespaces, self.used, self.ports = [], namespaces, Counter(), []
        for pod in pods:
            self.add(pod)

    def add(self, pod):
        self.pods.append(pod)
        self.ports += host_ports(pod)
        if not is_foreign(pod):
            self.used.update(pod_total(pod["spec"], "requests"))
            self.used["pods"] += 10 ** 9

def lacks_resources(pod, node, view):
    """[(resource, requested, used, capacity)] of what is too little, CPUs in thousandths."""
    wanted, rows = pod_total(pod["spec"], "requests"), []
    wanted["pods"], has = 10 ** 9, nanos_of(dig(node, "status.allocatable", {}))
    for name in dict.fromkeys(("pods", "cpu", "memory", "ephemeral-storage", *sorted(wanted))):
        unit = 10 ** (6 if name == "cpu" else 9)
        asked, used, all_ = (-(-each[name] // unit) for each in (wanted, view.used, has))
        if 0 < asked > all_ - used:
            rows.append((name, asked, used, all_))
    return rows

def means(term, owner, pod, view):
    """Whether a PodAffinityTerm of the pod owner means another pod."""
    namespace, selector = pod["metadata"]["namespace"], term.get("namespaceSelector")
    names = term.get("namespaces", ())
    if not names and selector is None:
        names = [owner["metadata"]["namespace"]]
    is_near = namespace in names or selector is not None and selects(
        selector_of(selector), view.namespaces.get(namespace))
    labels, own = labels_of(pod), labels_of(owner)
    matched = [labels.get(key) == own[key] for key in term.get("matchLabelKeys", ()) if key in own]
    apart = [labels.get(key) != own[key] for key in term.get("mismatchLabelKeys", ())
             if key in own]
    return (is_near and is_selected(term.get("labelSelector"), pod) and
            all(matched) and all(apart))

def repels(owner, pod, labels, view):
    """Whether the anti-affinity of one pod keeps another from a node of these labels."""
    return any(term["topologyKey"] in labels and means(term, owner, pod, view)
               for term in required_terms(owner, "podAntiAffinity"))

PORTS, AFFINITY = ("node(s) didn't have free ports for the requested pod ports",
                   "node(s) didn't match Pod's node affinity/selector")

def objections(pod, node, view):
    """What the plugins say, one after the other: (whether one objects, its reasons)."""
    labels, lacking = labels_of(node), lacks_resources(pod, node, view)
    cordoned = node["spec"].get("unschedulable") and not tolerates(pod, CORDONED)
    yield cordoned, ["node(s) were unschedulable"]
    yield is_repelled(pod, node), ["node(s) had untolerated taint(s)"]
    yield not is_wanted(pod, node), [AFFINITY]
    yield lacks_ports(pod, view), [PORTS]
    yield lacking, ["Too many pods" if name == "pods" else "Insufficient " + name
                    for name, *_ in lacking]
    yield (any(repels(pod, p, labels, view) for p in view.pods),
           ["node(s) didn't match pod anti-affinity rules"])
    yield (any(repels(p, pod, labels, view) for p in view.pods),
           ["node(s) didn't satisfy existing pods anti-affinity rules"])

def misfit(pod, node, view):
    """Why a pod may not go to a node, as the first plugin says that objects; "" if it may."""
    reasons = next((reasons for objects, reasons in objections(pod, node, view) if objects), [])
    if not reasons:
        return ""
    return f"0/1 nodes are available: {', '.join(sorted(f'1 {reason}' for reason in reasons))}."

def rejection(pod, node, view):
    """Why the kubelet rejects a pod that was bound to its node: (reason, message), or None."""
    for name, wanted, used, has in lacks_resources(pod, node, view):
        if "/" not in name or name in node["status"].get("allocatable", {}):
            return ("OutOf" + name,
                    (f"Node didn't have enough resource: {name}, requested: {wanted}, used: "
                     f"{used}, capacity: {has}"))
    faults = [("NodeAffinity", not is_wanted(pod, node), AFFINITY),
              ("NodePorts", lacks_ports(pod, view), PORTS),
              ("TaintToleration", is_repelled(pod, node, ["NoExecute"]),
               "node(s) had taints that the pod didn't tolerate")]
    return next(((plugin, f"Predicate {plugin} failed: {text}") for plugin, found, text in faults
                 if found),
                None)

def claim_trouble(pod, lookup, others):
    """Why a pod waits for its claims, in the scheduler's words, "" if it does not; others: the
    pods that have the node already."""
    for name in claims_of(pod):
        claim = lookup("PersistentVolumeClaim", name)
        phase = dig(claim, "status.phase")
        if not claim or is_deleting(claim):
            return f'persistentvolumeclaim "{name}" {"is being deleted" if claim else "not found"}'
        if phase == "Lost":
            volume = claim["spec"]["volumeName"]
            return (f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume '
                    f'"{volume}"')
        if phase != "Bound":
            return "pod has unbound immediate PersistentVolumeClaims"
        users = [each for each in others
                 if key_of(each)[0] == key_of(pod)[0] and name in claims_of(each)]
        if users and "ReadWriteOncePod" in claim["spec"]["accessModes"]:
            return ("node has pod using PersistentVolumeClaim with the same name and "
                    "ReadWriteOncePod access mode")
    return ""

# == 25. Pod -> container ====================================================================
# Kubernetes dicts in, engine dicts out; nothing sent, and nothing read but a seccomp profile and
# whether the host has AppArmor. Section 28 goes the other way. The spelling tells the side:
# camelCase keys are Kubernetes, PascalCase are the engine's.
POD_NAME, POD_NAMESPACE, POD_UID, CONTAINER_NAME = (    # labels of containers, the kubelet's
    "io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid",
    "io.kubernetes.container.name")
# "always" would undo a `docker stop` when the engine restarts
RESTART = {"Always": "unless-stopped", "OnFailure": "on-failure", "Never": "no"}
# volumes that show what the API holds
FROM_API = {"configMap", "secret", "downwardAPI", "projected"}
PROPAGATION = {"HostToContainer": "rslave", "Bidirectional": "rshared"}
DOWNWARD = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
            "spec.serviceAccountName", "status.podIP", "status.podIPs")
SOURCES = {"configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap", "secretRef": "Secret",
           "secretKeyRef": "Secret"}

WORD_BYTES = 128 << 10      # of an argument or a variable (execve(2), MAX_ARG_STRLEN)

def container_name(pod, name):
    return f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_{name}"

def expand(text, env):
    """Replace $(NAME) by its value, leave unknown ones, turn $$ into $ (Kubernetes:
    third_party/.../expansion). Raises ConfigError for more than Linux takes."""
    left = WORD_BYTES
    def value_of(at):
        nonlocal left
        found = "$" if at[1] == "$" else str(env.get(at[2], at[0]))
        left -= len(found)
        if left < 0:
            raise ConfigError(f"{text[:40]}... expands to more than {WORD_BYTES} bytes")
        return found
    return re.sub(r"\$(\$|\(([^)]*)\))", value_of, text)

def pod_field(pod, path, host_ip):
    """What a fieldRef names, as text. Raises ConfigError if the downward API does not know it."""
    found = re.fullmatch(r"metadata\.(labels|annotations)(\['(.+)'\])?", path)
    if found:
        entries = pod["metadata"].get(found[1], {})
        every = "\n".join(f"{key}={dumps(value).decode()}"
                          for key, value in sorted(entries.items()))
        return entries.get(found[3], "") if found[2] else every
    if path in ("status.hostIP", "status.hostIPs"):
        return host_ip
    if path not in DOWNWARD:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return dig(pod, path.replace("podIPs", "podIP"), "")    # there is but one

def resource_field(pod, container, selector, allocatable):
    """What a resourceFieldRef names, as text: in units of its divisor, rounded up; a limit that is
    not set is what the node has. container: the one it stands in, or None in a volume. Raises
    ConfigError."""
    name, (kind, _, resource) = (selector.get("containerName"),
                                 selector.get("resource", "").partition("."))
    if name:
        container = container_named(pod["spec"], name)
    if not container:
        raise ConfigError(f"container {name} not found")
    usual = resource in ("cpu", "memory", "ephemeral-storage")
    if kind not in ("limits", "requests") or not usual:
        raise ConfigError(f"unsupported container resource: {selector.get('resource')}")
    found = dig(container, ["resources", kind, resource], "0")
    if kind == "limits" and not quantity_nanos(found):
        found = allocatable.get(resource, "0")
    unit = 10 ** 6 if resource == "cpu" else 10 ** 9    # thousandths of a cpu, bytes of the others
    divisor = quantity_value(selector.get("divisor") or "0", unit) or quantity_value("1", unit)
    return str(-(-quantity_value(found, unit) // divisor))

def service_variables(name, service):
    """The variables that tell of one Service (kubelet: envvars.FromServices)."""
    spelled = lambda text: text.upper().replace("-", "_")
    ip, ports, prefix = cluster_ip(service), service["spec"]["ports"], spelled(name)
    env = {f"{prefix}_SERVICE_HOST": ip, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for port in reversed(ports):    # the plain NAME_PORT is that of the first
        number, protocol = str(port["port"]), port.get("protocol", "TCP")
        url, link = f"{protocol.lower()}://{ip}:{number}", f"{prefix}_PORT_{number}_{protocol}"
        env.update({f"{prefix}_PORT": url, link: url, link + "_PROTO": protocol.lower(),
                    link + "_PORT": number, link + "_ADDR": ip})
        if port.get("name"):
            env[f"{prefix}_SERVICE_PORT_{spelled(port['name'])}"] = number
    return env

def service_environment(pod, services):
    """The variables of the Services of a pod's namespace, if it wants them, and kubernetes."""
    own, links = pod["metadata"]["namespace"], pod["spec"].get("enableServiceLinks", True)
    chosen, env = {}, {}
    for service in filter(cluster_ip, services):
        namespace, name = key_of(service)
        is_own = namespace == own and links
        if is_own or (namespace, name) == ("default", "kubernetes") and name not in chosen:
            chosen[name] = service
    for name, service in sorted(chosen.items()):
        env.update(service_variables(name, service))
    return env

def referred(pod, field, reference, lookup):
    """The data that a configMapRef and the like names, or its key. Raises ConfigError."""
    kind, name, key = SOURCES[field], reference.get("name", ""), reference.get("key")
    data, required = lookup(kind, name), not reference.get("optional")
    if data is None and required:
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    text = {name: value.decode("utf-8", "replace") for name, value in (data or {}).items()}
    if key and key not in text and required:
        raise ConfigError(
            f"couldn't find key {key} in {kind} {pod['metadata']['namespace']}/{name}")
    return text.get(key) if key else text

def environment(pod, container, lookup, host_ip, cluster, allocatable):
    """The container's environment as {"NAME": "value"}, references resolved, in the order
    Kubernetes sets them.

    lookup(kind name, name) -> the data of a ConfigMap or Secret of the pod's namespace as {key:
    bytes}, or None. cluster: the service variables; allocatable: {resource: quantity} of the node.
    Raises ConfigError where something that is not optional is missing."""
    env = dict(cluster)
    for source in container.get("envFrom", ()):
        for field in filter(SOURCES.get, source):
            found = referred(pod, field, source[field], lookup)
            env.update((source.get("prefix", "") + key, value) for key, value in found.items())
    for entry in container.get("env", ()):
        value = expand(entry.get("value", ""), env)
        for field, source in entry.get("valueFrom", {}).items():               # one, by validation
            if field == "fieldRef":
                value = pod_field(pod, source["fieldPath"], host_ip)
            elif field == "resourceFieldRef":
                value = resource_field(pod, container, source, allocatable)
            else:
                value = referred(pod, field, source, lookup)
        if value is not None:
            env[entry["name"]] = value
    return env

def kernel_hostname(pod):
    """What `hostname` says in a pod. Raises ConfigError where Linux has no room for it."""
    hostname, domain = pod_hostname(pod)
    fqdn = f"{hostname}.{domain}"
    if not domain or not pod["spec"].get("setHostnameAsFQDN"):
        return hostname
    if len(fqdn) > 64:
        raise ConfigError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too "
            f"long (64 characters is the max, {len(fqdn)} characters requested)",
            "FailedCreatePodSandBox")
    return fqdn

def uses_cluster_dns(spec):
    policy = spec.get("dnsPolicy")
    return (policy == "ClusterFirstWithHostNet" or policy == "ClusterFirst" and
            not spec.get("hostNetwork"))

def dns_config(pod, settings, host=""):
    """(nameservers, search domains, options) of a pod by dnsPolicy and dnsConfig, within the
    kubelet's limits. host: the text of the host's resolv.conf, for dnsPolicy Default."""
    spec, config, servers, searches, options = (pod["spec"], pod["spec"].get("dnsConfig", {}), [],
                                                [], [])
    if uses_cluster_dns(spec):
        # The first refuses what is not ours; the second is asked then. Short forms are answered as
        # they stand: the ndots:5 of Kubernetes costs eight questions an outside name.
        servers, options = [settings.dns_ip, settings.upstream_ip], ["ndots:1"]
        searches = [f"{pod['metadata']['namespace']}.svc.{CLUSTER_DOMAIN}",
                    "svc." + CLUSTER_DOMAIN, CLUSTER_DOMAIN]
    elif spec.get("dnsPolicy") != "None":
        servers, searches, options = read_resolv_conf(host)
        if not spec.get("hostNetwork"):     # the host's own loopback is out of a pod's reach
            servers = [s for s in servers if not s.startswith("127.")] or [settings.upstream_ip]
    named = {option.partition(":")[0]: option for option in options}
    for option in config.get("options", ()):
        name, value = option.get("name", ""), option.get("value")
        named[name] = f"{name}:{value}" if value else name
    searches = [s for s in dict.fromkeys([*searches, *config.get("searches", ())])
                if len(s) <= 253][:32]
    while len(" ".join(searches)) > 2048:
        searches.pop()
    return (list(dict.fromkeys([*servers, *config.get("nameservers", ())]))[:3], searches,
            list(named.values()))

def read_resolv_conf(text):
    """(name servers, search domains, options) of a resolv.conf."""
    said = {"nameserver": [], "search": [], "options": []}
    for word, *rest in filter(None, map(str.split, text.splitlines())):
        said[word] = rest if word == "search" else said.get(word, []) + rest
    return said["nameserver"], said["search"], said["options"]

SAFE_SYSCTLS = {"kernel.shm_rmid_forced", *("net.ipv4." + name for name in (     # the kubelet's
    "ip_local_port_range tcp_syncookies ping_group_range ip_unprivileged_port_start "
    "ip_local_reserved_ports tcp_keepalive_time tcp_fin_timeout tcp_keepalive_intvl "
    "tcp_keepalive_probes tcp_rmem tcp_wmem").split())}

def sysctls(spec):
    """The pod's sysctls as {name: value}; "net/ipv4/x" is another spelling of "net.ipv4.x"."""
    return {each["name"].replace("/", "."): each["value"]
            for each in dig(spec, "securityContext.sysctls", ())}

def forbidden_sysctls(spec):
    """Why the kubelet would refuse a pod's sysctls (SysctlForbidden), "" if it would not."""
    for name in sysctls(spec):
        space, field = ("net", "hostNetwork") if name.startswith("net.") else ("ipc", "hostIPC")
        if name not in SAFE_SYSCTLS:
            return f'forbidden sysctl: "{name}" not allowlisted'
        if spec.get(field):
            return f'forbidden sysctl: "{name}" not allowed with host {space} enabled'
    return ""

def seccomp_option(profile, settings):
    """The engine's option for a seccompProfile of type Localhost. Raises ConfigError."""
    path = settings.path("seccomp",
                         os.path.normpath("/" + profile.get("localhostProfile", ""))[1:])
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f'cannot load seccomp profile "{path}": {error.strerror.lower()}',
                          "CreateContainerError")
    return "seccomp=" + (path if settings.is_podman else text)

def security_profiles(security, settings):
    """SecurityOpt of the engine's create call. Where no seccomp profile is asked for, the engine's
    default holds."""
    seccomp, apparmor = security.get("seccompProfile", {}), security.get("appArmorProfile", {})
    out = ["no-new-privileges"] if security.get("allowPrivilegeEscalation") is False else []
    if seccomp.get("type") == "Localhost":
        out.append(seccomp_option(seccomp, settings))
    has_apparmor = first_line("/sys/module/apparmor/parameters/enabled") == "Y"
    if apparmor.get("type") in ("Localhost", "RuntimeDefault") and not has_apparmor:
        raise ConfigError("Cannot enforce AppArmor: AppArmor is not enabled on the host")
    for name, profile in (("seccomp", seccomp), ("apparmor", apparmor)):
        if profile.get("type") == "Unconfined":
            out.append(name + "=unconfined")
    if apparmor.get("type") == "Localhost":
        out.append(f"apparmor={apparmor.get('localhostProfile')}")
    return (out +
            [f"label={key}:{value}" for key, value in security.get("seLinuxOptions", {}).items()
             if value])

def security_context(pod, container):
    """A container's own setting wins over its pod's."""
    return {**pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}

def security_options(pod, container, settings):
    """User, and Privileged, CapAdd ... of the engine's create call."""
    both = security_context(pod, container)
    user, caps = str(both.get("runAsUser", "")), both.get("capabilities", {})
    if "runAsGroup" in both:
        user = f"{user or 0}:{both['runAsGroup']}"
    groups = [*both.get("supplementalGroups", ()), *pick(both, ("fsGroup",)).values()]
    unmasked = ({"MaskedPaths": [], "ReadonlyPaths": []} if both.get("procMount") == "Unmasked"
                else {})
    return user, {"Privileged": bool(both.get("privileged")),
                  "ReadonlyRootfs": bool(both.get("readOnlyRootFilesystem")),
                  "CapAdd": caps.get("add", []), "CapDrop": caps.get("drop", []),
                  "GroupAdd": [str(group) for group in groups],
                  "SecurityOpt": security_profiles(both, settings), **unmasked}

def oom_score(pod, container, settings):
    """The kubelet's GetContainerOOMScoreAdjust: who uses more than it asked for goes first."""
    spec, qos = pod["spec"], qos_class(pod["spec"])
    asked = lambda c: quantity_value(dig(c, "resources.requests.memory", "0"))
    if qos == "Guaranteed" or spec.get("priorityClassName") == "system-node-critical":
        return max(-997, settings.least_oom_score)
    if qos == "BestEffort":
        return 1000
    least = min(map(asked, spec["containers"])) if is_sidecar(container) else 0
    return min(max(1000 - 1000 * max(asked(container), least) // settings.memory_bytes, 3), 999)

def resource_options(pod, container, settings):
    """CpuShares, Memory ... of the engine's create call."""
    limits = dig(container, "resources.limits", {})
    requests = dig(container, "resources.requests", {})
    # thousandths
    cpu, asked = (quantity_value(each.get("cpu", "0"), 10 ** 6) for each in (limits, requests))
    memory_bytes = quantity_value(limits.get("memory", "0"))    # 0 is no limit, like an absent one
    return {
        # the same: no swap, as with the kubelet
        "Memory": memory_bytes, "MemorySwap": memory_bytes,
        # In 100 ms. Not NanoCpus: the engine refuses more of them than the machine has.
        "CpuQuota": max(1000, cpu * 100) if cpu else 0,
        "CpuShares": min(max(2, (asked or cpu) * 1024 // 1000), 262144),    # its MilliCPUToShares
        "OomScoreAdj": oom_score(pod, container, settings)}

def subpath_of(mount, env):
    """The subPath of a volumeMount, "" for none. Raises ConfigError if it leads elsewhere."""
    path = mount.get("subPath") or expand(mount.get("subPathExpr", ""), env)
    missing = [name for name in re.findall(r"\$\(([^()]*)\)", mount.get("subPathExpr", ""))
               if name not in env]
    if missing:
        raise ConfigError(f'missing value for "{missing[0]}"')
    if path and not fits("path", path):
        raise ConfigError(f"subPath {path}: {form_text('path')}")
    return path

# types of hostPath that become the engine's Devices: what is only mounted cannot be opened
DEVICES = ("CharDevice", "BlockDevice")
OWN_RESOURCE = "k2d.io/"    # and the name of a device, in limits
def to_docker_device(path, target, read_only=False):
    return {"PathOnHost": path, "PathInContainer": target,
            "CgroupPermissions": "r" if read_only else "rw"}

def device_options(container, settings):
    """The devices that a container has by its limits, each under its own path. Raises
    ConfigError."""
    found = []
    for name, amount in dig(container, "resources.limits", {}).items():
        if name.startswith(OWN_RESOURCE) and quantity_nanos(amount):
            paths = device_nodes(settings.devices.get(name.partition("/")[2], ""))
            if not paths:
                raise ConfigError(f"{name}: no such device is there now", "CreateContainerError")
            found += [to_docker_device(path, path) for path in paths]
    return found

def log_options(settings):
    """Logs that have an end, where the engine keeps them in files that grow."""
    if settings.log_driver != "json-file" or not settings.log_size:
        return {}
    ends = {"max-size": settings.log_size, "max-file": settings.log_files}
    return {"LogConfig": {"Type": settings.log_driver, "Config": ends}}

OWN_FILES = {"etc-hosts": "/etc/hosts", "resolv-conf": "/etc/resolv.conf",
             "termination-log": "/dev/termination-log"}

def wanted_mounts(pod, container, env, sources):
    """[(volumeMount, its volume, the key of its source)], with the files of OWN_FILES."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
    wanted = [(mount, volumes[mount["name"]], f"{mount['name']}/{subpath_of(mount, env)}")
              for mount in container.get("volumeMounts", ())]
    taken = [mount["mountPath"] for mount, _, _ in wanted]
    for name, path in OWN_FILES.items():
        if name == "termination-log":
            path = container.get("terminationMessagePath", path)
        if name in sources and path not in taken:
            wanted.append(({"mountPath": path}, {}, name))
    return wanted

def to_docker_mounts(pod, container, env, sources):
    """HostConfig's Mounts, Binds and Devices of one container. sources: what prepare_volumes() and
    hold_subpaths() gave, {"VOLUME/SUBPATH": path on the host, or the fields of an engine's mount};
    those of OWN_FILES are files."""
    mounts, binds, devices = [], [], []
    for mount, volume, key in wanted_mounts(pod, container, env, sources):
        target, source = mount["mountPath"], sources[key]
        read_only = bool(mount.get("readOnly") or FROM_API & volume.keys() or
                         dig(volume, "persistentVolumeClaim.readOnly") or
                         dig(volume, "nfs.readOnly"))
        propagation = PROPAGATION.get(mount.get("mountPropagation"))
        if dig(volume, "emptyDir.medium") == "Memory" and key[-1] == "/" and ":" not in target:
            # Gone after a reboot: a folder that the engine makes in /run is memory, too.
            options = ["ro" if read_only else "rw", *filter(None, [propagation])]
            binds.append(f"{source}:{target}:{','.join(options)}")
            continue
        if dig(volume, "hostPath.type") in DEVICES:
            devices.append(to_docker_device(source, target, read_only))
            continue
        # unlike Binds, Mounts fail where the source is missing, instead of making a folder
        if isinstance(source, str):
            source = {"Type": "bind", "Source": source,
                      **filled(BindOptions=filled(Propagation=propagation))}
        mounts.append({**source, "Target": target, "ReadOnly": read_only})
    return {"Mounts": mounts, "Binds": binds, "Devices": devices}

def container_labels(pod, name):
    return dict(zip((POD_NAMESPACE, POD_NAME, POD_UID, CONTAINER_NAME),
                    (*key_of(pod), pod["metadata"]["uid"], name)))

def needs_sandbox(spec):
    """Whether a pod's namespaces need a container of their own: where its containers share
    processes, more than one stays, or an init container may leave something behind in the network
    that the others must find."""
    changing = [c for c in spec.get("initContainers", ())
                if dig(c, "securityContext.privileged") or
                dig(c, "securityContext.capabilities.add")]
    staying = len(spec["containers"]) + len(sidecars_of(spec))
    return bool(staying > 1 or spec.get("shareProcessNamespace") or changing)

def mac_of(ip):
    """The hardware address of a container with an IPv4 address, as Docker makes it. Podman takes
    another at each start, and who has spoken to the last one waits until that is forgotten."""
    return "02:42:" + ipaddress.IPv4Address(ip).packed.hex(":")

def own_namespaces(pod, settings):
    """The fields of the create call, and of its HostConfig, that belong to the pod as a whole: for
    its sandbox, or for the one container of a pod that has none."""
    spec, is_host = pod["spec"], pod["spec"].get("hostNetwork")
    network, endpoints, resolver = "host", {}, ([], [], [])
    if not is_host:
        network = settings.network
        ip = pod["status"]["podIP"]
        endpoints = {network: {"IPAMConfig": {"IPv4Address": ip},
                               **({"MacAddress": mac_of(ip)} if settings.is_podman else {})}}
    if not is_host and uses_cluster_dns(spec):
        resolver = dns_config(pod, settings)
    return ({"Hostname": "" if is_host else kernel_hostname(pod),
             "NetworkingConfig": {"EndpointsConfig": endpoints}},
            {"NetworkMode": network, "PidMode": "host" if spec.get("hostPID") else "",
             "IpcMode": "host" if spec.get("hostIPC") else "shareable", "Sysctls": sysctls(spec),
             **dict(zip(("Dns", "DnsSearch", "DnsOptions"), resolver))})

def to_docker_sandbox(pod, settings):
    """The body of the create call for what holds the namespaces of a pod of several."""
    whole, host = own_namespaces(pod, settings)
    is_once = pod["spec"]["restartPolicy"] == "Never"
    return {
        "Image": SANDBOX_IMAGE, "StopSignal": "SIGKILL", "Labels": container_labels(pod, SANDBOX),
        **whole,
        "HostConfig": {
            # After a restart of the engine its containers come back if they may, and it must be
            # there for them.
            **restart_options("Never" if is_once else "Always", settings),
            "ReadonlyRootfs": True, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
            "CpuShares": 2, "OomScoreAdj": max(-998, settings.least_oom_score), **host}}

def restart_options(policy, settings):
    """Docker restarts, also while k2d is down. Podman makes no pause between two runs, and would
    start what fails at once ten times a second: there k2d does it."""
    return {"RestartPolicy": {"Name": "no" if settings.is_podman else RESTART[policy]}}

def to_docker_container(pod, container, env, sources, settings, join="", target=""):
    """The body of the engine's create call for one container of a pod. env: {"NAME": "value"},
    references resolved; sources: see to_docker_mounts(); join: the id of the sandbox whose
    namespaces it shares, "" if it has its own; target: the id of the container whose processes an
    ephemeral container sees."""
    spec, (user, security) = pod["spec"], security_options(pod, container, settings)
    whole, host = own_namespaces(pod, settings)
    if join:
        share = f"container:{join}"
        whole = {}
        host = {"NetworkMode": share, "IpcMode": "host" if spec.get("hostIPC") else share,
                "PidMode": share if spec.get("shareProcessNamespace") else host["PidMode"]}
        if settings.is_podman:
            host["UTSMode"] = share     # with the network, Docker shares the host name, too
    if target:
        host["PidMode"] = f"container:{target}"
    if spec.get("runtimeClassName"):
        host["Runtime"] = spec["runtimeClassName"]
    restart = restart_policy(spec, container)
    mounts = to_docker_mounts(pod, container, env, sources)
    mounts["Devices"] += device_options(container, settings)
    return {
        "Image": container["image"],
        # With Entrypoint set, the engine ignores the image's Cmd: just what command without args
        # means to Kubernetes.
        "Entrypoint": [expand(word, env) for word in container.get("command", ())] or None,
        "Cmd": [expand(word, env) for word in container.get("args", ())] or None,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "WorkingDir": container.get("workingDir", ""),
        "Labels": container_labels(pod, container["name"]),
        "Tty": bool(container.get("tty")), "OpenStdin": bool(container.get("stdin")),
        "StdinOnce": bool(container.get("stdinOnce")), "User": user,
        # Kubernetes knows no HEALTHCHECK, and each one costs an exec
        "Healthcheck": {"Test": ["NONE"]},
        **whole,
        "HostConfig": {
            **restart_options(restart, settings), **host, **security,
            **resource_options(pod, container, settings), **log_options(settings), **mounts}}

# == 26. Volumes =============================================================================
# Each volume of a pod is a path of the host; most are folders under DATA/pods/UID/volumes. What
# touches the host stands in section 7.
def volume_files(kind, source, lookup):
    """The files of a configMap or secret: {relative path: (bytes, mode)}. Raises ConfigError."""
    name = source.get("name") or source.get("secretName", "")
    data, required = lookup(kind, name), not source.get("optional")
    mode = source.get("defaultMode", 0o644)
    if data is None and required:
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    data = data or {}
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    missing = [item["key"] for item in items if item["key"] not in data]
    if missing and required:
        raise ConfigError(f"references non-existent {kind.lower()} key: {missing[0]}")
    return {item["path"]: (data[item["key"]], item.get("mode", mode)) for item in items
            if item["key"] in data}

def downward_files(pod, items, mode, settings, lookup):
    """The files of a downwardAPI volume: {relative path: (bytes, mode)}. Raises ConfigError."""
    files, has = {}, dig(lookup("Node", settings.node), "status.allocatable", {})
    for item in items:
        if "resourceFieldRef" in item:
            text = resource_field(pod, None, item["resourceFieldRef"], has)
        else:
            text = pod_field(pod, dig(item, "fieldRef.fieldPath", ""), settings.host_ip)
        files[item["path"]] = text.encode(), item.get("mode", mode)
    return files

def token_owner(pod):
    """[the one user whom all containers run as], who alone may read its token; [] where they
    differ or do not say."""
    spec = pod["spec"]
    users = {security_context(pod, c).get("runAsUser")
             for c in (*spec["containers"], *spec.get("initContainers", ()))}
    return list(users - {None}) if len(users) == 1 else []

def projected_files(pod, volume, settings, lookup):
    """The files of a volume of API objects, for project_files(). Raises ConfigError."""
    files, owner = {}, token_owner(pod)
    mode = next((each["defaultMode"] for each in volume.values() if "defaultMode" in each), 0o644)
    private = owner or dig(pod, "spec.securityContext.fsGroup") is not None
    # a volume of one source looks like an entry
    for each in dig(volume, "projected.sources", [volume]):
        for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if field in each:
                files.update(volume_files(kind, {"defaultMode": mode, **each[field]}, lookup))
        files.update(downward_files(pod, dig(each, "downwardAPI.items", ()), mode, settings,
                                    lookup))
        token = each.get("serviceAccountToken")
        if token:
            files[token["path"]] = (lookup("Token", (volume["name"], token)),
                                    0o600 if private else mode, *owner)
    return files

def hold_subpath(root, path, target, is_ours):
    """What is mounted for a subPath below root: the path itself, where k2d alone writes there.
    Raises OSError.

    The engine resolves a path anew at each start of the container. So where containers can write,
    and put a symlink to somewhere else into the path, it is given a bind mount of what stood there
    when we looked, in a place of our own."""
    if isinstance(root, dict):                                  # nfs: the server finds it
        device = root["VolumeOptions"]["DriverConfig"]["Options"]["device"]
        options = {"DriverConfig": {"Options": {"device": os.path.join(device, path)}}}
        return merge_patch(root, {"VolumeOptions": options})
    where = os.path.join(root, path)
    found = stat_beneath(root, path)
    return where if is_ours else hold(where, found, target)

def hold_subpaths(pod, container, env, sources):
    """sources, and "VOLUME/SUBPATH" of each volumeMount with a subPath. Raises ConfigError."""
    out, uid = dict(sources), uid_of(pod)
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
    for i, mount in enumerate(container.get("volumeMounts", ())):
        path, name = subpath_of(mount, env), mount["name"]
        target = run_folder(uid, "held", f"{container['name']}.{i}")
        try:
            if path:
                by_us = bool(FROM_API & volumes[name].keys())
                out[f"{name}/{path}"] = hold_subpath(sources[name + "//"], path, target, by_us)
        except OSError as error:
            # no details for those who may read the pod: they would tell of the host's files
            log(f"subPath {path} of {' '.join(key_of(pod))}: {error}")
            raise ConfigError(f'failed to prepare subPath for volumeMount "{name}" of container '
                              f'"{container["name"]}"')
    return out

# -- what each type of volume is made from: called with pod, volume, settings, lookup; returns what
# the engine mounts, and where subPaths begin
def prepare_files(pod, volume, settings, lookup):
    folder = settings.pod_folder(uid_of(pod), "volumes", volume["name"])
    files = projected_files(pod, volume, settings, lookup)
    project_files(folder, files, dig(pod, "spec.securityContext.fsGroup"))
    # the latter for a subPath: never past our symlinks
    return folder, os.path.join(folder, "..data")

def memory_size(pod, source):
    """What an emptyDir in memory may hold: what the containers may use, if none is unlimited."""
    limits = [dig(c, "resources.limits.memory") for c in pod["spec"]["containers"]]
    sizes = [quantity_value(source["sizeLimit"])] if "sizeLimit" in source else []
    if all(limits):
        sizes.append(sum(map(quantity_value, limits)))
    return min(sizes, default="50%")

def prepare_empty_dir(pod, volume, settings, lookup):
    uid, group = uid_of(pod), dig(pod, "spec.securityContext.fsGroup")
    source = volume.get("emptyDir", {})
    mode = 0o777 if group is None else 0o2777
    if source.get("medium") == "Memory":
        folder = run_folder(uid, "volumes", volume["name"])
        mount_memory(folder, f"size={memory_size(pod, source)},mode={mode:o},gid={group or 0}")
    else:
        folder = settings.pod_folder(uid, "volumes", volume["name"])
        make_scratch(folder, mode, group)
    return folder, folder

def to_docker_nfs(source, options=()):
    """An engine's mount of an NFS export; its volume has no name and goes with the container."""
    told = ["addr=" + source["server"], *(options or ["nfsvers=4"])]
    if source.get("readOnly"):
        told.append("ro")
    return {"Type": "volume",
            "VolumeOptions": {"NoCopy": True,
                              "DriverConfig": {"Name": "local",
                                               "Options": {"type": "nfs", "o": ",".join(told),
                                                           "device": ":" + source["path"]}}}}

def prepare_claim(pod, volume, settings, lookup):
    name = volume["persistentVolumeClaim"]["claimName"]
    security = pod["spec"].get("securityContext", {})
    claim = lookup("PersistentVolumeClaim", name)
    pv = lookup("PersistentVolume", dig(claim, "spec.volumeName", ""))
    is_own = pv and is_for(pv, claim) and dig(pv, "spec.claimRef.uid")
    if not is_own or dig(claim, "status.phase") != "Bound":
        why = "is not bound" if claim else "not found"
        raise ConfigError(
            f'Unable to attach or mount volumes: persistentvolumeclaim "{name}" {why}',
            "FailedMount")
    spec = pv["spec"]
    if "nfs" in spec:
        return (to_docker_nfs(spec["nfs"], spec.get("mountOptions")),) * 2
    if "hostPath" not in spec and "local" not in spec:
        raise ConfigError("no volume plugin matched: k2d mounts persistent volumes of types "
                          "hostPath, local and nfs")
    path = prepare_host_path(spec.get("hostPath") or
                             {"path": spec["local"]["path"], "type": "Directory"})
    if "fsGroup" in security and (is_ours(pv) or "local" in spec):
        set_group(path, security["fsGroup"],
                  security.get("fsGroupChangePolicy") == "OnRootMismatch")
    by_name = {"Type": "volume", "Source": engine_volume(pv), "VolumeOptions": {"NoCopy": True}}
    # by its name, the engine knows that it is in use
    return by_name if is_ours(pv) else path, path

VOLUME_SOURCES = {**dict.fromkeys(FROM_API, prepare_files), "emptyDir": prepare_empty_dir,
                  "persistentVolumeClaim": prepare_claim,
                  "hostPath": lambda pod, volume, *_: (prepare_host_path(volume["hostPath"]),) * 2,
                  "nfs": lambda pod, volume, *_: (to_docker_nfs(volume["nfs"]),) * 2}

def prepare_volumes(pod, settings, lookup, types=VOLUME_SOURCES.keys()):
    """Bring a pod's volumes of these types up to date; returns {"VOLUME/": path on the host or
    fields of an engine's mount, "VOLUME//": where subPaths of it begin}. lookup(kind, name) ->
    what the pod's namespace holds, see Worker.lookup(). Raises ConfigError."""
    sources, problems = {}, []
    for volume in pod["spec"].get("volumes", ()):
        name = volume["name"]
        for type_ in types & volume.keys():
            try:
                sources[name + "/"], sources[name + "//"] = VOLUME_SOURCES[type_](pod, volume,
                                                                                  settings, lookup)
            except (ConfigError, OSError, ValueError) as error:
                problems.append(f'MountVolume.SetUp failed for volume "{name}" : {error}')
    if problems:    # the other volumes are up to date all the same
        raise ConfigError(problems[0], "ContainerCreating")
    return sources

def remove_volumes(settings, uid):
    """Remove a pod's volumes and all its other files. Raises OSError."""
    remove_mounts(uid)
    remove_tree(settings.pod_folder(uid))

# == 27. Engine [host] =======================================================================
# HTTP to Docker or Podman over its socket, a connection a call. Engine API 1.40 to 1.52. Not by
# http.client, which would bring the email package along: with http.server, 3.4 MB resident of the
# 25 that we may use.

class EngineError(Told):
    """The engine answered with an error; str() is its message."""
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status

class EngineGone(EngineError):
    """The engine could not be reached, or hung up."""

@contextmanager
def reaching_engine():
    """Around talks with the engine: a socket that fails, or no good answer, is EngineGone."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        raise EngineGone(0, f"the container engine does not answer: {error}")

CALL_S = 120                # for an answer, or for its head where it may go on: SD cards are slow
# What we read of the engine's answers, in the notation of SCHEMA
MESSAGES.update(read_schema("""
engine.Created: *Id|req|@id; engine.Version: *Arch; engine.Volume: *Mountpoint|req;
engine.Listed: *Id|req|@id Image Labels:{} NetworkSettings:engine.Addresses;
engine.Container: *Id|req|@id *Name|req *Created:Time *Image *RestartCount:int
  State:engine.State(*Status *Running:bool *Restarting:bool *Pid:int *ExitCode:int *Error
  *OOMKilled:bool *StartedAt:Time *FinishedAt:Time)+
  Config:engine.Config(*Image *Tty:bool *OpenStdin:bool *StdinOnce:bool *Labels:{}
  *ExposedPorts:{}Raw Env:[] Cmd:Raw Entrypoint:Raw WorkingDir StopSignal StopTimeout:int User)+
  HostConfig:engine.HostConfig(*Memory:int *NetworkMode *PortBindings:{}Raw
  RestartPolicy:engine.Policy(*Name)+)+ NetworkSettings:engine.Addresses+
  *Mounts:[]engine.Mount(*Source *Destination RW:bool);
engine.Addresses: *Ports:{}Raw *Networks:{}engine.Endpoint(*IPAddress
  IPAMConfig:engine.Static(*IPv4Address));
engine.Place: *HostIp *HostPort;
engine.Exec: *Running:bool *ExitCode:int *Pid:int;
engine.Image: *RepoTags:[] *RepoDigests:[] *Size:int Architecture Config:engine.Config+;
engine.Network: *Created:Time IPAM:engine.IPAM(*Config:[]engine.Pool(*Subnet))+;
engine.Info: NCPU:int *MemTotal:int *Architecture *KernelVersion *OperatingSystem *ServerVersion
  *LoggingDriver *DockerRootDir *Runtimes:{}Raw *MemoryLimit:bool;
engine.Event: id|@id *Action *timeNano:int Actor:engine.Actor(*ID|@id *Attributes:{})+;
engine.Progress: error stream *status *id
  progressDetail:engine.Progressed(*current:int *total:int)+"""))

def shaped(value, type_, is_checked=True):
    """An answer of the engine's as a type of MESSAGES, or "[]TYPE": with all its fields that are
    there always, and none that are not in it. Raises EngineError."""
    field, faults = Field("", type_.strip("[]"), "[]" if type_[0] == "[" else ""), Faults()
    try:
        found = clean(field, value, Findings(), "")
    except Mismatch as error:
        raise EngineError(0, f"odd answer of the engine's: {error}")
    if is_checked:
        check_field(field, found, "", faults)
    if faults:
        told = f"{faults[0]['field']}: {faults[0]['message']}"
        raise EngineError(0, f"odd answer of the engine's: {told}")
    return found

def read_answer(data, type_):
    """JSON of the engine's as shaped() has it. Raises EngineError."""
    try:
        return shaped(json.loads(data), type_)
    except (ValueError, RecursionError) as error:
        raise EngineError(0, f"odd answer of the engine's: {error}")

def refusal_text(text):
    """The engine's message in the body of a refusal."""
    try:
        return str(dig(json.loads(text), "message") or text)[:FAULT_CHARS]
    except ValueError:
        return text[:FAULT_CHARS]

class Engine:
    """Calls to the engine at DOCKER_HOST. Any thread may call; every method blocks."""
    def __init__(self, host):
        scheme, _, rest = host.partition("://")
        if scheme not in ("unix", "tcp") or not rest:
            raise SystemExit(f"k2d: DOCKER_HOST {host}: want unix:///path or tcp://host:port")
        self.address, self.family = rest, socket.AF_UNIX
        if scheme == "tcp":
            name, _, port = rest.strip("/").rpartition(":")
            self.address, self.family = (name, int(port)), socket.AF_INET
        self.calls = 0      # so many were made
        self.is_podman = False
        self.prefix = ""    # "/v1.41" once the engine has said what it speaks

    def negotiate(self):
        """Learn the API version, the older of the two. Engines before 19.03 (1.40) are refused."""
        self.prefix = ""    # an engine that comes back may be an older one
        sock, head, _ = self.stream("GET", "/_ping")
        sock.close()
        self.is_podman = b"libpod-api-version" in head.lower()
        found = re.search(rb"(?im)^api-version:\s*(\d+)\.(\d+)", head)
        version = min((int(found[1]), int(found[2])) if found else (1, 40), (1, 52))
        if version < (1, 40):
            raise EngineError(400,
                              "the engine speaks {}.{}, k2d needs 1.40: Docker 19.03, Podman "
                              "4.3".format(*version))
        self.prefix = "/v{}.{}".format(*version)

    @reaching_engine()
    def stream(self, method, path, body=None, timeout=None, headers=()):
        """(socket, head, first bytes of the body) of an answer that may go on: by HTTP/1.0, so
        that it is not chunked and ends with the connection. A body of bytes, or an open file, is a
        tar archive. timeout: for what comes after the head. Raises EngineError, EngineGone."""
        is_file = hasattr(body, "fileno")
        is_tar, data = is_file or isinstance(body, bytes), b""
        if body is not None and not is_file:
            data = body if is_tar else dumps(body)
        size = os.fstat(body.fileno()).st_size if is_file else len(data)
        lines = [f"{method} {self.prefix}{path} HTTP/1.0", "Host: localhost",
                 f"Content-Length: {size}", *headers,
                 "Content-Type: application/" + ("x-tar" if is_tar else "json")]
        sock = socket.socket(self.family)
        self.calls += 1
        try:
            sock.settimeout(CALL_S)
            sock.connect(self.address)
            sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            if is_file:
                sock.sendfile(body)
                sock.settimeout(timeout)        # the answer comes when all is unpacked
            head, rest = read_answer_head(sock)
            status = int(head.split(None, 2)[1])
            if status >= 400:
                text = drain(sock, rest, time.monotonic() + CALL_S).decode("utf-8", "replace")
                if self.is_podman and "container state improper" in text:
                    status = 409        # as Docker says it
                raise EngineError(status, refusal_text(text.strip()))
            sock.settimeout(timeout)
            return sock, head, rest
        except BaseException:
            sock.close()
            raise
    def log(self, id_, query):
        """(socket, first bytes) of a container's log. Raises EngineError, EngineGone."""
        path = f"/containers/{id_}/logs?" + urllib.parse.urlencode(query)
        sock, _, rest = self.stream("GET", path)
        return sock, rest

    @reaching_engine()
    def call(self, method, path, body=None, expect=(), shape=""):
        """The body of a call that answers at once, as shaped() has it; None if no shape is given,
        or for a status that the caller expects. Raises EngineError, EngineGone."""
        try:
            sock, _, rest = self.stream(method, path, body)
        except EngineError as error:
            if error.status in expect:
                return None
            raise
        with sock:
            data = drain(sock, rest, time.monotonic() + CALL_S)
        return read_answer(data, shape) if shape else None

    def inspect(self, id_):
        """A container, None if there is none. Raises EngineError, EngineGone."""
        info = self.call("GET", f"/containers/{id_}/json", None, (404,), "engine.Container")
        if info and self.is_podman:
            state = info["State"]
            state["Status"] = PODMAN_STATES.get(state["Status"], state["Status"])
        return info

    def pull(self, image, login=None, tell=None):
        """Pull an image, blocking until it is there. login: {"username": ..., "password": ...} for
        its registry; tell: see make_image(). Raises EngineError with the registry's words."""
        headers = ([f"X-Registry-Auth: {base64.urlsafe_b64encode(dumps(login)).decode()}"] if login
                   else ())
        query = dict(zip(("fromImage", "tag"), split_image(image)))
        self.make_image("/images/create?" + urllib.parse.urlencode(query), None, headers, tell)

    def load(self, path):
        """Take the images of an archive, as `docker save` or others write it; what the engine says
        of it. Raises EngineError, OSError."""
        with open(path, "rb") as file:
            return self.make_image("/images/load?quiet=1", file)

    def make_exec(self, id_, body):
        """Have a command ready in a container: the path of the exec."""
        made = self.call("POST", f"/containers/{id_}/exec", body, shape="engine.Created")
        return "/exec/" + made["Id"]

    def look_at_exec(self, path):
        return self.call("GET", path + "/json", shape="engine.Exec")

    def architecture(self):
        return self.call("GET", "/version", shape="engine.Version")["Arch"]

    def ensure_sandbox(self):
        """Make the image of sandboxes, unless it is there. Raises EngineError, EngineGone."""
        if self.call("GET", f"/images/{SANDBOX_IMAGE}/json", None, (404,), "engine.Image"):
            return
        import io
        import tarfile
        arch = self.architecture()
        if arch not in SANDBOX_CODE:
            raise EngineError(
                501, f"pods of several containers: no sandbox for the architecture {arch}")
        file, program = io.BytesIO(), sandbox_program(*SANDBOX_CODE[arch])
        entry = tarfile.TarInfo("sandbox")
        entry.mode, entry.size = 0o755, len(program)
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(entry, io.BytesIO(program))
        # the tag within repo: Podman 4.3 reads no other
        query = {"fromSrc": "-", "repo": SANDBOX_IMAGE, "changes": 'ENTRYPOINT ["/sandbox"]'}
        self.make_image("/images/create?" + urllib.parse.urlencode(query), file.getvalue())

    @reaching_engine()
    def make_image(self, path, body=None, headers=(), tell=None):
        """Create an image by pull, import or load; what the engine says besides how far it is.
        tell(bytes there, bytes known of) is called now and then, if given."""
        layers, said = {}, []
        sock, _, text = self.stream("POST", path, body, 600, headers)
        with sock:
            while True:     # one JSON object a line; an error comes with status 200
                *lines, text = text.split(b"\n")
                for line in filter(bytes.strip, lines):
                    told = read_answer(line, "engine.Progress")
                    if told.get("error"):
                        raise EngineError(500, told["error"][:FAULT_CHARS])
                    said += filter(None, [told.get("stream", "").strip()])
                    if told["status"] == "Downloading" and told["progressDetail"]["total"]:
                        layers[told["id"]] = told["progressDetail"]
                if tell and layers:
                    there = sum(layer["current"] for layer in layers.values())
                    tell(there, sum(layer["total"] for layer in layers.values()))
                got = sock.recv(65536)
                if not got:
                    return ", ".join(said)
                must(len(text) <= FILE_BYTES, "the engine does not end its line")
                text += got

def read_answer_head(sock):
    """(head, first bytes of the body) of an answer. Raises OSError."""
    got, found = b"", None
    while not found:
        more = sock.recv(65536)
        if not more or len(got) > HEAD_BYTES:
            raise OSError("hung up before it answered, or does not come to the end of its head")
        got += more
        found = HEAD_END.search(got)
    return got[:found.start()], got[found.end():]

def registry_of(image):
    """(host, path) of an image's registry."""
    name = split_image(image)[0]
    host, slash, path = name.partition("/")
    if slash and re.search("[.:]|^localhost$", host):
        return host, path
    return "docker.io", name if slash else f"library/{name}"

def read_logins(data):
    """[(HOST/PATH, login)] in the data of a Secret; what cannot be read opens nothing."""
    found = []
    try:
        entries = json.loads(data.get(".dockercfg") or data.get(".dockerconfigjson", "{}"))
        for place, entry in (entries if ".dockercfg" in data else entries["auths"]).items():
            user, password = entry.get("username", ""), entry.get("password", "")
            if entry.get("auth"):
                user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            place = re.sub("^(?:https?://)?([^/]*)(?:/v[12](?=/))?", r"\1", place).rstrip("/")
            found.append((place, {"username": user, "password": password, "serveraddress": place}))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return []
    return found

def logins(image, secrets):
    """The logins for an image's registry, the best first, as the kubelet's keyring finds them.
    secrets: the data of Secrets of both types, each {key: bytes}."""
    from fnmatch import fnmatchcase
    host, path = registry_of(image)
    known = sorted((each for data in secrets for each in read_logins(data)),
                   key=lambda each: each[0], reverse=True)
    def matches_place(place):
        its_host, _, its_path = place.partition("/")
        parts, its_parts = re.split("[.:]", host), re.split("[.:]", its_host)
        return (len(parts) == len(its_parts) and all(map(fnmatchcase, parts, its_parts)) and
                path.startswith(its_path))
    exact = [login for place, login in known if matches_place(place)]
    return (exact or
            [login for place, login in known if (host, place) == ("docker.io", "index.docker.io")])

SANDBOX = "POD"     # the name, among a pod's containers, of the one that only holds its namespaces
SANDBOX_IMAGE = "k2d.io/sandbox:1"
# libpod's own names of states -> Docker's
PODMAN_STATES = {"configured": "created", "initialized": "created", "stopping": "running",
                 "stopped": "exited"}
SANDBOX_CODE = {  # the engine's architecture: (bits, machine and flags of ELF, code)
    # push 13; pop rax; push 17; pop rdi; mov esi, 0x400078 (the sigaction); xor edx, edx; push 8;
    # pop r10; syscall (rt_sigaction); again: push 34; pop rax; syscall (pause); jmp again
    "amd64": (64, 62, 0, "6a0d586a115fbe7800400031d26a08415a0f056a22580f05ebf9"),
    # mov x8, 134; mov x0, 17; mov x1, 0x400078; mov x2, 0; mov x3, 8; svc 0; mov x8, 73; again:
    # mov x0, x1, x2, x3 0; svc 0 (ppoll); b again
    "arm64": (64, 183, 0,
              "c81080d2200280d2010f80d20108a0f2020080d2030180d2010000d4"
              "280980d2000080d2010080d2030080d2010000d4fbffff17"),
    # mov r7, 174; mov r0, 17; mov r1, 0x400000; add r1, 84; mov r2, 0; mov r3, 8; svc 0; again:
    # mov r7, 29; svc 0 (pause); b again
    "arm": (32, 40, 5 << 24,
            "ae70a0e31100a0e30115a0e3541081e20020a0e30830a0e3000000ef1d70a0e3000000effcffffea"),
}

def sandbox_program(bits, machine, flags, code):
    """An ELF program that holds a pod's namespaces: rt_sigaction(SIGCHLD, SIG_IGN), so that it
    never keeps a zombie where it is everybody's process 1, then pause() for ever (ppoll() where
    there is no pause)."""
    is_64 = bits == 64
    word, head, base, sizes = (("Q", 120, 0x400000, (64, 56)) if is_64
                               else ("I", 84, 0x400000, (52, 32)))
    size = head + 32 + len(code) // 2   # the headers; a struct sigaction of SIG_IGN; the code
    segment = [0, base, base, size, size]                   # read and execute, the whole file
    if is_64:
        program = struct.pack("<2I6Q", 1, 5, *segment, 4096)
    else:
        program = struct.pack("<8I", 1, *segment, 5, 4096)
    header = struct.pack(f"<4s4B8x2HI3{word}I6H", b"\x7fELF", bits // 32, 1, 1, 0, 2, machine, 1,
                         base + head + 32, sizes[0], 0, flags, *sizes, 1, 0, 0, 0)
    return header + program + (1).to_bytes(32, "little") + bytes.fromhex(code)

def log_frames(buffer, tty):
    """(frames, rest) of the bytes of a log or attach stream; a frame is (1 stdout | 2 stderr,
    bytes). A tty has no frames (Engine API, "Stream format": one byte stream, three zeros, four
    bytes of length, big endian)."""
    if tty:
        return ([(1, buffer)] if buffer else []), b""
    frames, at = [], 0
    while len(buffer) - at >= 8:
        stream, size = buffer[at], struct.unpack_from(">I", buffer, at + 4)[0]
        if size > ANSWER_BYTES:
            raise ValueError("no frame of the engine's")
        if len(buffer) - at - 8 < size:
            break
        frames.append((stream, buffer[at + 8:at + 8 + size]))
        at += 8 + size
    return frames, buffer[at:]

# == 28. Container -> pod ====================================================================
# Pure: what the engine told -> statuses, phases, conditions; and whole pods for containers that
# somebody else started.
def engine_time(text):
    """The engine's "2026-01-02T03:04:05.678901234Z" in whole seconds; None for its zero, or
    None."""
    return None if not text or text.startswith("0001") else text[:19] + "Z"

INTERRUPTED = "ended by a restart of the engine or of its host"

def address_in(info):
    """The address of a container in the first of its networks, "" for none."""
    for network in info["NetworkSettings"]["Networks"].values():
        ip = network["IPAddress"] or dig(network, "IPAMConfig.IPv4Address", "")
        return ip if is_address(ip) else ""
    return ""

# A container's runs, from one inspect to the next:
#   before            now                  what is new                       restarts    last
#   none              any                  found at our start, or just made  as counted  137 if it
#                                                                                    has run before
#   same, running     running, same start  nothing                           -           -
#   same, running     running, new start   it ended and runs again           + 1         as told
#   same, running     restarting           it ended, the engine waits        as counted  as told
#   same, exited      running              started by hand, or by the engine + 1         as before
#   same, restarting  running              the engine's next run             as counted  -
#   another id        any                  made anew in its place            + 1         as before
# as told: by the exit that an event told; as before: what the run before ended with.
class Found:
    """A container as its last inspect showed it: what we need of several kilobytes."""
    __slots__ = ("id image image_id container pid state exit_code error oom restarts counted "
                 "started_at finished_at run_began prior_began tty ip last message").split()

    def __init__(self, info, before=None, exit_=None, message=""):
        """before: the Found of the inspect before it, or None; exit_: (exit code, nanoseconds) of
        a run that ended since; message: what that run, or the last one, left as its termination
        message."""
        state, config = info["State"], info["Config"]
        self.id, self.image_id, self.tty = info["Id"], info["Image"], config["Tty"]
        self.image, self.pid, self.message = config["Image"], state["Pid"], message
        self.container = config["Labels"].get(CONTAINER_NAME)
        self.state, self.exit_code = state["Status"] or "exited", state["ExitCode"]
        self.error, self.oom = state["Error"][:FAULT_CHARS], state["OOMKilled"]
        self.started_at, self.finished_at = state["StartedAt"], state["FinishedAt"]
        self.ip = address_in(info)
        # The engine counts its own restarts, and forgets them at `docker restart`; Kubernetes
        # counts every new run.
        self.restarts = self.counted = info["RestartCount"]
        self.last, self.run_began, self.prior_began = None, "", ""
        if self.running and engine_time(self.finished_at):
            self.run_began = self.finished_at   # a run's log begins where the previous run ended
        if before and before.id == self.id:                  # the rows that begin with "same"
            self.follow(before)
        elif before:                                         # "another id"
            self.restarts = before.restarts + bool(engine_time(before.started_at))
            self.last = before.terminated() if before.state == "exited" else before.last
        # "by the exit that was told"
        if before and before.running and exit_ and self.has_moved_on(before):
            self.end_of(before, exit_, message)
        elif self.running and self.restarts and not self.last:
            # "137": ended while we were away; the kubelet's words
            self.last = {
                "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None,
                "message": "The container could not be located when the pod was terminated",
                "finishedAt": engine_time(self.finished_at)}

    def follow(self, before):
        """Take over what the Found before knew of the same container."""
        self.last, self.run_began = before.last, self.run_began or before.run_began
        goes_on = self.run_began == before.run_began
        self.prior_began = before.prior_began if goes_on else before.run_began
        new_run = bool(self.started_at != before.started_at and engine_time(before.started_at))
        by_hand = new_run and before.state != "restarting"
        self.restarts = before.restarts + max(self.counted - before.counted, by_hand)
        if not new_run:
            self.message = self.message or before.message
        if before.state == "exited" and new_run:
            self.last = before.terminated()

    def has_moved_on(self, before):
        return self.state == "restarting" or self.running and self.started_at != before.started_at

    def end_of(self, before, exit_, message):
        """The run before has ended as an event told."""
        code, nanos = exit_
        ended = time_text(nanos / 1e9) if nanos else self.finished_at
        before.message, before.oom = message, before.oom or self.oom
        self.last = before.terminated(code, ended)

    @property
    def running(self):
        return self.state in ("running", "paused")

    def terminated(self, exit_code=None, finished_at=None):
        """state.terminated of the run that ended."""
        code = self.exit_code if exit_code is None else exit_code
        reason = "Error" if code else "Completed"
        if self.oom:
            reason = "OOMKilled"
        out = {"exitCode": code, "reason": reason, "startedAt": engine_time(self.started_at),
               "finishedAt": engine_time(finished_at or self.finished_at),
               "containerID": "docker://" + self.id, **filled(message=self.message)}
        if self.error == INTERRUPTED:
            out.update(reason="ContainerStatusUnknown", message=self.error)
        elif self.error:
            out.update(reason="StartError", message=self.error, exitCode=128,
                       finishedAt=out["finishedAt"] or now())
        return out

# conditions
KUBELETS = "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"

def container_state(pod, container, found):
    """(state without why it waits, whether a run that has ended counts as ready) of a container
    that was found."""
    is_init = is_ending_init(pod["spec"], container)
    if found.running:
        return {"running": {"startedAt": engine_time(found.started_at)}}, False
    ended = found.state in ("exited", "dead", "removing") and engine_time(found.started_at)
    if ended or found.error and pod["spec"]["restartPolicy"] == "Never":
        return {"terminated": found.terminated()}, is_init and found.exit_code == 0
    return {}, False

def container_status(pod, container, found, problem, probed):
    """One of status.containerStatuses, initContainerStatuses or ephemeralContainerStatuses.

    found    a Found, or None
    problem  (reason, message) why it waits, or None
    probed   what the probes say: (has started, is ready)"""
    spec, (started, ready) = pod["spec"], probed
    status = {"name": container["name"], "state": {}, "lastState": {}, "ready": False,
              "started": False, "restartCount": 0, "image": container.get("image", ""),
              "imageID": ""}
    if found:
        last, meta = found.last, pod["metadata"]
        status.update(restartCount=found.restarts, imageID="docker://" + found.image_id,
                      containerID="docker://" + found.id)
        if found.state == "restarting":
            last = last or found.terminated()
            problem = (problem or
                       ("CrashLoopBackOff",
                        f"back-off restarting failed container={container['name']} "
                        f"pod={name_of(pod)}_{meta['namespace']}({meta['uid']})"))
        status["lastState"] = filled(terminated=last)
        status["state"], status["ready"] = container_state(pod, container, found)
        if found.running:
            started = started and not is_ending_init(spec, container)
            status.update(started=started, ready=started and ready and found.state == "running")
    if not status["state"]:
        reason, text = (problem or
                        ("PodInitializing" if "initContainers" in spec else "ContainerCreating",
                         ""))
        status["state"] = {"waiting": {"reason": reason, **filled(message=text)}}
    return status

def last_exit(status):
    """The exit code of the run that ended last, None while the first is still to come or the
    present one goes on."""
    state = status["lastState"] if "waiting" in status["state"] else status["state"]
    return dig(state, "terminated.exitCode")

def is_running(status):
    return "running" in status["state"]

def has_run(status):
    return is_running(status) or last_exit(status) is not None

def has_failed_init(spec, statuses):
    for container in spec.get("initContainers", ()):
        code = last_exit(statuses[container["name"]])
        if code and not is_sidecar(container) and not restarts(spec, container, code):
            return True
    return False

def pod_phase(spec, statuses, ended=False):
    """The kubelet's getPhase. statuses: by container name; ended: nothing starts any more."""
    if has_failed_init(spec, statuses):
        return "Failed"
    regular = [statuses[c["name"]] for c in spec["containers"]]
    if not all(map(has_run, regular)):
        return "Failed" if ended else "Pending"
    staying = regular + [statuses[c["name"]] for c in sidecars_of(spec)]
    codes = list(map(last_exit, regular))
    again = [code for c, code in zip(spec["containers"], codes) if restarts(spec, c, code)]
    if any(map(is_running, staying)) or again and not ended:
        return "Running"
    return "Failed" if any(codes) else "Succeeded"

def uninitialized(spec, phase, statuses):
    """The names of the init containers that a pod still waits for."""
    own = [statuses[c["name"]] for c in spec["containers"]]
    begun = any(status["started"] or last_exit(status) is not None for status in own)
    if begun or phase == "Succeeded":
        return []
    return [c["name"] for c in spec.get("initContainers", ())
            if not statuses[c["name"]]["started" if is_sidecar(c) else "ready"]]

def closed_gates(pod):
    """What is said of the readiness gates that are not open."""
    for gate in pod["spec"].get("readinessGates", ()):
        type_ = gate["conditionType"]
        found = get_condition(pod, type_)
        if not found:
            yield f'corresponding condition of pod readiness gate "{type_}" does not exist.'
        elif found["status"] != "True":
            yield (
                f'the status of pod readiness gate "{type_}" is not "True", but {found["status"]}')

def pod_conditions(pod, phase, statuses, has_sandbox):
    """The conditions that the kubelet computes (status/generate.go); those of others stay."""
    spec, old = pod["spec"], dig(pod, "status.conditions", [])
    generation = pod["metadata"].get("generation")
    waits, gates = uninitialized(spec, phase, statuses), list(closed_gates(pod))
    initialized = ("True", "PodCompleted") if phase == "Succeeded" else ("True",)
    if waits:
        initialized = ("False", "ContainersNotInitialized",
                       f"containers with incomplete status: [{' '.join(waits)}]")
    unready = [c["name"] for c in (*sidecars_of(spec), *spec["containers"])
               if not statuses[c["name"]]["ready"]]
    ready = both = ("True",)
    if phase in ("Succeeded", "Failed"):
        ready = both = "False", {"Succeeded": "PodCompleted", "Failed": "PodFailed"}[phase]
    elif unready:
        ready = both = ("False", "ContainersNotReady",
                        f"containers with unready status: [{' '.join(unready)}]")
    elif gates:
        ready = "False", "ReadinessGatesNotReady", ", ".join(gates)
    told = zip(KUBELETS, ((str(has_sandbox),), initialized, ready, both, ("True",)))
    more = {"lastProbeTime": None, **filled(observedGeneration=generation)}
    own = [condition(old, type_, *each, **more) for type_, each in told]
    if not old and ready == ("True",):
        own = as_of_start(own, [statuses[c["name"]] for c in spec["containers"]])
    return [c for c in old if c["type"] not in KUBELETS] + own

def as_of_start(conditions, statuses):
    """The conditions of a pod that was ready before k2d began: since its containers run, for what
    anybody knows."""
    started = [dig(status, "state.running.startedAt", "") for status in statuses]
    return [{**each, "lastTransitionTime": max(started)} for each in conditions
            if all(started)] or conditions

STATUS_FIELDS = {"initContainers": "initContainerStatuses", "containers": "containerStatuses",
                 "ephemeralContainers": "ephemeralContainerStatuses"}

def all_statuses(pod, found, problems, probed):
    """{field of the status: [status of each container]}; one that is gone keeps its own."""
    out = {}
    for field, told in STATUS_FIELDS.items():
        before = {status["name"]: status for status in dig(pod, f"status.{told}", ())}
        out[told] = []
        for c in pod["spec"].get(field, ()):
            name = c["name"]
            status = container_status(pod, c, found.get(name), problems.get(name), probed(name))
            was = before.get(name, {})
            if "containerID" not in status and "containerID" in was:
                status.update(pick(was, ("restartCount", "lastState")))
                if "terminated" in was["state"] and name not in problems:
                    status.update(was)
            out[told].append(status)
    return out

def pod_status(pod, found, problems, host_ip, probed=lambda name: (True, True), ended=False):
    """The status of a bound pod.

    found     {container name: Found}
    problems  {container name: (reason, message)} why it waits
    probed    container name -> (has started, is ready)
    ended     nothing of it will be started any more"""
    spec, old = pod["spec"], pod.get("status", {})
    by_field = all_statuses(pod, found, problems, probed)
    statuses = {status["name"]: status for each in by_field.values() for status in each}
    phase = pod_phase(spec, statuses, ended)
    made = (any("containerID" in status for status in statuses.values()) and
            phase not in ("Succeeded", "Failed"))
    ip = (host_ip if spec.get("hostNetwork") else old.get("podIP") or
          next((f.ip for f in found.values() if f.ip), ""))
    why = pick(old, ("reason", "message")) if phase == old.get("phase") else {}
    return {"observedGeneration": pod["metadata"].get("generation", 1), "phase": phase,
            "conditions": pod_conditions(pod, phase, statuses, made), **why, "hostIP": host_ip,
            "hostIPs": [{"ip": host_ip}], **filled(podIP=ip, podIPs=[{"ip": ip}] if ip else []),
            "startTime": old.get("startTime") or now(), **filled(**by_field),
            "qosClass": qos_class(spec)}

# -- containers of plain `docker run`
def foreign_name(name, id_, taken):
    """A container's name as one for a pod: lower case, other characters "-"; if taken, with five
    letters of its id."""
    pod_name = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:57].strip("-") or "container"
    return f"{pod_name}-{id_[:5]}" if pod_name in taken else pod_name

def renamed_container(obj, old):
    """The metadata for a container: as clients left it, but for what names the container."""
    meta = dict(old["metadata"])
    for field in ("labels", "annotations"):
        meta[field] = {**meta.get(field, {}),
                       **pick(obj["metadata"].get(field, {}), (FOREIGN, MIRROR))}
    return meta

def published_ports(info):
    """What a container publishes to other machines, as ports of a Service."""
    ports = {}
    published = info["NetworkSettings"]["Ports"] or info["HostConfig"]["PortBindings"]
    for port, places in sorted(published.items()):
        number, _, protocol = port.partition("/")
        for place in shaped(places, "[]engine.Place"):
            host, bound = place["HostIp"], port_number(place["HostPort"])
            if bound and not host.startswith("127.") and host != "::1":
                ports[protocol, bound] = {"name": f"{protocol}-{bound}",
                                          "protocol": protocol.upper(), "port": bound,
                                          "targetPort": port_number(number)}
    return list(ports.values())

def port_number(text):
    """A port of the engine's, 0 for "". Raises EngineError."""
    if not re.fullmatch(r"\d{0,5}", text):
        raise EngineError(0, f"odd answer of the engine's: port {text[:40]!r}")
    return int(text or 0)

def from_docker_ports(info, pod, host_ip):
    """The Service of the ports that a container of plain `docker run` publishes to other machines,
    or None. Of type LoadBalancer, as the engine serves them at the node's address; its ports are
    those there, so that EXTERNAL-IP and PORT(S) of `kubectl get services` are where to go."""
    ports, meta = published_ports(info), pod["metadata"]
    if not ports:
        return None
    owner = {"apiVersion": "v1", "kind": "Pod", **pick(meta, ("name", "uid"))}
    return {"kind": "Service", "apiVersion": "v1",
            "metadata": {**pick(meta, ("name", "namespace", "creationTimestamp")),
                         "uid": new_uid(), "annotations": pick(meta["annotations"], (FOREIGN,)),
                         "ownerReferences": [owner]},
            "spec": {"type": "LoadBalancer", "ports": ports,
                     "selector": pick(meta["labels"], (FOREIGN,)), "sessionAffinity": "None",
                     "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                     "allocateLoadBalancerNodePorts": False},
            "status": {"loadBalancer": {"ingress": [{"ip": host_ip, "ipMode": "VIP"}]}}}

def foreign_ports(config, host):
    """The ports of a container of plain `docker run`."""
    ports, bindings = [], host["PortBindings"]
    for port in sorted({*config["ExposedPorts"], *bindings}):
        number, _, protocol = port.partition("/")
        places = shaped(bindings.get(port, []), "[]engine.Place")
        bound = port_number(places[0]["HostPort"]) if places else 0
        ports.append({"containerPort": port_number(number),
                      "protocol": (protocol or "tcp").upper(), **filled(hostPort=bound)})
    return ports

def foreign_container(info, name, mounts):
    """The one container of the pod that a container of plain `docker run` is."""
    config, host = info["Config"], info["HostConfig"]
    limit = quantity_text(host["Memory"] * 10 ** 9) if host["Memory"] else ""
    env = [dict(zip(("name", "value"), pair.split("=", 1))) for pair in config.get("Env", ())]
    places = [{"name": f"mount-{i}", "mountPath": mount["Destination"],
               **filled(readOnly=not mount.get("RW"))} for i, mount in enumerate(mounts)]
    return {**filled(name=name[:63], image=config["Image"], command=config.get("Entrypoint"),
                     args=config.get("Cmd"), workingDir=config.get("WorkingDir"),
                     ports=foreign_ports(config, host), env=env, volumeMounts=places,
                     imagePullPolicy="IfNotPresent", stdin=config["OpenStdin"],
                     tty=config["Tty"]),
            "resources": {"limits": {"memory": limit}} if limit else {}}

def from_docker_container(info, name, node):
    """The pod that a container of plain `docker run` is, without status."""
    config, host, id_ = info["Config"], info["HostConfig"], info["Id"]
    named = {k: v for k, v in config["Labels"].items() if fits("labelkey", k)}
    labels = {k: v for k, v in named.items() if fits("labelvalue", v)}
    mounts = [mount for mount in info["Mounts"] if mount["Source"] and mount["Destination"]]
    policy = host["RestartPolicy"]["Name"]
    volumes = [{"name": f"mount-{i}", "hostPath": {"path": mount["Source"], "type": ""}}
               for i, mount in enumerate(mounts)]
    return {"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "default", "generation": 1,
                         "labels": {**labels, FOREIGN: id_[:12]},
                         "uid": "-".join((id_[:8], id_[8:12], id_[12:16], id_[16:20], id_[20:32])),
                         "creationTimestamp": engine_time(info["Created"]),
                         "annotations": {FOREIGN: info["Name"].lstrip("/"), MIRROR: "docker",
                                         **without(named, *labels)}},
            "spec": {**filled(volumes=volumes, hostNetwork=host["NetworkMode"] == "host"),
                     "containers": [foreign_container(info, name, mounts)],
                     "terminationGracePeriodSeconds": config.get("StopTimeout") or 10,
                     "restartPolicy": {"no": "Never", "": "Never", "on-failure": "OnFailure"}.get(
                         policy, "Always"),
                     "dnsPolicy": "Default", "nodeName": node, "securityContext": {},
                     "schedulerName": "docker"},
            "status": {}}

# == 29. Worker ==============================================================================
# Makes the engine's containers what the pods say, and the pods' statuses what the engine says.
# Everything is decided from what is there: a pass can be cut off between any two engine calls, and
# the next one goes on.
BACKOFF_S, BACKOFF_MAX_S = 10, 300          # the kubelet's, for pulls and for starts that fail
# Docker's, between the runs of a container; after one that lasted so long it begins anew
RESTART_S, RESTART_MAX_S, STABLE_S = 0.1, 60, 10
TOKEN_S = 365 * 86400   # the API server extends the life of a token that no pod asked for to this
# reason -> its Event
PULLED = "image/"               # facts: the images that k2d has pulled, and when
IMAGE_EVENTS = {"ErrImageNeverPull": "ErrImageNeverPull", "InvalidImageName": "InspectFailed"}
EVENT_ACTIONS = ("create", "start", "die", "destroy", "rename", "update", "pause", "unpause",
                 "oom", "died", "cleanup", "remove")    # the last three: as Podman calls them
# the engine's answers where a container is gone, has stopped, or is being removed already
ENDED = 404, 409
# what a preStop hook that uses up the grace may still take (kubelet: minimumGracePeriod)
HOOK_GRACE_S = 2
MESSAGE_BYTES = 4096        # of a termination message
DOWN_S = 60             # how long an engine may have been down, at most, that we did not see go
STOPPING_S = 30         # how long it may take to end its containers before it goes itself
# (GONE, uid) is the key of a pod that was deleted by force, and may have containers left
GONE = "!gone"

def is_over(spec, found):
    """Whether a pod's containers have done their work, or failed, for good; sidecars go on."""
    def over(container, failed=False):
        f = found.get(container["name"])
        done = f and (f.state in ("exited", "dead") or f.error)
        return done and (f.exit_code or not failed) and not restarts(spec, container, f.exit_code)
    return all(map(over, spec["containers"])) or any(
        over(c, True) for c in spec.get("initContainers", ()) if not is_sidecar(c))

def sandboxes_last(listed):
    """Listed containers in an order in which they can be removed: Podman removes none that others
    lean on."""
    return sorted(listed, key=lambda info: dig(info, ["Labels", CONTAINER_NAME]) == SANDBOX)

class Slot:
    """What is known of one container of a pod."""
    __slots__ = ("found", "gone", "problem", "tries", "not_before", "pull", "hooked", "hooking",
                 "stopping", "restarts", "pause", "paused")

    def __init__(self):
        # the Found of the container; of the one that was removed, for the next one
        self.found, self.gone = None, None
        self.problem = None                 # (reason, text) why it waits
        # how often its start failed; until when, monotonic, it waits
        self.tries, self.not_before = 0, 0
        self.pull = ""  # "on its way", "pulled", or how it went wrong: a ConfigError
        self.hooked = None                  # the run, (id, its start), that had its postStart
        self.hooking = False                # whether a hook is at work
        self.stopping = None                # when it was told to stop, monotonic
        # where k2d restarts: how often; the seconds before that; the start of the run before
        self.restarts, self.pause, self.paused = 0, RESTART_S / 2, ""

    def pause_after(self, state):
        """k2d is to restart the container: after a pause as Docker's (restartmanager). state: that
        of a run that ended."""
        if self.paused == state["StartedAt"]:
            return
        self.paused, self.pause = state["StartedAt"], min(2 * self.pause, RESTART_MAX_S)
        began, ended = map(seconds_of, (state["StartedAt"], state["FinishedAt"]))
        if began and ended and ended - began >= STABLE_S:
            self.pause = RESTART_S
        self.not_before = time.monotonic() + self.pause
        self.restarts += 1

class Known:
    """What the engine has told of containers, and what is known of each. Keys are those of pods,
    (namespace, name); ("", id) of a container that nobody has looked at yet; (GONE, uid)."""
    def __init__(self, store):
        # lock: guards what follows; never held across I/O
        self.store, self.lock = store, threading.Lock()
        self.slots = {}                         # uid -> {container: Slot}
        self.keys = {}                          # uid -> pod key, of every stored pod
        self.foreign = {}   # container id -> pod key, of containers that are not ours
        self.stale = {}                         # key -> ids to inspect before the next pass
        self.exits = {}     # id -> (exit code, time) of a `die` not yet digested
        self.removing = set()                   # ids that we are removing ourselves
        self.listed = False     # whether the engine has been listed: else absence means nothing
        # whether all of the first list was looked at; what was not yet
        self.digested, self.undigested = False, set()

    def slot(self, uid, name):
        return self.slots.setdefault(uid, {}).setdefault(name, Slot())

    def found(self, uid):
        """{container name: Found} of a pod."""
        return {name: slot.found for name, slot in self.slots.get(uid, {}).copy().items()
                if slot.found}

    def slot_of(self, id_):
        """(uid, Slot) of the container of an id, (None, None) if it is no pod's."""
        for uid, slots in self.slots.items():
            for slot in slots.values():
                if slot.found and slot.found.id == id_:
                    return uid, slot
        return None, None

    def look_at(self, key, id_):
        """Inspect a container before the next pass. The caller holds the lock."""
        self.stale.setdefault(key, set()).add(id_)

    def pod(self, uid):
        pod = self.store.get("Pod", *self.keys.get(uid, ("", "")))
        return pod if pod and uid_of(pod) == uid else None

    def foreign_pods(self):
        """{the first 32 digits of a container's id, which are its pod's uid: that pod}"""
        return {uid_of(pod).replace("-", ""): pod
                for pod in self.store.list("Pod", "default", holding=FOREIGN.encode())}

    def on_event(self, line):
        """Note an event of the engine, as JSON; returns the key to look at, or None."""
        event = read_answer(line, "engine.Event")
        id_, action = event["Actor"]["ID"] or event.get("id"), event["Action"]
        said = event["Actor"]["Attributes"]
        with self.lock:
            ours = self.keys.get(said.get(POD_UID))
            if ours and action == "create":         # the pass that has made it goes on itself
                self.look_at(ours, id_)
            if not id_ or ours and action == "create":
                return None
            key = ours or self.foreign.get(id_, ("", id_))
            if action == "die":
                code = said.get("exitCode") or said.get("containerExitCode") or ""
                known = re.fullmatch("[0-9]{1,3}", code)
                self.exits[id_] = int(code) if known else 0, event["timeNano"]
            self.look_at(key, id_)
        return key

    def on_list(self, listed):
        """Note what the engine has, {id: what it said}; returns the keys to look at."""
        with self.lock:
            for slot in [slot for slots in self.slots.values() for slot in slots.values()]:
                if slot.found and slot.found.id not in listed:
                    slot.found = None
            for id_, info in listed.items():
                ours = self.keys.get(dig(info, ["Labels", POD_UID]))
                self.look_at(ours or self.foreign.get(id_, ("", id_)), id_)
            present = {id_[:32] for id_ in listed}
            for id_, pod in self.foreign_pods().items():
                if id_ not in present:  # removed while we could not hear of it
                    self.keys[uid_of(pod)] = key_of(pod)
            self.foreign = {id_: key for id_, key in self.foreign.items() if id_ in listed}
            self.listed = True
            self.undigested = {*self.keys.values(), *self.stale,
                               *((GONE, uid) for uid in self.store.buried.copy())}
            return sorted(self.undigested)

    def on_digested(self, key):
        """A key of the first list has been looked at; returns whether it was the last: what is
        absent is known then."""
        with self.lock:
            self.undigested.discard(key)
            first = not self.undigested and not self.digested
            self.digested |= first
        return first

    def on_removed(self, id_):
        """A container is no more; returns whether it was a pod's and we had not removed it."""
        with self.lock:
            _, slot = self.slot_of(id_)
            vanished = bool(slot) and id_ not in self.removing
            if slot:
                slot.gone, slot.found, slot.stopping = slot.found, None, None
            self.removing.discard(id_)
            self.foreign.pop(id_, None)
        return vanished

    def on_inspect(self, uid, found):
        """A container of a stored pod as it is now."""
        with self.lock:
            if uid not in self.keys:
                return
            slot = self.slot(uid, found.container)
            if slot.found and slot.found.id != found.id:
                slot.hooking, slot.stopping = False, None
            slot.found, slot.gone = found, None
            if found.running:
                slot.problem = None

    def forget(self, uid):
        """Neither the pod is there any more nor its containers."""
        with self.lock:
            self.keys.pop(uid, None)
            self.slots.pop(uid, None)

class Worker:
    """reconcile(key): one pass over one pod, by a thread of its queue; Starter, Stopper help."""
    def __init__(self, k2d):
        self.settings, self.engine, self.store = k2d.settings, k2d.engine, k2d.store
        self.event = k2d.event
        self.access, self.network, self.names = k2d.access, k2d.network, k2d.names
        self.on_digested = k2d.on_digested
        self.known = Known(k2d.store)
        self.queue = WorkQueue("pods", self.reconcile, 4, k2d.hub, self.tell_fault)
        self.prober = Prober(self, k2d.hub)
        self.stopper = Stopper(self, k2d.hub)
        self.starter = Starter(self, k2d.on_image)
        # when the engine hung up; when it started; Unix seconds
        self.lost_at, self.engine_began = None, 0
        self.hub, self.lists_soon = k2d.hub, False

    def load(self):
        """Know the stored pods, and what force-deleted ones left, before the engine is listed."""
        keys = {uid: (GONE, uid) for uid in self.store.buried}
        keys.update((uid_of(pod), key_of(pod)) for pod in self.store.list("Pod")
                    if not is_foreign(pod))
        self.known.keys = keys
        for uid in list_folder(self.settings.path("pods")):
            if uid not in keys:
                self.remove_files(uid)
    def tell_fault(self, key, problem):
        """A pass over a pod went wrong, and will be tried again: its event says why."""
        pod = self.store.get("Pod", *key)
        if pod:
            self.event(pod, "Warning", "FailedSync", f"error syncing pod: {problem}")

    # -- what the engine tells
    def on_event(self, line):
        """The hub's thread: only notes what to look at. What an odd line should have told is to be
        found out anew."""
        try:
            key = self.known.on_event(line)
        except EngineError as error:
            log(f"events: {error}")
            if not self.lists_soon:
                self.lists_soon = True
                self.hub.after(1, self.list_again)
            return
        if key:
            self.queue.add(key)

    def list_again(self):
        self.lists_soon = False
        threading.Thread(target=guarded, args=(self.list_all,), daemon=True).start()

    def list_all(self):
        """Look at every container anew: at start, and after the event stream was cut."""
        listed = {}
        for told in self.engine.call("GET", "/containers/json?all=1", shape="[]Raw"):
            info = guarded(shaped, told, "engine.Listed")   # an odd one hides no other
            listed.update({info["Id"]: info} if info else {})
        # Docker makes its bridge anew at each start, which nothing else tells; a Podman that
        # restarts ends nothing.
        bridge = self.engine.call("GET", "/networks/bridge", None, (404,), "engine.Network")
        self.engine_began = seconds_of(dig(bridge, "Created")) or 0
        for key in self.known.on_list(listed):
            self.queue.add(key)
        self.digest(None)

    def digest(self, key):
        if self.known.on_digested(key):
            self.on_digested()

    def inspect(self, id_):
        info = self.engine.inspect(id_)
        is_meant = not info or info["Id"].startswith(id_) or info["Name"].lstrip("/") == id_
        must(is_meant, f"the engine tells of another container than {id_}")
        return info

    def look_again(self, key):
        """refresh() it; where the engine's answer is odd, the others do not wait for this one."""
        try:
            return self.refresh(key)
        except EngineGone:
            raise
        except Exception:
            self.digest(key)
            raise

    def refresh(self, key):
        """Inspect what events named for this key; returns whether a container of ours vanished,
        not removed by us."""
        with self.known.lock:
            ids, vanished = self.known.stale.pop(key, set()), False
        try:
            for id_ in sorted(ids):
                vanished |= self.refresh_one(id_)
                ids.discard(id_)
        finally:    # the engine went away in the middle: still to be done
            with self.known.lock:
                for id_ in ids:
                    self.known.look_at(key, id_)
        return vanished

    def refresh_one(self, id_):
        info = self.inspect(id_)
        with self.known.lock:
            exit_ = self.known.exits.pop(id_, None)
        if info is None:
            return self.known.on_removed(id_)
        labels = info["Config"]["Labels"]
        uid, name = labels.get(POD_UID), labels.get(CONTAINER_NAME)
        own, _ = self.known.slot_of(id_)
        is_known = own in (None, uid) or id_ in self.known.foreign
        must(is_known, f"container {id_} is another pod's than before")
        if uid in self.known.keys:
            self.note(uid, self.look(uid, name, info, exit_))
        elif id_ not in self.known.removing:
            self.adopt(info, exit_)
        return False

    def look(self, uid, name, info, exit_):
        """The Found of a container of a pod, by its inspect and the exit that an event told."""
        pod = self.known.pod(uid)
        must(not pod or name == SANDBOX or container_named(pod["spec"], name),
             f"pod {uid} has no container {name}")
        slot = self.known.slot(uid, name)
        before, state = slot.found or slot.gone, info["State"]
        ended = exit_ or not state["Running"] and (not before or before.running)
        container = container_named(pod["spec"], name) if pod else {}
        # An init container that is done is no reason to run it again.
        is_init = is_ending_init(dig(pod, "spec", {}), container)
        if ended and not exit_ and not is_init and self.is_interruption(state):
            state.update(ExitCode=137, Error=INTERRUPTED)
        words = self.last_words(uid, container, info, before) if ended and container else ""
        self.restart_soon(pod, container, slot, info)
        return Found(info, before, exit_, words)

    def restart_soon(self, pod, container, slot, info):
        """Where the engine does not restart containers: say of one that comes back what Docker
        would."""
        if not self.settings.is_podman or not container:
            return
        state = info["State"]
        ends = is_deleting(pod) or has_ended(pod) or slot.stopping is not None
        comes_back = restarts(pod["spec"], container, state["ExitCode"])
        if state["Status"] == "exited" and comes_back and not ends:
            slot.pause_after(state)
            state["Status"] = "restarting"
        info["RestartCount"] = slot.restarts

    def is_interruption(self, state):
        """Whether a run that ended well, unseen, did so because the engine or the machine went
        down: it is not done."""
        at = seconds_of(state["FinishedAt"])
        boot = int(re.search(r"btime (\d+)", read_text("/proc/stat"))[1])
        since = (self.lost_at or self.engine_began - DOWN_S) - STOPPING_S
        return (bool(at) and state["ExitCode"] == 0 and
                (at < boot or since <= at < self.engine_began))

    def note(self, uid, found):
        self.known.on_inspect(uid, found)
        pod = self.known.pod(uid) if found.state == "restarting" else None
        if pod:
            namespace, name = key_of(pod)
            self.event(pod, "Warning", "BackOff",
                       f"Back-off restarting failed container {found.container} in pod "
                       f"{name}_{namespace}({uid})",
                       found.container)
        if found.running:
            self.network.set_hairpin()

    def last_words(self, uid, container, info, before):
        """The termination message of a run that has ended: what it wrote to its file, by policy
        the end of its log."""
        path, state = self.file_of(uid, container["name"], "termination-log"), info["State"]
        if not os.path.exists(path):
            return ""
        goes_on = state["Running"] or state["Restarting"]
        words = take_bytes(path, MESSAGE_BYTES, empty=goes_on)
        failed = state["ExitCode"] or state["Running"]
        if (not words and failed and
                container.get("terminationMessagePolicy") == "FallbackToLogsOnError"):
            words = self.end_of_log(info, before.run_began if before else "")
        return words.decode("utf-8", "replace")

    def end_of_log(self, info, since):
        query = {"stdout": 1, "stderr": 1, "tail": 80}
        if since:
            query["since"] = exact_seconds(since).lstrip("0")
        sock, rest = self.engine.log(info["Id"], query)
        with sock, reaching_engine():
            data = drain(sock, rest, time.monotonic() + 10)
        frames, _ = log_frames(data, info["Config"]["Tty"])
        return b"".join(data for _, data in frames)[-2048:]


    def file_of(self, uid, name, what):
        return self.settings.pod_folder(uid, "containers", name, what)

    def adopt(self, info, exit_):
        """Show a container of others as a pod in default, or bring that pod up to date."""
        id_, real_name = info["Id"], info["Name"].lstrip("/")
        with self.store.transaction():
            old = self.known.foreign_pods().get(id_[:32])
            taken = {name for _, name in self.store.keys("Pod", "default")}
            name = name_of(old) if old else foreign_name(real_name, id_, taken)
            pod = shaped(from_docker_container(info, name, self.settings.node), "Pod", False)
            if old:     # what clients wrote to its metadata stays
                pod.update(metadata=renamed_container(pod, old), status=old.get("status", {}))
            uid, container = uid_of(pod), pod["spec"]["containers"][0]["name"]
            with self.known.lock:
                slot = self.known.slot(uid, container)
                latest = Found(info, slot.found, exit_)
                latest.container = container
                self.known.foreign[id_] = self.known.keys[uid] = "default", name
                slot.found = latest
            pod["status"] = self.status(pod)
            self.store.put(pod, None if old else False)
            self.adopt_ports(info, pod)

    def adopt_ports(self, info, pod):
        """Show what it publishes as a Service of that name, unless a client's own has it."""
        service = from_docker_ports(info, pod, self.settings.host_ip)
        other = self.store.get("Service", *key_of(pod))
        if service and (not other or is_published(other)):
            if other:
                service["metadata"] = renamed_container(service, other)
            self.network.writer.allocate(service, other)
            self.store.put(service, None if other else False)

    # -- a pass
    def reconcile(self, key):
        if not self.known.listed:
            return
        if key[0] == GONE:
            self.remove_leftovers(key[1])
            return self.digest(key)
        vanished = self.look_again(key)
        pod = self.store.get("Pod", *key) if key[0] else None
        if pod and key in self.known.undigested:
            # what is there, before the rest of a pass may take long
            self.publish(key, uid_of(pod))
        self.digest(key)
        if not pod:
            return
        node = pod["spec"].get("nodeName")
        if node not in (None, self.settings.node) and self.store.row("Node", ("", node)):
            return  # bound to a node that somebody else has made: not ours
        found = self.known.found(uid_of(pod))
        if self.was_removed(pod, found, vanished):
            # `docker rm`, seen live: as if the pod had been deleted
            for f in list(found.values()):
                self.remove_container(f.id)
            return self.forget(pod)
        if is_deleting(pod):
            self.stopper.terminate(pod, found)
        elif not is_foreign(pod) and node == self.settings.node and not has_ended(pod):
            self.go_on(pod, found)
        self.publish(key, uid_of(pod))

    def was_removed(self, pod, found, vanished):
        if is_foreign(pod):
            return not found and not self.inspect(uid_of(pod).replace("-", ""))
        regular = [c for c in pod["spec"]["containers"] if c["name"] in found]
        return vanished and not is_deleting(pod) and not has_ended(pod) and not regular

    def go_on(self, pod, found):
        """Bring a bound pod on: until it is over, or overdue."""
        if self.stopper.is_overdue(pod, found):
            return
        if not is_over(pod["spec"], found):
            self.starter.bring_up(pod, found)
        elif not self.stopper.stop(pod, found):               # sidecars have ended too
            self.remove_sandbox(found)

    def publish(self, key, uid, ended=False):
        """Write the status that follows from what was found and what went wrong."""
        with self.store.transaction():
            pod = self.store.get("Pod", *key)
            if pod and uid_of(pod) == uid and not has_ended(pod) and pod["spec"].get("nodeName"):
                pod["status"] = self.status(pod, ended)
                self.store.put(pod)

    def status(self, pod, ended=False):
        uid = uid_of(pod)
        slots = self.known.slots.get(uid, {}).copy()
        problems = {name: slot.problem for name, slot in slots.items() if slot.problem}
        def probed(name):
            slot = slots.get(name)
            is_starting = slot and slot.hooking and slot.stopping is None
            return (False, False) if is_starting else self.prober.state(uid, name)
        return pod_status(pod, self.known.found(uid), problems, self.settings.host_ip, probed,
                          ended)

    # -- the end of a pod
    def remove_container(self, id_):
        with self.known.lock:
            self.known.removing.add(id_)
        self.engine.call("DELETE", f"/containers/{id_}?force=1&v=1", expect=ENDED)

    def remove_sandbox(self, found):
        """Those of a pod have ended; Podman removes no container that others lean on."""
        sandbox = found.get(SANDBOX)
        if sandbox and not self.settings.is_podman:
            self.remove_container(sandbox.id)
        elif sandbox and sandbox.running:
            self.engine.call("POST", f"/containers/{sandbox.id}/stop?t=0", expect=ENDED)

    def forget(self, pod):
        """Remove a pod whose containers are gone, unless it has finalizers."""
        self.remove_files(uid_of(pod))
        with self.store.transaction():
            present = self.known.pod(uid_of(pod))
            if present and not present["metadata"].get("finalizers"):
                self.store.remove(present)

    def remove_files(self, uid):
        try:
            remove_volumes(self.settings, uid)
        except OSError as error:    # a mount that is in use, say: no reason to keep the pod
            log(f"files of pod {uid}: {error}")

    def remove_leftovers(self, uid):
        """The containers and files of a pod that is no longer stored."""
        filters = urllib.parse.quote(json.dumps({"label": [f"{POD_UID}={uid}"]}))
        listed = self.engine.call("GET", "/containers/json?all=1&filters=" + filters,
                                  shape="[]engine.Listed")
        for info in sandboxes_last(listed):
            self.remove_container(info["Id"])
        self.remove_files(uid)
        self.known.forget(uid)
        self.store.unbury(uid)

    def on_pod(self, change):
        """A pod was stored, changed or removed, mostly by others than this worker. Any thread, in
        the transaction."""
        uid, deleted = json.loads(change.raw)["metadata"]["uid"], change.type == "DELETED"
        if deleted:
            self.prober.forget(uid)
            self.queue.forget(change.key)
            if uid in self.store.buried:    # its containers are still to be removed, by its uid
                self.queue.add((GONE, uid))
            else:
                self.known.forget(uid)
        else:
            self.known.keys[uid] = change.key
        if not self.queue.is_own_thread():
            self.queue.add(change.key)

    # -- what volumes and environment are made from
    def lookup(self, pod):
        """The function (kind, name) -> what volumes and environment are made from: the data of a
        ConfigMap or Secret, a token of kind Token, another object as it is; None if there is
        none."""
        def find(kind, name):
            if kind == "Token":
                return self.token(pod, *name)
            obj = self.store.get(
                kind, pod["metadata"]["namespace"] if KIND[kind].namespaced else "", name)
            return data_of(obj) if kind in ("ConfigMap", "Secret") else obj
        return find

    def token(self, pod, volume, source):
        """The service account token of a pod's volume: the present one, while it is good for a
        fifth of its life."""
        meta, access = pod["metadata"], self.access
        name = pod["spec"].get("serviceAccountName", "default")
        seconds = source["expirationSeconds"]
        audience, now_s = source.get("audience") or access.issuer, time.time()
        if seconds == AUTOMOUNT_S and audience == access.issuer:
            seconds = TOKEN_S
        try:
            present = read_bytes(self.settings.pod_folder(meta["uid"], "volumes", volume,
                                                          source["path"]),
                                 HEAD_BYTES)
        except OSError:
            present = b""
        claims = access.read_token(present.decode("ascii", "replace")) or {"iat": 0, "exp": 0}
        renew = claims["iat"] + 0.8 * (claims["exp"] - claims["iat"])
        if renew <= now_s:
            account = self.store.get("ServiceAccount", meta["namespace"], name)
            if not account:
                raise ConfigError(f'serviceaccount "{name}" not found')
            bound = {"kind": "Pod", **pick(meta, ("name", "uid"))}
            present = access.make_token(account, seconds, [audience], bound).encode()
            renew = now_s + 0.8 * seconds
        self.queue.add_after(renew - now_s + 1, key_of(pod))
        return present

    def files(self, pod, container):
        """The files that k2d itself mounts into a container: {what: path}."""
        uid, s = uid_of(pod), self.settings
        files, resolv = {}, resolv_conf(pod, s)
        make_folder(s.pod_folder(uid))
        if not pod["spec"].get("hostNetwork"):
            files["etc-hosts"] = self.names.write_hosts(pod)
        if resolv:
            files["resolv-conf"] = s.pod_folder(uid, "resolv.conf")
            write_file(files["resolv-conf"], resolv.encode(), 0o644)
        if container.get("terminationMessagePath"):
            path = files["termination-log"] = self.file_of(uid, container["name"],
                                                           "termination-log")
            make_open_file(path)
        return files

    def mounts(self, pod, container):
        """(environment, sources) of a container, all mounts in place. Raises ConfigError."""
        lookup, cluster = self.lookup(pod), service_environment(pod, self.store.list("Service"))
        allocatable = dig(self.store.get("Node", "", self.settings.node), "status.allocatable", {})
        sources = prepare_volumes(pod, self.settings, lookup)
        env = environment(pod, container, lookup, self.settings.host_ip, cluster, allocatable)
        return env, hold_subpaths(pod, container, env, sources)

class Starter:
    """What brings a pod's containers up: images, creation, starts, and the pauses between them."""
    def __init__(self, worker, on_image):
        self.worker, self.engine, self.event = worker, worker.engine, worker.event
        self.on_image = on_image
        self.known, self.prober, self.stopper = worker.known, worker.prober, worker.stopper
        self.queue = worker.queue

    def bring_up(self, pod, found):
        """Start what should run by now and does not."""
        spec, join = pod["spec"], ""
        if not dig(pod, "status.podIP"):
            return  # bound by its maker: the scheduler has yet to give it an address
        if any(name != SANDBOX for name in found):
            self.update_sources(pod)
        if needs_sandbox(spec):
            sandbox = found.get(SANDBOX)
            if not sandbox or not sandbox.running:
                return self.bring_up_one(pod, {"name": SANDBOX, "image": SANDBOX_IMAGE}, sandbox)
            join = sandbox.id
            self.rejoin(sandbox, found)
        if not self.bring_up_init(pod, found, join):
            return
        for container in (*spec["containers"], *spec.get("ephemeralContainers", ())):
            here = found.get(container["name"])
            self.bring_up_one(pod, container, here, join)
            if dig(container, "lifecycle.postStart") and not self.is_past_hook(pod, here):
                return                              # the hook comes before the next container

    def is_past_hook(self, pod, here):
        return (here and here.state != "created" and
                not self.known.slot(uid_of(pod), here.container).hooking)

    def rejoin(self, sandbox, found):
        """Restart what is in the namespaces of a sandbox that is no more."""
        for f in found.values():
            if f.running and exact_seconds(f.started_at) < exact_seconds(sandbox.started_at):
                self.engine.call("POST", f"/containers/{f.id}/restart?t=1", expect=ENDED)

    def bring_up_init(self, pod, found, join):
        """Bring on the init containers, in turn; returns whether the others may start."""
        spec, uid = pod["spec"], uid_of(pod)
        begun = any(c["name"] in found for c in spec["containers"])
        for container in spec.get("initContainers", ()):
            here, stays = found.get(container["name"]), is_sidecar(container)
            is_done = here and here.state == "exited" and here.exit_code == 0
            if not stays and (begun or is_done):
                continue
            self.bring_up_one(pod, container, here, join)
            is_up = stays and here and here.running and self.is_past_hook(pod, here)
            if not begun and not (is_up and self.prober.state(uid, container["name"])[0]):
                return False                        # the next in turn waits for this one
        return True

    def bring_up_one(self, pod, container, here, join=""):
        """Create and start one container unless that is done, or has to wait."""
        name = container["name"]
        slot = self.known.slot(uid_of(pod), name)
        if here and here.image != container["image"]:
            return self.stopper.replace(pod, here)
        if here and here.running and name != SANDBOX:
            self.prober.watch(pod, container, here)
            self.stopper.after_start(pod, container, here)
        if self.wants_start(pod, container, here) and not self.has_to_wait(pod, container, slot):
            try:
                self.make_and_start(pod, container, here, join)
            except ConfigError as error:
                self.fail(pod, container, error.reason, str(error))

    def make_and_start(self, pod, container, here, join):
        """Raises ConfigError, EngineError."""
        uid, name = uid_of(pod), container["name"]
        id_ = here.id if here else self.create(pod, container, join)
        if not id_:
            return                                  # its image is being pulled
        is_next_run = here and here.state == "restarting" and os.path.exists(run_folder(uid))
        if here and name != SANDBOX and not is_next_run:
            self.worker.mounts(pod, container)      # what is in /run is gone after a reboot
        if not self.known.pod(uid):                 # deleted by force meanwhile
            return self.queue.add((GONE, uid))
        with self.known.lock:   # the next pass knows it, even if its events come later
            self.known.look_at(key_of(pod), id_)
        self.start(pod, container, id_)
        slot = self.known.slot(uid, name)
        slot.problem, slot.tries, slot.not_before = None, 0, 0
        if name == SANDBOX or dig(container, "lifecycle.postStart"):
            self.queue.add(key_of(pod))

    def wants_start(self, pod, container, here):
        """Whether a container is not there, or was made and did not start, or is to come back and
        the engine does not see to that."""
        if not here or here.state == "created":
            return True
        if here.state == "restarting":
            return self.worker.settings.is_podman
        is_sandbox = container["name"] == SANDBOX
        return (here.state == "exited" and
                (is_sandbox or bool(here.error) and restarts(pod["spec"], container, 128)))

    def has_to_wait(self, pod, container, slot):
        wait = slot.not_before - time.monotonic()
        if wait <= 0:
            return False
        self.queue.add_after(wait + 0.05, key_of(pod))
        reason, text = slot.problem or ("", "")
        if reason == "ErrImagePull":
            pause = f'Back-off pulling image "{container["image"]}"'
            slot.problem = "ImagePullBackOff", f"{pause}: {text}"
            self.event(pod, "Normal", "BackOff", pause, container["name"])
            self.event(pod, "Warning", "Failed", "Error: ImagePullBackOff", container["name"])
        return True

    def update_sources(self, pod):
        """Show a running pod the present ConfigMaps and Secrets; what has no source stays."""
        if any(FROM_API & volume.keys() for volume in pod["spec"].get("volumes", ())):
            try:
                prepare_volumes(pod, self.worker.settings, self.worker.lookup(pod), FROM_API)
            except ConfigError as error:
                self.event(pod, "Warning", "FailedMount", str(error))

    def fail(self, pod, container, reason, text):
        """Note why a container does not run, tell it as an event, come back after a pause or when
        its cause changes."""
        name, slot = container["name"], self.known.slot(uid_of(pod), container["name"])
        slot.problem = None
        if name == SANDBOX or reason == "FailedCreatePodSandBox":
            self.event(pod, "Warning", "FailedCreatePodSandBox",
                       f"Failed to create pod sandbox: {text}")
        elif reason in ("ContainerCreating", "FailedMount"):
            self.event(pod, "Warning", "FailedMount", text)
        else:
            slot.problem = reason, text
            if reason in IMAGE_EVENTS:
                self.event(pod, "Warning", IMAGE_EVENTS[reason], text, name)
            self.event(pod, "Warning", "Failed", f"Error: {reason if 'Image' in reason else text}",
                       name)
        if reason in ("CreateContainerConfigError", "ContainerCreating") and "not found" in text:
            return  # the missing object's arrival wakes us
        slot.tries += 1
        pause = min(BACKOFF_S * 2 ** (slot.tries - 1), BACKOFF_MAX_S)
        slot.not_before = time.monotonic() + pause
        self.queue.add_after(pause + 0.05, key_of(pod))
        if reason == "ErrImagePull":
            # time to see the error before it becomes a back-off
            self.queue.add_after(2, key_of(pod))

    def retry(self, uid):
        """What a pod's containers waited for may have come."""
        for slot in list(self.known.slots.get(uid, {}).values()):
            slot.not_before = 0

    # -- creation
    def create(self, pod, container, join=""):
        """Create the container of a pod, pulling its image if need be: its id. Raises ConfigError,
        EngineGone."""
        name, slot = container["name"], self.known.slot(uid_of(pod), container["name"])
        body = self.body_of(pod, container, join)
        pulled = slot.pull
        if isinstance(pulled, ConfigError):     # told once; the next pass pulls again
            slot.pull = ""
            raise pulled
        if pulled == "on its way":
            return None
        if container.get("imagePullPolicy") == "Always" and not pulled:
            return self.start_pull(pod, container)
        try:
            if name != SANDBOX:
                self.check_user(pod, container, body)
            path = "/containers/create?name=" + urllib.parse.quote(container_name(pod, name))
            id_ = self.engine.call("POST", path, body, shape="engine.Created")["Id"]
        except EngineGone:
            raise
        except EngineError as error:
            return self.after_refusal(pod, container, error)
        slot.pull = ""
        if name != SANDBOX:
            if not pulled:
                self.event(pod, "Normal", "Pulled",
                           f'Container image "{container["image"]}" already present on machine',
                           name)
            self.event(pod, "Normal", "Created", "Container created", name)
        return id_

    def body_of(self, pod, container, join):
        """The body of the create call. Raises ConfigError."""
        settings, found = self.worker.settings, self.known.found(uid_of(pod))
        if container["name"] == SANDBOX:
            self.engine.ensure_sandbox()
            return to_docker_sandbox(pod, settings)
        env, sources = self.worker.mounts(pod, container)
        sources.update(self.worker.files(pod, container))
        target = found.get(container.get("targetContainerName"))
        first = found.get(pod["spec"]["containers"][0]["name"])
        if "targetContainerName" in container and not join and first:
            join = first.id
        return to_docker_container(pod, container, env, sources, settings, join,
                                   target.id if target else "")

    def after_refusal(self, pod, container, error):
        """The engine refused to create a container: pull, or say why. Raises ConfigError."""
        image, text = container["image"], str(error)
        if error.status == 404 and "image" in text.lower():
            if container.get("imagePullPolicy") == "Never":
                raise ConfigError(
                    f'Container image "{image}" is not present with pull policy of Never',
                    "ErrImageNeverPull")
            return self.start_pull(pod, container)
        if error.status == 409:
            return self.same_name(pod, container)
        if "invalid reference format" in text or "normalizing image" in text:   # Docker, Podman
            text = (f'Failed to apply default image tag "{image}": couldn\'t parse image name '
                    f'"{image}": invalid reference format')
            raise ConfigError(text, "InvalidImageName")
        raise ConfigError(text, "CreateContainerError")

    def image(self, name):
        return self.engine.call("GET", f"/images/{urllib.parse.quote(name)}/json",
                                shape="engine.Image")

    def check_user(self, pod, container, body):
        """What only the image tells of the user: whether runAsNonRoot holds, and whom a runAsGroup
        without runAsUser is for (goes into the body of the create call). Raises ConfigError,
        EngineError."""
        both = security_context(pod, container)
        uid, non_root, why = both.get("runAsUser"), both.get("runAsNonRoot"), ""
        if uid is None and (non_root or "runAsGroup" in both):
            image = self.image(container["image"])
            user = (image["Config"].get("User") or "0").partition(":")[0]
            if "runAsGroup" in both:
                body["User"] = f"{user}:{both['runAsGroup']}"
            if not user.isdigit():
                why = f"image has non-numeric user ({user}), cannot verify user is non-root"
            elif not int(user):
                why = "image will run as root"
        if non_root and (uid == 0 or why):
            why = (f"container has runAsNonRoot and {why}" if why
                   else "container's runAsUser breaks non-root policy")
            raise ConfigError(f"{why} (pod: {name_of(pod)}, container: {container['name']})")

    def same_name(self, pod, container):
        """The name is taken: by this very pod (a pass was cut off), or one that must go first."""
        name = container_name(pod, container["name"])
        info = self.worker.inspect(name)
        uid = dig(info, ["Config", "Labels", POD_UID])
        if info and uid == uid_of(pod):
            return info["Id"]
        if uid and (uid in self.known.keys or uid in self.worker.store.buried):
            self.queue.add_after(1, key_of(pod))
            raise ConfigError("the container of a deleted pod of this name is being removed",
                              "ContainerCreating")
        raise ConfigError(f"the container name {name} is in use by a container that is not this "
                          "pod's; rename or remove it",
                          "CreateContainerError")

    # -- pulls
    def start_pull(self, pod, container):
        """Pull an image in a thread of its own, so that it holds up nobody; it comes back to the
        pod by the queue."""
        self.known.slot(uid_of(pod), container["name"]).pull = "on its way"
        threading.Thread(target=self.pull, args=(pod, container), name="pull", daemon=True).start()

    def pull(self, pod, container):
        image, began, name = container["image"], time.monotonic(), container["name"]
        tell = lambda *words: self.event(pod, *words, name)
        tell("Normal", "Pulling", f'Pulling image "{image}"')
        try:
            self.pull_by_any(image, self.logins_of(pod, image, tell), progress_teller(image, tell))
            info, took = self.image(image), f"{time.monotonic() - began:.3g}s"
            tell("Normal", "Pulled",
                 f'Successfully pulled image "{image}" in {took} ({took} including waiting). '
                 f"Image size: {info['Size']} bytes.")
            self.worker.store.set_fact(PULLED + image, now())
            result, ours = "pulled", self.engine.architecture()
            if info.get("Architecture", ours) != ours:
                tell("Warning", "Failed",
                     f'Image "{image}" is made for {info["Architecture"]}, this node is {ours}')
            self.on_image()
        except Exception as error:              # a fault of ours must not leave it on its way
            if not isinstance(error, Told):
                log(f"pulling {image}: {trace()}")
            tell("Warning", "Failed", f'Failed to pull image "{image}": {error} '
                 "(to have it without a registry: k2d.py load FILE)")
            result = ConfigError(str(error), "ErrImagePull")
        if self.known.pod(uid_of(pod)):                         # else it was deleted meanwhile
            self.known.slot(uid_of(pod), name).pull = result
        self.queue.add(key_of(pod))

    def logins_of(self, pod, image, tell):
        """The logins to try for an image, [None] without any."""
        lookup = self.worker.lookup(pod)
        names = [ref["name"] for ref in pod["spec"].get("imagePullSecrets", ()) if ref.get("name")]
        secrets = {name: lookup("Secret", name) for name in names}
        missing = ", ".join(name for name, data in secrets.items() if data is None)
        if missing:
            tell("Warning", "FailedToRetrieveImagePullSecret",
                 f"Unable to retrieve some image pull secrets ({missing}); attempting to pull "
                 "the image may not succeed.")
        return logins(image, filter(None, secrets.values())) or [None]

    def pull_by_any(self, image, candidates, progress):
        """Pull with the first login that the registry takes. Raises EngineError of the last."""
        for login in candidates:
            try:
                return self.engine.pull(image, login, progress)
            except EngineError as error:
                problem = error
        raise problem

    # -- starts
    def start(self, pod, container, id_):
        try:
            self.engine.call("POST", f"/containers/{id_}/start")
            if container["name"] != SANDBOX:
                self.event(pod, "Normal", "Started", "Container started", container["name"])
        except EngineGone:
            raise
        except EngineError as error:
            if "Address already in use" in str(error):
                self.move(pod, id_)
                return self.queue.add(key_of(pod))
            info = self.worker.inspect(id_)
            if info:
                self.worker.note(uid_of(pod), Found(info))
            raise ConfigError(str(error), "RunContainerError")

    def move(self, pod, id_):
        """Give a pod another address: somebody else on its network has taken the first."""
        store = self.worker.store
        with store.transaction():
            present = self.known.pod(uid_of(pod))
            if present:
                present["status"].pop("podIPs", None)
                present["status"]["podIP"] = self.worker.network.allocate(key_of(pod))
                store.put(present)
        self.worker.remove_container(id_)

def progress_teller(image, tell):
    """What tells of a long pull: seldom, and ever more so, as events push out each other."""
    began, due = time.monotonic(), [10]
    def progress(there, known):
        if time.monotonic() - began > due[0]:
            due[0] *= 2
            tell("Normal", "Pulling",
                 f'Pulling image "{image}": {there >> 20} of {known >> 20} MiB')
    return progress

class Stopper:
    """What ends containers: hooks, restarts, the grace of a deletion."""
    def __init__(self, worker, hub):
        self.worker, self.hub, self.engine, self.event = worker, hub, worker.engine, worker.event
        self.known, self.queue = worker.known, worker.queue

    def slot(self, pod, found):
        return self.known.slot(uid_of(pod), found.container)

    def replace(self, pod, found):
        """A container's image was changed in the pod: end it; the next pass makes it anew."""
        if self.slot(pod, found).stopping is None:
            self.event(pod, "Normal", "Killing",
                       f"Container {found.container} definition changed, will be restarted",
                       found.container)
        if not self.stop(pod, {found.container: found}):
            self.worker.remove_container(found.id)

    # -- hooks, and the end of a run
    def after_start(self, pod, container, found):
        """Run the postStart hook of a run that has just begun, not of one found at our start."""
        slot, this_run = self.slot(pod, found), (found.id, found.started_at)
        if not dig(container, "lifecycle.postStart") or slot.hooked == this_run:
            return
        slot.hooked = this_run
        def then(ok):
            if not ok:
                self.restart(pod, container, found, "FailedPostStartHook")
        if self.known.digested:
            self.run_hook(pod, container, found, "postStart", None, then)

    def run_hook(self, pod, container, found, which, timeout_s, then):
        """Run a lifecycle hook in a thread of its own, and then(whether it went well)."""
        slot = self.slot(pod, found)
        def work():
            hook, ok = container["lifecycle"][which], False
            try:
                ok, _ = run_handler(self.engine, pod, container, found, hook, timeout_s,
                                    "lifecycle")
            except Exception:   # a fault of ours must not leave it at work
                log(f"{which} of {name_of(pod)}: {trace()}")
            if not ok:          # its words might hold a secret: they are not told
                kind = which[0].upper() + which[1:]
                self.event(pod, "Warning", f"Failed{kind}Hook", f"{kind}Hook failed",
                           found.container)
            slot.hooking = False
            then(ok)
            self.queue.add(key_of(pod))
        slot.hooking = True
        threading.Thread(target=work, name="hook", daemon=True).start()

    def restart(self, pod, container, found, why, grace_s=None):
        """End a run so that the engine begins the next by its policy, which a stop by its API
        would forbid; the engine takes a signal from outside for an exit of the container's own."""
        if why in ("liveness", "startup"):
            why = f"Container {found.container} failed {why} probe, will be restarted"
        self.event(pod, "Normal", "Killing", why, found.container)
        grace_s = (pod["spec"].get("terminationGracePeriodSeconds", 30) if grace_s is None
                   else grace_s)
        try:
            process = Process(found.pid)
        except OSError:                             # it has ended already
            return
        def kill():
            process.send(KILL)
            process.close()
        def end(_=True):
            self.slot(pod, found).hooking = False
            process.send(signal_number(dig(self.worker.inspect(found.id), "Config.StopSignal")))
            self.hub.after(grace_s, kill)
        if dig(container, "lifecycle.preStop") and grace_s > 0:
            return self.run_hook(pod, container, found, "preStop", grace_s, end)
        end()

    # -- the end of a pod
    def is_overdue(self, pod, found):
        """Whether a pod has run for its activeDeadlineSeconds; then it is stopped, and fails."""
        limit, store = pod["spec"].get("activeDeadlineSeconds"), self.worker.store
        if not limit:
            return False
        left = (seconds_of(dig(pod, "status.startTime")) or time.time()) + limit - time.time()
        if left > 0:
            self.queue.add_after(left + 0.05, key_of(pod))
            return False
        if not self.stop(pod, found, left + pod["spec"].get("terminationGracePeriodSeconds", 30)):
            self.worker.remove_sandbox(found)
            with store.transaction():
                present = self.known.pod(uid_of(pod))
                if present:
                    present["status"] = {
                        **self.worker.status(present, True), "phase": "Failed",
                        "reason": "DeadlineExceeded",
                        "message": "Pod was active on the node longer than the specified deadline"}
                    store.put(present)
        return True

    def terminate(self, pod, found):
        """One step of a graceful deletion: ask to stop, wait, kill, remove."""
        left = (seconds_of(pod["metadata"]["deletionTimestamp"]) or 0) - time.time()
        if not self.stop(pod, found, left):
            self.worker.publish(key_of(pod), uid_of(pod), True)     # its watchers see how it ended
            for f in sorted(found.values(), key=lambda f: f.container == SANDBOX):
                self.worker.remove_container(f.id)
            self.worker.forget(pod)

    def stop(self, pod, found, left=None):
        """One step of the end of a pod's containers: ask the regular ones, after them the
        sidecars, the last one first; kill what still runs when no seconds are left (None: of the
        pod's grace since the first was asked). Returns what is not down yet."""
        up = {name: f for name, f in found.items() if name != SANDBOX and
              (f.running or f.state == "restarting")}
        if left is None:
            asked = [self.slot(pod, f).stopping for f in found.values()]
            began = min([at for at in asked if at is not None], default=time.monotonic())
            left = began + pod["spec"].get("terminationGracePeriodSeconds", 30) - time.monotonic()
        for f in self.turn_of(pod, up) if left > 0 else up.values():
            self.stop_one(pod, f, left)
        return up

    @staticmethod
    def turn_of(pod, up):
        """Those that are to end now."""
        last = [c["name"] for c in sidecars_of(pod["spec"])]
        regular = [f for name, f in up.items() if name not in last]
        return regular or [up[name] for name in reversed(last) if name in up][:1]

    def stop_one(self, pod, found, left):
        slot = self.slot(pod, found)
        is_asked = slot.stopping is not None
        if not is_asked:
            slot.stopping = time.monotonic()
            self.ask_to_stop(pod, found, left)
        grace = HOOK_GRACE_S if slot.hooking else 0
        if is_asked and left <= -grace:
            return self.signal(found, "KILL")
        self.queue.add_after(left + grace, key_of(pod))


    def ask_to_stop(self, pod, found, left):
        """Tell a container to end and not to come back: its preStop hook, then its stop signal."""
        # Podman 4.3 has no such call and answers 404.
        self.engine.call("POST", f"/containers/{found.id}/update",
                         {"RestartPolicy": {"Name": "no"}}, ENDED)
        if found.state == "restarting":             # between two runs there is nobody to tell
            self.engine.call("POST", f"/containers/{found.id}/stop?t=0", expect=ENDED)
            with self.known.lock:
                self.known.look_at(key_of(pod), found.id)
            return self.queue.add(key_of(pod))
        self.event(pod, "Normal", "Killing", f"Stopping container {found.container}",
                   found.container)
        container = container_named(pod["spec"], found.container)
        def say(_=True):
            info = self.worker.inspect(found.id)
            self.signal(found, dig(info, "Config.StopSignal") or "SIGTERM")
        if dig(container, "lifecycle.preStop") and left > 0:
            return self.run_hook(pod, container, found, "preStop", left, say)
        say()

    def signal(self, found, name):
        if found.state == "paused":
            self.engine.call("POST", f"/containers/{found.id}/unpause", expect=ENDED)
        query = urllib.parse.urlencode({"signal": name})
        self.engine.call("POST", f"/containers/{found.id}/kill?{query}", expect=ENDED)

# == 30. Probes and hooks ====================================================================
# What asks a container how it is, and what tells it that it has started or must stop:
# run_handler() does one action and blocks, the Prober decides when and what follows. Rules are the
# kubelet's (pkg/kubelet/prober, pkg/probe).
PROBES = {"startup": None, "readiness": False, "liveness": True}    # what holds before a result
OUTPUT_BYTES = 10 << 10                 # read of an answer's body or a command's output
HANDLERS = "exec", "httpGet", "tcpSocket", "grpc", "sleep"
# grpc.health.v1.HealthCheckResponse.ServingStatus
HEALTH = "UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"
KUBE_AGENT = "kube-{}/" + SERVES[1:].rpartition(".")[0]
def run_handler(engine, pod, container, found, handler, timeout_s, purpose="probe"):
    """One exec, httpGet, tcpSocket, grpc or sleep: (True, "" or a warning), (False, what failed),
    or (None, why it could not be tried). purpose: "probe", or "lifecycle" for a hook. timeout_s
    None: no limit. Blocks its caller."""
    deadline = timeout_s and time.monotonic() + timeout_s
    kind, action = next((kind, handler[kind]) for kind in HANDLERS if kind in handler)
    if kind == "sleep":
        time.sleep(min(action["seconds"], timeout_s or action["seconds"]))
        return True, ""
    if kind == "exec":
        env = {entry["name"]: entry.get("value", "") for entry in container.get("env", ())}
        words = [expand(word, env) if purpose == "probe" else word for word in action["command"]]
        return run_exec(engine, found.id, words, deadline, timeout_s)
    named = {port.get("name"): port["containerPort"] for port in container.get("ports", ())}
    host = action.get("host") or dig(pod, "status.podIP", "")
    port = named.get(action["port"], action["port"])
    if not str(port).isdigit():
        return None, f"the container has no port of the name {port!r}"
    if kind == "httpGet":
        return run_http(action, host, port, deadline, purpose)
    if kind == "grpc":
        return check_grpc(host, port, action.get("service", ""), deadline, timeout_s)
    return check_tcp(host, port, deadline)

def check_tcp(host, port, deadline):
    try:
        dial(host, port, deadline).close()
        return True, ""
    except OSError as error:
        return False, f"dial tcp {host}:{port}: {error}"

def run_exec(engine, id_, command, deadline, timeout_s):
    try:
        data, info = exec_to_end(engine, id_, command, deadline)
    except EngineError as error:
        return None, str(error)
    if info["Running"]:
        end_exec(info["Pid"])   # the engine has no call for it
        return False, f'command timed out: "{" ".join(command)}" timed out after {timeout_s}s'
    frames = sorted(log_frames(data, False)[0], key=lambda frame: frame[0])
    text = b"".join(text for _, text in frames)[:OUTPUT_BYTES].decode("utf-8", "replace")
    if info["ExitCode"] in (126, 127) and "OCI runtime" in text:
        return None, text                                               # there is no such command
    return info["ExitCode"] == 0, text if info["ExitCode"] else ""

def exec_to_end(engine, id_, command, deadline):
    """(the beginning of what a command in a container says, its inspect after its end or the
    deadline). Raises EngineError."""
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": command}
    path = engine.make_exec(id_, body)
    sock, _, data = engine.stream("POST", path + "/start", {"Detach": False, "Tty": False})
    with sock, reaching_engine(), suppress(Timeout):
        for more in pieces(sock, deadline):
            data += more if len(data) < 1 << 16 else b""    # a frame of it has at most 32 KiB
    info = engine.look_at_exec(path)
    # it may outlive its output
    while info["Running"] and not (deadline and time.monotonic() > deadline):
        time.sleep(0.05)
        info = engine.look_at_exec(path)
    return data, info

def end_exec(pid):
    if pid:
        with suppress(OSError):                                         # it has ended
            process = Process(pid)
            process.send(KILL)
            process.close()

def run_http(action, host, port, deadline, purpose):
    """An httpGet; a hook by HTTPS falls back to HTTP, as the kubelet's."""
    secure = action.get("scheme", "HTTP") == "HTTPS"
    try:
        return get_http(action, host, port, deadline, purpose, secure)
    except OSError as error:
        if (secure and purpose == "lifecycle" and
                getattr(error, "reason", "") == "WRONG_VERSION_NUMBER"):
            return run_http({**action, "scheme": "HTTP"}, host, port, deadline, purpose)
        late = isinstance(error, Timeout)
        return (False,
                f"Get {host}:{port}: " +
                ("context deadline exceeded" if late else str(error.strerror or error)))
    except ValueError as error:
        return False, f"Get {host}:{port}: {error}"

def request_headers(action, purpose):
    headers = [(entry["name"].title(), re.sub(r"[\r\n]", " ", entry.get("value", "")))
               for entry in action.get("httpHeaders", ())]
    defaults = ("User-Agent", KUBE_AGENT.format(purpose)), ("Accept", "*/*")
    return headers + [each for each in defaults if each[0] not in dict(headers)]

def get_http(action, host, port, deadline, purpose, secure):
    """What an httpGet says; redirects are followed within the host. To a hook every answer is a
    good one. Raises OSError, ValueError."""
    path = urllib.parse.quote(action.get("path", "/").partition("#")[0].lstrip("/"),
                              "/%?&=:;,+@!$'()*~[]")
    url = f"{'https' if secure else 'http'}://{host}:{port}/{path}"
    headers = request_headers(action, purpose)
    for _ in range(10):
        status, location, body = exchange_http(url, headers, deadline)
        moved = status in (301, 302, 303, 307, 308) and location
        url = urllib.parse.urljoin(url, location)
        if not moved or urllib.parse.urlsplit(url).hostname != host.lower():
            break
        if urllib.parse.urlsplit(location).netloc:
            headers = [each for each in headers if each[0] != "Host"]
    else:
        raise ValueError("stopped after 10 redirects")
    if purpose == "lifecycle" or 200 <= status < 300:
        return True, ""
    if 300 <= status < 400:
        return True, f"Probe terminated redirects, Response body: {body}"
    return False, f"HTTP probe failed with statuscode: {status}"

def exchange_http(url, headers, deadline):
    """GET url: (status, Location, beginning of the body). Raises OSError, ValueError."""
    parts, got, rest = urllib.parse.urlsplit(url), b"", []
    secure = parts.scheme == "https"
    sock = dial(parts.hostname, parts.port or (443 if secure else 80), deadline)
    with unverified_tls().wrap_socket(sock,
                                      server_hostname=parts.hostname) if secure else sock as sock:
        sock.sendall(request_head(parts, headers))
        for more in pieces(sock, deadline):
            got += more
            head, *rest = HEAD_END.split(got, 1)
            if len(got) > 1 << 16 or rest and is_enough(head, rest[0]):
                break
    status = re.match(rb"HTTP/1\.\d (\d{3})\b", got)
    if not status or not rest:
        raise ValueError(f"malformed HTTP response {got[:40]!r}" if got else "EOF")
    location = re.search(rb"(?mi)^location:[ \t]*(\S+)", head) or (b"", b"")
    return (int(status[1]), location[1].decode("latin-1"),
            rest[0][:OUTPUT_BYTES].decode("utf-8", "replace"))

def request_head(parts, headers):
    """The head of a GET for a split URL."""
    target = urllib.parse.urlunsplit(("", "", *parts[2:4], "")) or "/"
    lines = [f"GET {target} HTTP/1.1", "Connection: close"]
    if "Host" not in dict(headers):
        lines.append(f"Host: {parts.netloc}")
    lines += [f"{name}: {value}" for name, value in headers if value or name != "Accept"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"

def is_enough(head, body):
    """Whether all of a body is there, its last chunk, or as much as is read."""
    length = re.search(rb"(?mi)^content-length:[ \t]*(\d{1,12})", head)
    size = min(int(length[1]), OUTPUT_BYTES) if length else OUTPUT_BYTES
    return len(body) >= size or body.endswith(b"0\r\n\r\n")

def http2_frame(type_, flags, stream, data):
    """RFC 9113, 4.1; types: 0 DATA, 1 HEADERS, 3 RST_STREAM, 4 SETTINGS, 7 GOAWAY."""
    return struct.pack("!IBI", len(data) << 8 | type_, flags, stream) + data

def grpc_request(authority, service):
    """All that a client sends to call Health/Check: its preface, SETTINGS, HEADERS without
    compression, DATA."""
    fields = {":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Check",
              ":authority": authority, "content-type": "application/grpc", "te": "trailers",
              "user-agent": KUBE_AGENT.format("probe")}
    block = b"".join(b"\0%c%b%c%b" % (len(k), k.encode(), len(v), v.encode())
                     for k, v in fields.items())
    size, text = len(service.encode()), service.encode()
    message = (b"\x0a" +
               (b"%c" % size if size < 128 else b"%c%c" % (size & 127 | 128, size >> 7)) + text)
    return (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(4, 0, 0, b"") +
            http2_frame(1, 4, 1, block) +
            http2_frame(0, 1, 1, struct.pack("!BI", 0, len(message)) + message))

def grpc_status(data):
    """The number of the status in all that a server has sent; -1 if its call ended without one,
    None if it goes on."""
    message, at = b"", 0
    while len(data) - at >= 9:
        head, flags, _ = struct.unpack_from("!IBI", data, at)
        type_, end = head & 0xff, at + 9 + (head >> 8)
        if len(data) < end:
            break
        message += data[at + 9:end] if type_ == 0 else b""
        if len(message) >= 5 and len(message) >= 5 + struct.unpack_from("!I", message, 1)[0]:
            # its field 1, left out when it is 0
            return message[6] if message[5:6] == b"\x08" else 0
        if type_ in (3, 7) or type_ in (0, 1) and flags & 1:
            return -1
        at = end
    return None

def check_grpc(host, port, service, deadline, timeout_s):
    data, status = b"", None
    try:
        with dial(host, port, deadline) as sock:
            sock.sendall(grpc_request(f"{host}:{port}", service))
            for more in pieces(sock, deadline):
                # first come its SETTINGS: noted
                sock.sendall(b"" if data else http2_frame(4, 1, 0, b""))
                data += more
                status = grpc_status(data)
                if status is not None or len(data) > 1 << 16:
                    break
    except Timeout:
        return False, f"timeout: health rpc did not complete within {timeout_s}s"
    except OSError as error:
        return False, f"error: health rpc probe failed: {error.strerror or error}"
    if status in (None, -1):
        return (False,
                "error: health rpc probe failed: no such service, or no grpc.health.v1.Health")
    name = HEALTH[status] if status < len(HEALTH) else str(status)
    return (name == "SERVING",
            "" if name == "SERVING" else f'service unhealthy (responded with "{name}")')

class Probe:
    """One probe of one run of a container; step() is all that the thresholds mean, and pure."""
    __slots__ = "kind", "result", "guessed", "last", "count"

    def __init__(self, kind, guessed=False):
        self.kind, self.guessed, self.last, self.count = kind, guessed, None, 0
        self.result = guessed or PROBES[kind]               # None: not known yet

    def step(self, ok, spec):
        """Count one outcome; returns whether it changed what holds."""
        before = self.result
        if self.guessed and not ok:     # the truth, for which a threshold would be too late
            self.result = PROBES[self.kind]
        self.count, self.last, self.guessed = self.count + 1 if ok == self.last else 1, ok, False
        if self.count >= spec["successThreshold" if ok else "failureThreshold"]:
            self.result = ok
        return self.result != before

Run = namedtuple("Run", "started_at probes")         # of a container: its startedAt, {kind: Probe}

class Prober:
    """Probes the containers that want it. One that has run since before we came is taken to be as
    ready as it can be until its first probe, which comes at once: a restart of k2d makes nothing
    unready."""
    def __init__(self, worker, hub):
        # (uid, container name) -> Run, replaced whole
        self.worker, self.our_start, self.runs = worker, time.time(), {}
        self.queue = WorkQueue("probe", self.probe_once, 8, hub, self.tell_fault)

    def watch(self, pod, container, found):
        """From now on probe this run of a container; cheap if that is under way."""
        key, run_start_s = (uid_of(pod), container["name"]), seconds_of(found.started_at) or 0
        probes = {kind: Probe(kind, run_start_s < self.our_start - 10) for kind in PROBES if kind +
                  "Probe" in container}
        if not probes or key in self.runs and self.runs[key].started_at == found.started_at:
            return
        run = self.runs[key] = Run(found.started_at, probes)
        self.schedule(pod, container, run,
                      [kind for kind in probes if kind == "startup" or "startup" not in probes])
    def tell_fault(self, key, problem):
        """A probe went wrong in our own code, and will be tried again."""
        pod = self.worker.known.pod(key[0])
        if pod:
            self.tell(pod, key[1], key[2], None, problem)

    def schedule(self, pod, container, run, kinds):
        """Have the first probes come: for readiness as soon as it may, else at a tick of a clock
        that began with the pod, as the kubelet's."""
        for kind in kinds:
            spec, present = container[kind + "Probe"], time.time()
            wait = max(0,
                       (seconds_of(run.started_at) or 0) +
                       spec.get("initialDelaySeconds", 0) - present)
            if kind == "liveness" or kind == "startup" and not run.probes[kind].guessed:
                wait += ((seconds_of(pod["status"].get("startTime")) or
                          0) - present - wait) % spec["periodSeconds"]
            self.queue.add_after(wait,
                                 (pod["metadata"]["uid"], container["name"], kind, run.started_at))

    def forget(self, uid, name=None):
        """Stop probing a container, or all of a pod."""
        for key in [key for key in list(self.runs) if key[0] == uid and name in (None, key[1])]:
            self.runs.pop(key, None)

    def state(self, uid, name):
        """(started, ready) of a running container that watch() has seen."""
        probes = self.runs[uid, name].probes if (uid, name) in self.runs else {}
        started, ready = (kind not in probes or bool(probes[kind].result)
                          for kind in ("startup", "readiness"))
        return started, started and ready

    def probe_once(self, key):
        """One probe that is due, and what follows from it. Ends the probing of what has gone."""
        (uid, name, kind, started_at), asked_at = key, time.monotonic()
        run, pod = self.runs.get((uid, name)), self.worker.known.pod(uid)
        found = self.worker.known.found(uid).get(name)
        if not pod or found and not found.running:
            return self.forget(uid, name)
        if not run or run.started_at != started_at or is_deleting(pod) and kind != "readiness":
            return
        container = container_named(pod["spec"], name)
        spec = container[kind + "Probe"]
        is_slow = spec["timeoutSeconds"] > 1                    # it leaves its place to others
        self.queue.allow(int(is_slow))
        try:
            ok, text = self.ask(pod, container, found, spec)
        finally:
            self.queue.allow(-int(is_slow))
        if self.runs.get((uid, name)) is not run:
            return  # meanwhile it has got another run, or none
        self.tell(pod, name, kind, ok, text)
        if self.follow(pod, container, found, run, kind, ok):
            self.queue.add_after(asked_at + spec["periodSeconds"] - time.monotonic(), key)

    def follow(self, pod, container, found, run, kind, ok):
        """What follows from the outcome of a probe; returns whether it comes again in this run."""
        probe, spec = run.probes[kind], container[kind + "Probe"]
        if ok is not None and probe.step(ok, spec) and kind != "liveness":
            self.worker.queue.add(key_of(pod))
        if kind == "startup" and ok:    # that is all it is for; the others begin
            self.schedule(pod, container, run, [each for each in run.probes if each != "startup"])
            return False
        if kind != "readiness" and probe.result is False:
            self.worker.stopper.restart(pod, container, found, kind,
                                        spec.get("terminationGracePeriodSeconds"))
            return False
        return True

    def ask(self, pod, container, found, spec):
        """What a probe says; one that could not be tried is tried again at once."""
        ok, text = None, ""
        # else it is paused, or being looked at
        for _ in range(3 if found and found.state == "running" else 0):
            ok, text = run_handler(self.worker.engine, pod, container, found, spec,
                                   spec["timeoutSeconds"])
            if ok is not None:
                break
        return ok, text

    def tell(self, pod, name, kind, ok, text):
        if text or ok is False:
            what = {True: "warning", False: "failed",
                    None: "errored and resulted in unknown state"}[ok]
            self.worker.event(pod, "Warning", "ProbeWarning" if ok else "Unhealthy",
                              f"{kind.capitalize()} probe {what}: {text}", name)

# == 31. Network [host] ======================================================================
# One flat bridge for all pods. Services are NAT rules of the kernel, which work while k2d is down.
# endpoints: [(ip, port)]
# host_ports: (what matches its packets to the host, its number) of a node port, a balancer's port
ServicePort = namedtuple("ServicePort", "ip protocol port host_ports endpoints affinity_s")
HostPort = namedtuple("HostPort", "ip protocol port endpoint")  # ip "" is every address
CUT_OFF_S = 10
RULES = 2000                # endpoints of all ports of one Service
RESTED = 500                # addresses that are kept for who may come back
CHAINS = {"nat": ("SVC", "PORT", "MASQ"), "filter": ("FWD", "REJ")}
TO_HOST = "-m addrtype --dst-type LOCAL"
NOT_LOOPBACK = "! -d 127.0.0.0/8 "      # where programs of the host may have the same port

def slices_of(store, namespace, name):
    """The EndpointSlices of a Service."""
    return store.list("EndpointSlice", namespace, [Requirement(SERVICE_NAME, "=", {name})])

def ready_endpoints(slices, name):
    """[(ip, port)] of the ready endpoints in EndpointSlices at their port of a name, no IPv6;
    while there are none, of those that still serve while they end (KEP-1669)."""
    found, ending = [], []
    for each in slices:
        ports = [port["port"] for port in each.get("ports", ())
                 if port.get("name", "") == name and "port" in port][:1]
        found += product(ready_addresses(each), ports)
        ending += product(ready_addresses(each, is_ending), ports)
    return sorted(end for end in found or ending if ":" not in end[0])

def is_ready_endpoint(conditions):
    return conditions.get("ready", True)

def is_ending(conditions):
    return conditions.get("serving") and conditions.get("terminating")

def ready_addresses(each, holds=is_ready_endpoint):
    """The addresses in an EndpointSlice that traffic may be sent to, by their conditions."""
    return [ip for endpoint in each.get("endpoints", ()) for ip in endpoint["addresses"][:1]
            if holds(endpoint.get("conditions", {})) and is_endpoint(ip)]

def service_ports(service, slices):
    """The ServicePorts of a Service, by its EndpointSlices; [] without a cluster IP."""
    spec, ip, affinity_s, found = service["spec"], cluster_ip(service), None, []
    if spec.get("sessionAffinity") == "ClientIP":
        affinity_s = dig(spec, "sessionAffinityConfig.clientIP.timeoutSeconds", 10800)
    for port in spec.get("ports", ()) if ip else ():
        protocol, host_ports = port.get("protocol", "TCP"), []
        if port.get("nodePort"):
            host_ports.append(("", port["nodePort"]))
        if spec.get("type") == "LoadBalancer" and ingress_ips(service):
            host_ports.append((NOT_LOOPBACK, port["port"]))
        if protocol != "SCTP":                                  # no NAT of ours
            ends = ready_endpoints(slices, port.get("name", ""))
            found.append(ServicePort(ip, protocol.lower(), port["port"], host_ports, ends,
                                     affinity_s))
    return found

def balance(match, endpoints, affinity_s, tag):
    """iptables rules that send what matches to one of the endpoints, all as likely."""
    known, new = [], []
    for left, (ip, port) in zip(range(len(endpoints), 0, -1), endpoints):
        target, recent = f"-j DNAT --to-destination {ip}:{port}", f"-m recent --name {tag}-{ip}"
        chance = f" -m statistic --mode random --probability {1 / left:.8f}" if left > 1 else ""
        known.append(f"{match} {recent} --update --seconds {affinity_s} --reap --rsource {target}")
        new.append(f"{match}{chance}{f' {recent} --set --rsource' if affinity_s else ''} {target}")
    return known + new if affinity_s else new

def port_match(protocol, port):
    """What matches packets to a port."""
    return f"-p {protocol} -m {protocol} --dport {port}"

def masqueraded(settings, pod_ips, bridge_netfilter):
    """What matches packets whose reply would not come back by the way they were NATed. With
    br_netfilter a reply between two pods passes our NAT even inside the bridge; only a pod that
    reaches itself needs another source. Without it such a reply would go straight to the other
    pod: every DNATed packet needs one."""
    matches = [f"-s 127.0.0.0/8 -o {settings.network}"]
    if bridge_netfilter:
        return matches + [f"-s {ip}/32 -d {ip}/32" for ip in sorted(pod_ips)]
    return [*matches, f"-s {settings.pod_cidr} -o {settings.network} -m conntrack --ctstate DNAT"]

def nat_rules(settings, services, host_ports, bridge_netfilter):
    """The text for `iptables-restore --noflush`: our chains, whole, so that they are replaced at
    one moment.

    NAME-SVC   cluster addresses, asked by pods and by the host itself
    NAME-PORT  node ports, host ports, and the ports of balancers
    NAME-MASQ  where a reply would not come back by the way it was NATed
    NAME-FWD   what the engine's rules would drop
    NAME-REJ   Service addresses and node ports without a ready endpoint: refused at once, not lost
               on the default route
    """
    p, bridge = settings.network.upper(), settings.network
    svc, ports, refused, pod_ips = [], [], [], {h.endpoint[0] for h in host_ports}
    for s in services:
        match = f"-A {p}-SVC -d {s.ip}/32 {port_match(s.protocol, s.port)}"
        svc += balance(match, s.endpoints, s.affinity_s, f"{p}-{s.protocol}-{s.port}")
        for where, number in s.host_ports:
            match = where + port_match(s.protocol, number)
            ports += balance(f"-A {p}-PORT {match}", s.endpoints, s.affinity_s,
                             f"{p}-{s.protocol}-{number}")
            refused += [] if s.endpoints else [f"-A {p}-REJ {TO_HOST} {match} -j REJECT"]
        pod_ips.update(ip for ip, _ in s.endpoints if ip != settings.gateway and
                       ipaddress.IPv4Address(ip) in settings.pod_cidr)
    for h in host_ports:
        address = "" if h.ip in ("", "0.0.0.0") else f"-d {h.ip}/32 "
        ports += balance(f"-A {p}-PORT {address}{port_match(h.protocol, h.port)}", [h.endpoint],
                         None, "")
    matches = masqueraded(settings, pod_ips, bridge_netfilter)
    nat = [*(f":{p}-{chain} - [0:0]" for chain in CHAINS["nat"]), *svc, *ports,
           *(f"-A {p}-MASQ {match} -j MASQUERADE" for match in matches)]
    filters = [*(f":{p}-{chain} - [0:0]" for chain in CHAINS["filter"]),
               *(f"-A {p}-FWD {way} {bridge} -m conntrack --ctstate DNAT -j ACCEPT"
                 for way in ("-o", "-i")),
               # route_localnet lets 127.0.0.1 be NATed to pods; nobody else may pretend to be it,
               # or reach it
               f"-A {p}-REJ -i {bridge} -d 127.0.0.0/8 -m conntrack ! --ctstate "
               "RELATED,ESTABLISHED,DNAT -j DROP",
               # the ICMP of a plain REJECT does not reach a socket of the host itself by way of lo
               f"-A {p}-REJ -d {settings.service_cidr} -p tcp -j REJECT --reject-with tcp-reset",
               f"-A {p}-REJ -d {settings.service_cidr} -j REJECT", *refused]
    return "\n".join(["*nat", *nat, "COMMIT", "*filter", *filters, "COMMIT", ""])

def jumps(settings, has_docker_user):
    """(table, chain, arguments) of the rules by which the kernel's own chains come to ours."""
    p, to_service = settings.network.upper(), f"-d {settings.service_cidr}"
    return [("nat", "PREROUTING", f"-i {settings.network} {to_service} -j {p}-SVC"),
            ("nat", "PREROUTING", f"{TO_HOST} -j {p}-PORT"),
            ("nat", "OUTPUT", f"{to_service} -j {p}-SVC"),
            ("nat", "OUTPUT", f"{TO_HOST} -j {p}-PORT"), ("nat", "POSTROUTING", f"-j {p}-MASQ"),
            ("filter", "DOCKER-USER" if has_docker_user else "FORWARD", f"-j {p}-FWD"),
            *(("filter", chain, f"-j {p}-REJ") for chain in ("INPUT", "OUTPUT", "FORWARD"))]

class Network:
    """The bridge, its routes and NAT rules. Called by the controller thread, except where a method
    says otherwise."""
    def __init__(self, settings, engine, store, writer, event=None):
        self.settings, self.engine, self.store, self.writer = settings, engine, store, writer
        self.event = event
        self.applied, self.problem, self.dns_port, self.lacking = None, "", 0, False
        self.udp, self.looked = {}, 0       # udp_ends(); when is_cut_off() last looked
        self.hairpins = set()               # ports of the bridge that have that mode
        self.rested = {}    # key of a pod that is gone and may come back -> its address
        # lock: held while addresses are chosen; never across I/O
        self.lock, self.last_ip = threading.Lock(), 0

    def bridge_netfilter(self):
        return first_line("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1"

    def check_overlap(self):
        """Refuse to start over a route of the host: its machines would become unreachable."""
        s = self.settings
        for line in read_text("/proc/net/route").splitlines()[1:]:
            interface, destination, *_, mask = line.split()[:8]
            bits = bin(int(mask, 16)).count("1")
            network = ipaddress.IPv4Network((struct.pack("<I", int(destination, 16)), bits),
                                            strict=False)
            for flag, ours in (("pod-cidr", s.pod_cidr), ("service-cidr", s.service_cidr)):
                if interface not in (s.network, "lo") and bits and ours.overlaps(network):
                    raise SystemExit(
                        f"k2d: --{flag} {ours} overlaps with the route to {network} on "
                        f"{interface}; choose another range, such as 172.30.0.0/16")

    def ensure(self):
        """Make the engine's network, routes and jumps where they lack. Raises EngineError."""
        s = self.settings
        found = self.engine.call("GET", "/networks/" + s.network, None, (404,), "engine.Network")
        subnets = [pool["Subnet"] for pool in dig(found, "IPAM.Config", ())]
        if not found:
            self.engine.call("POST", "/networks/create",
                             {"Name": s.network, "Driver": "bridge", "CheckDuplicate": True,
                              "IPAM": {"Config": [{"Subnet": str(s.pod_cidr),
                                                   "IPRange": s.engine_range,
                                                   "Gateway": s.gateway}]},
                              "Options": {"com.docker.network.bridge.name": s.network}})
        elif str(s.pod_cidr) not in subnets:
            raise EngineError(
                409,
                f"the engine's network {s.network} has {', '.join(subnets)}, not {s.pod_cidr}: "
                "choose that by --pod-cidr, another --network, or remove it")
        try:
            if self.settings.is_podman:
                self.keep_bridge()
            self.ensure_rules()
            self.problem = ""
        except OSError as error:
            log(f"Services have no addresses, names give pod addresses: {error}")
            self.problem = str(error)

    def keep_bridge(self):
        """Podman makes its bridge with the first container and removes it after the last one: make
        it now, as it would, with a port of ours that keeps it. Raises OSError."""
        s, (port, peer) = self.settings, self.bridge_ports()
        if not os.path.exists("/sys/class/net/" + s.network):
            run_checked("ip", "link", "add", s.network, "type", "bridge")
            bits = s.pod_cidr.prefixlen
            run_checked("ip", "address", "add", f"{s.gateway}/{bits}", "dev", s.network)
            run_checked("ip", "link", "set", s.network, "up")
        # else that of a port, and another one whenever one comes or goes
        run_checked("ip", "link", "set", s.network, "address", mac_of(s.gateway))
        if not os.path.exists("/sys/class/net/" + port):
            run_checked("ip", "link", "add", port, "type", "veth", "peer", "name", peer)
        run_checked("ip", "link", "set", port, "master", s.network, "up")
        run_checked("ip", "link", "set", peer, "up")

    def bridge_ports(self):
        """The names of what keeps Podman's bridge: a port of it, and the port's other end."""
        return self.settings.network + "-0", self.settings.network + "-1"

    def ensure_rules(self):
        """Raises OSError."""
        s = self.settings
        write_text(f"/proc/sys/net/ipv4/conf/{s.network}/route_localnet", "1")
        run_checked("ip", "route", "replace", str(s.service_cidr), "dev", "lo", "src", s.gateway)
        if f":{s.network.upper()}-SVC" not in run_checked("iptables-save"):
            run_checked("iptables-restore", "-w", "--noflush",
                        stdin=nat_rules(s, [], [], True).encode())
        self.applied = None     # the controllers apply theirs after us, changed or not
        for table, chain, arguments in jumps(
                s, run("iptables", "-w", "-n", "-L", "DOCKER-USER")[0] == 0):
            if run("iptables", "-w", "-t", table, "-C", chain, *arguments.split())[0]:
                run_checked("iptables", "-w", "-t", table, "-I", chain, *arguments.split())

    def sync(self):
        """Bring the NAT rules in line with the present Services, endpoints and pods. What cannot
        become a rule is left out, and told; it holds up no other."""
        if self.problem:
            return
        parts = self.parts()
        text = self.rules_of(parts)
        if self.is_cut_off():
            self.ensure_rules()
        if text == self.applied:
            return
        try:
            run_checked("iptables-restore", "-w", "--noflush", stdin=text.encode())
        except OSError:
            good = self.rules_of(list(filter(self.is_rule, parts)))
            run_checked("iptables-restore", "-w", "--noflush", stdin=good.encode())
        self.applied = text
        self.forget_old_flows(parts)

    def is_cut_off(self):
        """Whether somebody has flushed what leads to our rules, as a firewall does that is loaded
        anew; looked at no more often than every CUT_OFF_S."""
        if time.monotonic() < self.looked + CUT_OFF_S:
            return False
        self.looked = time.monotonic()
        table, chain, arguments = jumps(self.settings, False)[0]
        return run("iptables", "-w", "-t", table, "-C", chain, *arguments.split())[0] != 0

    def forget_old_flows(self, parts):
        """The rules are asked for the first packet of a flow alone: UDP flows that would go
        elsewhere now begin anew (kube-proxy: pkg/proxy/conntrack)."""
        ends, pods = udp_ends(parts), self.settings.pod_cidr
        if ends == self.udp:
            return                                              # nothing of UDP changed
        known, self.udp = {**dict.fromkeys(self.udp, set()), **ends}, ends
        def is_stale(asked, answering):
            wanted = known.get(asked)
            if wanted is None and ("", asked[1]) in known:
                was_ours = ipaddress.ip_address(answering[0]) in pods
                wanted = known["", asked[1]] if was_ours or is_own_address(asked[0]) else None
            return wanted is not None and answering not in wanted
        try:
            forget_flows(is_stale)
        except OSError as error:
            log(f"UDP flows that began earlier stay as they are: {error}")

    def parts(self):
        """[(object, its ServicePorts, its HostPorts)] of all that rules are for."""
        s, slices, parts, upstream = self.settings, {}, [], upstream_resolver()
        self.lacking = False
        for each in self.store.list("EndpointSlice"):
            key = key_of(each)[0], labels_of(each).get(SERVICE_NAME)
            slices.setdefault(key, []).append(each)
        for service in self.store.list("Service"):
            found = service_ports(service, slices.get(key_of(service), ()))
            if sum(len(each.endpoints) for each in found) > RULES:
                self.event(service, "Warning", "FailedRules",
                           f"its ports have more than {RULES} endpoints", component="k2d")
                found = []
            parts.append((service, found, []))
        own = [ServicePort(ip, protocol, 53, (), ends, None)
               for ip, ends in ((s.dns_ip, [(s.gateway, self.dns_port)]),
                                (s.upstream_ip, upstream))
               for protocol in ("udp", "tcp")]
        pods, taken = list(self.store.list("Pod", holding=b'"hostPort"')), set()
        if any(map(ports_of, pods)):
            taken = listening_ports()                           # k2d's own is among them
        for pod in pods:
            free = [each for each in ports_of(pod)
                    if (each.protocol.upper(), each.port) not in taken]
            if len(free) < len(ports_of(pod)):
                self.lacking = True
                self.event(pod, "Warning", "FailedRules",
                           "a program of the host has one of its host ports", component="k2d")
            parts.append((pod, [], free))
        return [*parts, (None, own, [])]

    def rules_of(self, parts):
        """The rules for some of parts()."""
        services = [port for _, ports, _ in parts for port in ports]
        published = [port for _, _, ports in parts for port in ports]
        return nat_rules(self.settings, services, sorted(published), self.bridge_netfilter())

    def is_rule(self, part):
        """Whether one of parts() can be rules; else its object gets an event."""
        code, said = run("iptables-restore", "-w", "--noflush", "--test",
                         stdin=self.rules_of([part]).encode())
        if code:
            self.event(part[0], "Warning", "FailedRules", "left out of the host's NAT: " +
                       said.decode("utf-8", "replace").strip()[:FAULT_CHARS], component="k2d")
        return not code

    def set_hairpin(self):
        """Where br_netfilter is on, a pod that reaches itself by its own Service must get its
        frame back by the port it came from. Any thread."""
        folder = f"/sys/class/net/{self.settings.network}/brif"
        ports = set(list_folder(folder)) if self.bridge_netfilter() else set()
        for port in ports - self.hairpins:
            with suppress(OSError):                   # the container went away meanwhile
                write_text(f"{folder}/{port}/hairpin_mode", "1")
        self.hairpins = ports


    def keep_address(self, pod):
        """A pod is gone: one of a StatefulSet has its address again when it comes back."""
        ip = dig(pod, "status.podIP")
        if ip and dig(controller_of(pod), "kind") == "StatefulSet":
            self.rested[key_of(pod)] = ip
            while len(self.rested) > RESTED:
                del self.rested[next(iter(self.rested))]

    def allocate(self, key):
        """A free address for a pod, in turn, so that a freed one rests. Any thread; the caller's
        transaction stores it."""
        s = self.settings
        taken = {ip.decode() for row in self.store.present("Pod").values() if row
                 for ip in re.findall(rb'"podIP":"([^"]+)"', row.raw)}
        own = self.rested.pop(key, None)
        if own and own not in taken:
            return own
        taken |= set(self.rested.values())
        size = s.pod_cidr.num_addresses - 256 - 2  # without gateway, and the engine's own last /24
        with self.lock:
            if not self.last_ip:
                known = [int(ipaddress.ip_address(ip)) - int(s.pod_cidr[0]) for ip in taken
                         if is_address(ip)]
                self.last_ip = max([n for n in known if 0 < n <= size] or [1])
            for _ in range(size):
                self.last_ip = self.last_ip + 1 if self.last_ip < size else 2
                if str(s.pod_cidr[self.last_ip]) not in taken:
                    return str(s.pod_cidr[self.last_ip])
        raise ApiError(500, "InternalError", f"no pod address is free in {s.pod_cidr}")

    def remove(self):
        """Take away chains, jumps, route and the engine's network (for `k2d.py reset`)."""
        p = self.settings.network.upper()
        for table, names in CHAINS.items():
            for line in run("iptables-save", "-t", table)[1].decode().split("\n"):
                if line.startswith("-A") and re.search(rf"-j {p}-({'|'.join(names)})$", line):
                    run("iptables", "-w", "-t", table, "-D", *line.split()[1:])
            for action, name in [(action, name) for name in names for action in ("-F", "-X")]:
                run("iptables", "-w", "-t", table, action, f"{p}-{name}")
        run("ip", "route", "del", str(self.settings.service_cidr), "dev", "lo")
        try:
            self.engine.call("DELETE", "/networks/" + self.settings.network, expect=(404,))
        except EngineError as error:
            raise SystemExit(f"k2d: network {self.settings.network}: {error}; the data stays, so "
                             "that reset can go on")
        for link in (self.bridge_ports()[0], self.settings.network):    # Podman's: else none
            run("ip", "link", "del", link)

def udp_ends(parts):
    """{(address, "" for each of the host's, port): {(ip, port)}} of all that UDP is NATed to."""
    found = {}
    for _, services, published in parts:
        for each in [each for each in services if each.protocol == "udp"]:
            for ip, port in [(each.ip, each.port), *(("", port) for _, port in each.host_ports)]:
                found[ip, port] = set(each.endpoints)
        for each in [each for each in published if each.protocol == "udp"]:
            found[each.ip, each.port] = {each.endpoint}
    return found

def ports_of(pod):
    """The HostPorts of a running pod; the engine publishes those of plain `docker run`."""
    ip = dig(pod, "status.podIP")
    if (is_foreign(pod) or pod["spec"].get("hostNetwork") or
            dig(pod, "status.phase") != "Running" or not ip):
        return []
    return [HostPort(port.get("hostIP", ""), port.get("protocol", "TCP").lower(), port["hostPort"],
                     (ip, port["containerPort"]))
            for _, container in containers_of(pod["spec"])
            for port in container.get("ports", ()) if port.get("hostPort")]

# == 32. Names ===============================================================================
# Names are lines in each pod's /etc/hosts, which work while k2d is down. DNS answers those who ask
# DNS alone, and what changes too often for a file.
def host_resolv_conf():
    """The host's resolv.conf; with systemd the second, where the first names its stub alone."""
    texts = [*map(read_text,
                  filter(os.path.exists,
                         ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")))]
    return next((text for text in texts if re.search(r"(?m)^nameserver\s+(?!127\.)", text)),
                "".join(texts[-1:]))

def upstream_resolver():
    """[(address, 53)] of the host's own resolver, [] if it has none but on its loopback."""
    servers, _, _ = read_resolv_conf(host_resolv_conf())
    return [(ip, 53) for ip in servers if is_address(ip) and ":" not in ip and
            not ip.startswith("127.")][:1]


def hosts_text(pod, services):
    """What a pod's /etc/hosts says. services: [(name, namespace, address)]."""
    spec, own, (hostname, domain) = pod["spec"], pod["metadata"]["namespace"], pod_hostname(pod)
    ip = dig(pod, "status.podIP", "127.0.1.1")
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost",
             "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::0\tip6-localnet",
             "fe00::0\tip6-mcastprefix", "fe00::1\tip6-allnodes", "fe00::2\tip6-allrouters",
             f"{ip}\t{hostname}.{domain}\t{hostname}" if domain else f"{ip}\t{hostname}"]
    if spec.get("hostNetwork"):
        lines = ["# Kubernetes-managed hosts file (host network).",
                 read_text("/etc/hosts").rstrip("\n")]
    if spec.get("hostAliases"):
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join([alias["ip"], *alias.get("hostnames", ())])
                  for alias in spec["hostAliases"]]
    if uses_cluster_dns(spec):
        for name, namespace, address in services:
            short = f"{name}.{namespace}" + (f" {name}" if namespace == own else "")
            full = f"{name}.{namespace}.svc"
            lines.append(f"{address}\t{full}.{CLUSTER_DOMAIN} {full} {short}")
    return "\n".join(lines) + "\n"

def resolv_conf(pod, settings, host=None):
    """What a pod's /etc/resolv.conf says; None where the engine writes it, from Dns, DnsSearch and
    DnsOptions. host: the text of the host's, if not to be read here."""
    if uses_cluster_dns(pod["spec"]) and not pod["spec"].get("hostNetwork"):
        return None
    servers, searches, options = dns_config(pod, settings,
                                            host_resolv_conf() if host is None else host)
    lines = [f"nameserver {server}\n" for server in servers]
    lines += [f"{word} {' '.join(values)}\n"
              for word, values in (("search", searches), ("options", options)) if values]
    return "".join(lines)

DNS_TYPES = {"A": 1, "CNAME": 5, "PTR": 12, "AAAA": 28, "SRV": 33, "ANY": 255}
FAMILIES = {DNS_TYPES["A"]: socket.AF_INET, DNS_TYPES["AAAA"]: socket.AF_INET6}
ALIASES = 4     # of an alias of an alias
NO_ERROR, NAME_ERROR, REFUSED = 0, 3, 5     # RFC 1035, 4.1.1

def dns_name(name):
    labels = [label[:63].encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"

def read_question(data):
    """(id, flags, number of additional records, name, type, end of the question) of a DNS query
    (RFC 1035, 4.1). Raises ValueError for what is none."""
    labels, at = [], 12
    try:
        id_, flags, questions, _, _, additional = struct.unpack_from("!6H", data)
        while data[at]:
            labels.append(data[at + 1:at + 1 + data[at]].decode("ascii"))
            at += 1 + data[at]
        type_, _ = struct.unpack_from("!2H", data, at + 1)
    except (struct.error, IndexError):                        # it ends too soon
        raise ValueError("cut off")
    if questions != 1 or flags & 0x8000 or any(len(label) > 63 for label in labels):
        raise ValueError("no query")
    return id_, flags, additional, ".".join(labels).lower(), type_, at + 5

def answer_dns(data, resolve, longest=0):
    """The answer to a query, None if it is none. resolve(name, type) -> (rcode, [records]);
    longest: how many bytes it may have, by TCP."""
    try:
        id_, flags, additional, name, type_, end = read_question(data)
    except ValueError:
        return None
    code, records = resolve(name, type_)
    # additional: EDNS
    limit = longest or (1232 if additional else 512)
    question, answers, count = data[12:end], b"", 0
    # of very many, a different choice each time; aliases come before what they stand for
    by_chance = random.sample(records, len(records))
    aliases = [each for each in records if each[1] == DNS_TYPES["CNAME"]]
    for owner, kind, rdata in aliases + [each for each in by_chance if each not in aliases]:
        more = dns_name(owner) + struct.pack("!HHIH", kind, 1, 5, len(rdata)) + rdata
        if 12 + len(question) + len(answers) + len(more) <= limit:
            answers, count = answers + more, count + 1
    cut_off = 0x0200 * (count < len(records))                   # TC: ask by TCP
    return (struct.pack("!6H", id_, 0x8400 | cut_off | flags & 0x0100 | code, 1, count, 0, 0) +
            question + answers)

def address_record(owner, ip):
    return owner, DNS_TYPES["AAAA" if ":" in ip else "A"], ipaddress.ip_address(ip).packed

class Elsewhere(Exception):
    """A name that only the host's resolver has, which takes a thread to ask."""

def not_here(name, type_):
    raise Elsewhere(name)

def from_host(name, type_):
    """The records of a name that is not ours. Blocks."""
    return [address_record(name, ip) for ip in host_addresses(name, FAMILIES[type_])]

class Names:
    """What names mean, by the store: for DNS and for the hosts files. Any thread."""
    def __init__(self, settings, store):
        self.settings, self.store = settings, store
        # counts changes of Services; what they were at a count
        self.changed, self.known = 0, (None, [])

    def services(self):
        """[(name, namespace, address)] of all Services with an address, and of pods that have a
        name below a Service's."""
        # read before the store is: a change meanwhile makes us look again
        if self.known[0] != self.changed:
            count, every = self.changed, self.store.list("Service")
            found = [(*key_of(s)[::-1], cluster_ip(s)) for s in every if cluster_ip(s)]
            for pod in self.store.list("Pod", holding=b'"subdomain"'):
                host, ip = pod["spec"].get("hostname"), dig(pod, "status.podIP")
                if host and ip and is_address(ip) and not has_ended(pod):
                    found.append((f"{host}.{pod['spec']['subdomain']}", key_of(pod)[0], ip))
            self.known = count, found
        return self.known[1]

    def write_hosts(self, pod):
        path = self.settings.pod_folder(uid_of(pod), "etc-hosts")
        make_folder(os.path.dirname(path))
        write_in_place(path, hosts_text(pod, self.services()), create=True)
        return path

    def resolve(self, name, type_, outside=not_here, left=ALIASES):
        """(rcode, records) for answer_dns; REFUSED makes the engine's resolver ask the host's.
        outside(name, type): the records of what an alias stands for outside the cluster."""
        if name.endswith(".in-addr.arpa"):
            return self.reverse(name)
        ours = name.endswith("." + CLUSTER_DOMAIN) or name == CLUSTER_DOMAIN
        parts = (name[:-len(CLUSTER_DOMAIN) - 1] if ours else name).split(".")
        if not ours and parts[-1] != "svc":
            parts.append("svc")     # "web.default": a short form, see dns_config()
        records = self.records(parts, name) if len(parts) > 2 else None
        if isinstance(records, str):
            alias = name, DNS_TYPES["CNAME"], dns_name(records)
            return NO_ERROR, [alias, *self.behind(records, type_, outside, left)]
        if records is not None:
            return NO_ERROR, [r for r in records if r[1] == type_ or type_ == DNS_TYPES["ANY"]]
        if not ours:
            return REFUSED, []
        return NO_ERROR if parts in ([""], ["svc"], ["svc", "svc"]) else NAME_ERROR, []

    def behind(self, name, type_, outside, left):
        """The records of what an alias stands for: a program's resolver does not ask for it itself
        (RFC 1034, 4.3.2)."""
        if type_ not in FAMILIES or not left:
            return []
        if name.endswith("." + CLUSTER_DOMAIN):
            return self.resolve(name, type_, outside, left - 1)[1]
        return outside(name, type_)

    def records(self, parts, name):
        """The records of PARTS under the cluster's domain, the name (str) that it is an alias of,
        or None if there is no such name."""
        *front, service_name, namespace, what = parts
        service = self.store.get("Service", namespace, service_name) if what == "svc" else None
        if not service:
            return None
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return None if front else spec["externalName"].rstrip(".").lower()
        if not front and spec["clusterIP"] != "None":
            return [address_record(name, spec["clusterIP"])]
        hosts = self.hosts_of(service)
        if not front:
            return [address_record(name, ip) for _, ip, _ in hosts]
        if len(front) == 1:
            return [address_record(name, ip) for host, ip, _ in hosts if host == front[0]] or None
        return self.port_records(service, hosts, front, name) or None

    @staticmethod
    def port_records(service, hosts, front, name):
        """The SRV records of a port, _NAME._PROTOCOL."""
        base, found = f"{name_of(service)}.{key_of(service)[0]}.svc.{CLUSTER_DOMAIN}", []
        targets = [(base, service["spec"])]
        if service["spec"]["clusterIP"] == "None":
            targets = [(f"{host}.{base}", subset) for host, _, subset in hosts]
        for target, having in targets:
            for port in having.get("ports", ()):
                named = [f"_{port.get('name')}", f"_{port.get('protocol', 'TCP').lower()}"]
                if "port" in port and front == named:
                    rdata = struct.pack("!HHH", 0, 100, port["port"]) + dns_name(target)
                    found.append((name, DNS_TYPES["SRV"], rdata))
        return found

    def hosts_of(self, service):
        """[(host name, address, the EndpointSlice it is in)] of the endpoints of a Service."""
        return [(endpoint.get("hostname") or ip.replace(".", "-").replace(":", "-"), ip, each)
                for each in slices_of(self.store, *key_of(service))
                for endpoint in each.get("endpoints", ())
                for ip in ready_addresses({"endpoints": [endpoint]})]

    def reverse(self, name):
        ip = ".".join(name.split(".")[-3::-1])
        ranges = (self.settings.pod_cidr, self.settings.service_cidr)
        owners = [f"{service}.{namespace}.svc.{CLUSTER_DOMAIN}"
                  for service, namespace, address in self.services() if address == ip]
        if owners:
            return NO_ERROR, [(name, DNS_TYPES["PTR"], dns_name(owner)) for owner in owners]
        ours = is_address(ip) and any(ipaddress.ip_address(ip) in network for network in ranges)
        return NAME_ERROR if ours else REFUSED, []

# == 33. Workloads ===========================================================================
# What makes pods: one function a kind, called by the controllers' thread (section 34) in one
# transaction. It reads the store, decides, writes; a second pass finds nothing to do. What is made
# goes through the same admission as a client's request.
WORKLOADS = ("Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet",
             "Job", "CronJob")
TRACKING, INDEX = "batch.kubernetes.io/job-tracking", "batch.kubernetes.io/job-completion-index"
INDEX_FAILURES = "batch.kubernetes.io/job-index-failure-count"
PENDING = 100               # pods of a namespace that wait for the node, before more are made
REPLACE_S = 5           # until a pod that was refused is made anew
CLOCK_DOUBT_S = 2 * 86400       # how far ahead a last schedule may be, after a clock was set back
REVISION, HASH_LABEL = "deployment.kubernetes.io/revision", "pod-template-hash"
REVISION_LABEL, DELETION_COST = ("controller-revision-hash",
                                 "controller.kubernetes.io/pod-deletion-cost")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
REVISION_HISTORY, DESIRED, MOST = (
    "deployment.kubernetes.io/" + each
    for each in ("revision-history", "desired-replicas", "max-replicas"))
# annotations that a Deployment does not share with its ReplicaSets
OF_SETS = (LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED, MOST)
COMPONENTS = {  # kind -> who tells its Events
    "ReplicationController": "replication-controller",
    **{kind: kind.lower() + "-controller" for kind in (
        "ReplicaSet", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")}}

def revision_of(rs):
    return int(annotation(rs, REVISION) or 0)

def available_in(pod, min_ready_s):
    """Seconds until a ready pod counts as available: 0 if it does, None if it is not ready."""
    ready = get_condition(pod, "Ready") if is_condition(pod, "Ready") else None
    return (ready and
            max(0, (seconds_of(ready["lastTransitionTime"]) or 0) + min_ready_s - time.time()))

def find_owner(store, ref, namespace):
    """The object an ownerReference means; None if it is gone, {} for a kind that we do not know:
    never ours to collect."""
    kind = kind_named(ref["apiVersion"], ref["kind"])
    if not kind:
        return {}
    obj = store.get(kind.id, namespace if kind.namespaced else "", ref["name"])
    return obj if obj and uid_of(obj) == ref["uid"] else None

class Controller:
    """What the controllers share."""
    def __init__(self, k2d, router):
        self.settings, self.store, self.writer = k2d.settings, k2d.store, k2d.writer
        self.engine = k2d.engine
        self.event, self.worker, self.network = k2d.event, k2d.worker, k2d.network
        self.names, self.node = k2d.names, k2d.node
        self.access, self.router, self.queue = k2d.access, router, router.queue

class Replicated(Controller):
    """What the controllers that make pods share: whose a pod is, how one is made and ended, and
    the revisions of their templates."""
    def pods_of(self, owner, every=False):
        """The pods of a workload, those that have ended too if every. Those without an owner that
        it selects become its own, and what it selects no longer is let go."""
        selector, uid = selector_of(owner["spec"]["selector"]), uid_of(owner)
        selected = list(self.store.list("Pod", key_of(owner)[0], selector))
        if not is_deleting(owner):
            self.adopt(owner, [pod for pod in selected if not controller_of(pod)])
            self.release(owner, selector)
        return [pod for pod in selected if dig(controller_of(pod), "uid") == uid and
                (every or not has_ended(pod))]

    def adopt(self, owner, orphans):
        for pod in orphans:
            if not is_deleting(pod) and not is_foreign(pod) and self.is_member(owner, pod):
                pod["metadata"].setdefault("ownerReferences", []).append(owner_reference(owner))
                self.store.put(pod)

    def release(self, owner, selector):
        for pod in self.owned_by(owner, "Pod"):
            if not selects(selector, labels_of(pod)):
                meta = pod["metadata"]
                meta["ownerReferences"] = [ref for ref in meta["ownerReferences"]
                                           if ref["uid"] != uid_of(owner)]
                self.store.put(pod)
                self.let_go([pod])

    def let_go(self, pods):
        """These pods of a Job are counted, or need not be."""
        for pod in pods:
            meta = pod["metadata"]
            if TRACKING in meta.get("finalizers", ()):
                meta["finalizers"] = [each for each in meta["finalizers"] if each != TRACKING]
                self.writer.settle(pod)

    def owned_by(self, owner, kind):
        """The objects of a kind that an object controls."""
        found = self.router.garbage.dependents(uid_of(owner), key_of(owner)[0])
        return [obj for obj, _ in found if obj["kind"] == kind and
                dig(controller_of(obj), "uid") == uid_of(owner)]

    @staticmethod
    def is_member(owner, obj):
        """Whether what has no owner can be one of a workload's by its name."""
        return True

    def tell(self, owner, *words):
        self.event(owner, *words, component=COMPONENTS[owner["kind"]])

    def make_pod(self, owner, template, spec=None, **meta):
        """One more pod of a workload. Raises ApiError, which its Events tell."""
        labels = {**labels_of(template), **meta.pop("labels", {})}
        notes = {**dig(template, "metadata.annotations", {}), **meta.pop("annotations", {})}
        whole = {"ownerReferences": [owner_reference(owner)], "labels": labels,
                 "annotations": notes, **meta}
        namespace = key_of(owner)[0]
        waiting = sum(where == namespace for where, _ in self.router.scheduling.waiting)
        try:
            if waiting > PENDING:
                raise ApiError(429, "TooManyRequests", f"{waiting} pods of {namespace} wait for "
                               "room on the node already")
            pod = self.writer.create(KIND["Pod"], namespace,
                                     {"metadata": whole, "spec": spec or template["spec"]})
        except ApiError as error:
            # without the random end of a name, as the API server says it: a text that stays does
            # not wake us again
            base = name_of(owner)
            text = re.sub(rf'"{base}-[^"]*"', f'"{base}-"', str(error))
            self.tell(owner, "Warning", "FailedCreate", f"Error creating: {text}")
            raise ApiError(error.code, error.status["reason"], text)
        self.tell(owner, "Normal", "SuccessfulCreate", f"Created pod: {name_of(pod)}")
        return pod

    def end_pod(self, owner, pod):
        self.writer.delete(pod)
        self.tell(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    def end_once(self, owner, pod):
        if not is_deleting(pod):
            self.end_pod(owner, pod)

    def end_ended(self, owner, pod):
        """End a pod that has ended, for another in its place, which may be refused as it was."""
        left = ended_at(pod) + REPLACE_S - time.time()
        if left <= 0:
            self.end_once(owner, pod)
        self.look_later(owner, [max(left, 0)])

    def look_later(self, owner, waits):
        """Come back when the first of these seconds are over; None and 0 are none."""
        later = [wait + 0.05 for wait in waits if wait]
        if later:
            self.queue.add_after(min(later), (owner["kind"], *key_of(owner)))

    def revisions(self, owner):
        """(the ControllerRevisions of a workload, the latest last; that of its present template,
        which is made if there is none)."""
        meta, number = owner["metadata"], lambda revision: revision["revision"]
        data = {"spec": {"template": {**owner["spec"]["template"], "$patch": "replace"}}}
        data = json.loads(json.dumps(data, sort_keys=True))     # clients compare it as text
        found = self.owned_by(owner, "ControllerRevision")
        selector = selector_of(owner["spec"]["selector"])
        revisions = self.store.list("ControllerRevision", meta["namespace"], selector)
        orphans = [each for each in revisions if not controller_of(each)]
        self.adopt(owner, orphans)
        found += filter(controller_of, orphans)
        last = max(map(number, found), default=0)
        present = next((each for each in found if each["data"] == data), None)
        if not present:
            hash_ = safe_hash([data, meta["uid"]])
            notes = without(meta.get("annotations", {}), LAST_APPLIED, TEMPLATE_COUNT)
            present = self.writer.create(
                KIND["ControllerRevision"], meta["namespace"],
                {"metadata": {"name": f"{meta['name']}-{hash_}", "annotations": notes,
                              "labels": {**labels_of(owner["spec"]["template"]),
                                         REVISION_LABEL: hash_},
                              "ownerReferences": [owner_reference(owner)]},
                 "data": data, "revision": last + 1})
            found.append(present)
        elif number(present) < last:                            # an earlier template again
            present["revision"] = last + 1
            self.store.put(present)
        return sorted(found, key=number), present

    def drop_revisions(self, owner, history, used):
        """Keep the revisions in use, and so many of the others as the workload wants."""
        others = [each for each in history if name_of(each) not in used]
        limit = owner["spec"].get("revisionHistoryLimit", 10)
        for each in others[:max(0, len(others) - limit)]:
            self.writer.delete(each)

class Workloads(Replicated):
    """ReplicaSets, ReplicationControllers, Deployments, PodDisruptionBudgets."""
    def replica_set(self, rs, namespace, name):
        spec, every = rs["spec"], self.pods_of(rs, True)
        pods = [pod for pod in every if not has_ended(pod)]
        active = [pod for pod in pods if not is_deleting(pod)]
        pause = lately_failed(every) if len(active) < replicas_of(rs) else 0
        failure = None
        if not is_deleting(rs) and not pause:
            failure = self.scale_pods(rs, active, replicas_of(rs))
        waits = [available_in(pod, spec.get("minReadySeconds", 0)) for pod in active]
        self.look_later(rs, [*waits, pause, failure and 10])
        wanted = labels_of(spec["template"]).items()
        labelled = sum(wanted <= labels_of(pod).items() for pod in active)
        counts = filled(fullyLabeledReplicas=labelled,
                        readyReplicas=len(waits) - waits.count(None),
                        availableReplicas=waits.count(0))
        if rs["kind"] == "ReplicaSet":
            counts["terminatingReplicas"] = len(pods) - len(active)
        failed = [condition(dig(rs, "status.conditions"), "ReplicaFailure", "True", "FailedCreate",
                            failure)]
        rs["status"] = {"replicas": len(active), **counts,
                        "observedGeneration": rs["metadata"]["generation"],
                        **filled(conditions=failure and failed)}
        self.store.put(rs)

    def scale_pods(self, owner, pods, replicas):
        """Create or delete until there are so many; returns why one could not be made, or None."""
        template, surplus = owner["spec"]["template"], len(pods) - replicas
        # what is made brings us back, for more: others may write between
        for _ in range(min(-surplus, 50)):
            try:
                pods.append(self.make_pod(owner, template, generateName=name_of(owner) + "-"))
            except ApiError as error:
                return str(error)
        if surplus > 0:     # the least useful first
            pods.sort(key=usefulness)
            for pod in pods[:surplus]:
                self.end_pod(owner, pod)
            del pods[:surplus]

    def deployment(self, d, namespace, name):
        if is_deleting(d):
            return
        sets = self.sets_of(d)
        new = self.new_replica_set(d, sets)
        old = [rs for rs in sets if rs is not new]
        is_scaled = any(replicas_of(rs) and annotation(rs, DESIRED) not in (
            None, str(replicas_of(d))) for rs in sets)
        if d["spec"].get("paused") or is_scaled:
            self.scale_sets(d, new, old)
        else:
            self.roll(d, new, old)
        self.deployment_status(d, new, old)

    def sets_of(self, d):
        """The ReplicaSets of a Deployment, the oldest first; those without an owner that it
        selects become its own."""
        namespace, uid, selector = key_of(d)[0], uid_of(d), selector_of(d["spec"]["selector"])
        sets = list(self.store.list("ReplicaSet", namespace, selector))
        for rs in [rs for rs in sets if not controller_of(rs) and not is_deleting(rs)]:
            rs["metadata"].setdefault("ownerReferences", []).append(owner_reference(d))
            self.store.put(rs)
        return sorted((rs for rs in sets if dig(controller_of(rs), "uid") == uid),
                      key=lambda rs: rs["metadata"]["creationTimestamp"])

    def new_replica_set(self, d, sets):
        """The ReplicaSet of the present template, made if there is none; revisions in order."""
        meta, spec = d["metadata"], d["spec"]
        template, ready_s = bare_template(spec["template"]), spec.get("minReadySeconds", 0)
        last = max(map(revision_of, sets), default=0)
        new = next((rs for rs in sets if bare_template(rs["spec"]["template"]) == template), None)
        if not new and spec.get("paused"):
            return None
        if not new:
            new = self.make_replica_set(d, template, last + 1)
            sets.append(new)
        notes = new["metadata"].setdefault("annotations", {})
        if revision_of(new) < last or REVISION not in notes:    # an earlier template again
            past = filter(None, (notes.get(REVISION_HISTORY), notes.get(REVISION)))
            notes.update(filled(**{REVISION_HISTORY: ",".join(past)}))
            notes[REVISION] = str(last + 1)
        # the cause of the change, say, also when it is told later
        notes.update(without(meta.get("annotations", {}), *OF_SETS))
        meta.setdefault("annotations", {})[REVISION] = notes[REVISION]
        if new["spec"].get("minReadySeconds", 0) != ready_s:
            new["spec"]["minReadySeconds"] = ready_s
        self.store.put(new)
        return new

    def make_replica_set(self, d, template, revision):
        meta, spec = d["metadata"], d["spec"]
        hash_ = safe_hash(template)
        if self.store.row("ReplicaSet", (meta["namespace"], f"{meta['name']}-{hash_}")):
            hash_ = safe_hash([template, meta["uid"]])          # that one is not ours, or goes
        labels = template["metadata"]["labels"]
        labels[HASH_LABEL] = hash_
        selector = {**spec["selector"],
                    "matchLabels": {**spec["selector"].get("matchLabels", {}), HASH_LABEL: hash_}}
        return self.writer.create(
            KIND["ReplicaSet"], meta["namespace"],
            {"metadata": {"name": f"{meta['name']}-{hash_}", "labels": labels,
                          "annotations": {REVISION: str(revision)},
                          "ownerReferences": [owner_reference(d)]},
             "spec": {"replicas": 0, "minReadySeconds": spec.get("minReadySeconds", 0),
                      "selector": selector, "template": template}})

    def set_replicas(self, d, rs, count):
        """Scale a ReplicaSet; it tells for which size of the whole that was."""
        before, wanted = replicas_of(rs), replicas_of(d)
        notes = rs["metadata"].setdefault("annotations", {})
        notes.update({DESIRED: str(wanted), MOST: str(wanted + rolling_limits(d)[0])})
        if before != count:
            rs["spec"]["replicas"] = count
            rs["metadata"]["generation"] += 1
        self.store.put(rs)
        if before != count:
            self.tell(d, "Normal", "ScalingReplicaSet",
                      f"Scaled {'up' if count > before else 'down'} replica set {name_of(rs)} "
                      f"from {before} to {count}")

    def scale_sets(self, d, new, old):
        """Have the whole of another size, or while it is paused: of several ReplicaSets each keeps
        its share (deployment controller, scale)."""
        wanted = replicas_of(d)
        active = [rs for rs in [*old, *filter(None, [new])] if replicas_of(rs)]
        if len(active) < 2:
            the_one = active or [each for each in (new, *reversed(old)) if each][:1]
            for rs in the_one:
                self.set_replicas(d, rs, wanted)
        elif new and replicas_of(new) == wanted == dig(new, "status.availableReplicas"):
            for rs in old:
                self.set_replicas(d, rs, 0)
        elif d["spec"]["strategy"]["type"] == "RollingUpdate":
            for rs, count in shares(d, active):
                self.set_replicas(d, rs, count)

    def roll(self, d, new, old):
        """One step of a rollout, as the deployment controller's rolloutRolling and
        rolloutRecreate."""
        replicas, present, (surge, unavailable) = (replicas_of(d), replicas_of(new),
                                                   rolling_limits(d))
        if d["spec"]["strategy"]["type"] == "Recreate":
            return self.recreate(d, new, old)
        room = replicas + surge - sum(map(replicas_of, old)) - present
        self.set_replicas(d, new, min(replicas, present + max(0, room)))
        if replicas_of(new) != present:
            return                                              # its status comes first
        available = lambda rs: dig(rs, "status.availableReplicas", 0)
        least = replicas - unavailable
        may_go = sum(map(replicas_of, old)) + available(new) - least
        for only_unavailable in (True, False):                 # first those that serve nobody
            for rs in old:
                if not only_unavailable:
                    may_go = min(may_go, sum(map(available, [new, *old])) - least)
                step = max(
                    0, min(replicas_of(rs) - (available(rs) if only_unavailable else 0), may_go))
                self.set_replicas(d, rs, replicas_of(rs) - step)
                may_go -= step

    def recreate(self, d, new, old):
        for rs in old:
            self.set_replicas(d, rs, 0)
        owners = {uid_of(rs) for rs in old}
        pods = self.store.list("Pod", d["metadata"]["namespace"],
                               selector_of(d["spec"]["selector"]))
        if not any(dig(controller_of(pod), "uid") in owners and not has_ended(pod)
                   for pod in pods):
            self.set_replicas(d, new, replicas_of(d))

    def deployment_status(self, d, new, old):
        """Write what follows from the ReplicaSets; look again at the deadline; drop revisions
        beyond the limit."""
        spec, present = d["spec"], [new] if new else []
        sets, replicas = [*old, *present], replicas_of(d)
        deadline = spec.get("progressDeadlineSeconds", 600)
        add = lambda field, among=sets: sum(dig(rs, f"status.{field}", 0) for rs in among)
        total, updated = add("replicas"), add("replicas", present)
        available = add("availableReplicas")
        status = {"observedGeneration": d["metadata"]["generation"], "replicas": total,
                  "updatedReplicas": updated, "readyReplicas": add("readyReplicas"),
                  "availableReplicas": available,
                  "unavailableReplicas": max(0, sum(map(replicas_of, sets)) - available),
                  "terminatingReplicas": add("terminatingReplicas")}
        complete = updated == replicas == total == available
        enough = available >= replicas - rolling_limits(d)[1]
        conditions = status["conditions"] = deployment_conditions(d, new, sets, status, complete,
                                                                  enough)
        d["status"] = {key: value for key, value in status.items() if value or
                       key == "terminatingReplicas"}
        if complete:
            self.drop_old_sets(d, old)
        self.store.put(d)
        progress = conditions[1]
        goes_on = progress["reason"] in ("ReplicaSetUpdated", "DeploymentResumed")
        if goes_on and deadline < 2 ** 31 - 1:
            self.queue.add_after(deadline - late_s(progress) + 0.1, ("Deployment", *key_of(d)))

    def drop_old_sets(self, d, old):
        empty_sets = [rs for rs in old if not replicas_of(rs) and
                      not dig(rs, "status.replicas") and not is_deleting(rs)]
        empty_sets.sort(key=revision_of)
        for rs in empty_sets[:max(0, len(empty_sets) - d["spec"].get("revisionHistoryLimit", 10))]:
            self.writer.delete(rs)

    def budget(self, pdb, namespace, name):
        """How many pods may be evicted now (KEP-85; pkg/controller/disruption)."""
        spec, generation = pdb["spec"], pdb["metadata"]["generation"]
        pods = [pod for pod in self.store.list("Pod", namespace)
                if is_selected(spec.get("selector"), pod) and not has_ended(pod)]
        healthy = sum(is_condition(pod, "Ready") and not is_deleting(pod) for pod in pods)
        refs = {ref["uid"]: ref for ref in filter(None, map(controller_of, pods))}
        owners = [find_owner(self.store, ref, namespace) for ref in refs.values()]
        scale = sum(replicas_of(owner) for owner in owners if owner and "spec" in owner)
        least, most = spec.get("minAvailable"), spec.get("maxUnavailable", 0)
        expected = len(pods) if isinstance(least, int) else scale
        if least is not None:
            wanted = resolve_count(least, expected, True)
        else:
            wanted = max(0, expected - resolve_count(most, expected, True))
        allowed = max(0, healthy - wanted) if expected else 0
        told = condition(dig(pdb, "status.conditions"), "DisruptionAllowed", str(allowed > 0),
                         "SufficientPods" if allowed else "InsufficientPods",
                         observedGeneration=generation)
        pdb["status"] = {"observedGeneration": generation, "disruptionsAllowed": allowed,
                         "currentHealthy": healthy, "desiredHealthy": wanted,
                         "expectedPods": expected, "conditions": [{**told, "message": ""}],
                         **pick(pdb.get("status", {}), ("disruptedPods",))}
        self.store.put(pdb)

def usefulness(pod):
    """The order in which pods go when there are too many: the least useful first (controller
    package, ActivePodsWithRanks)."""
    phases, ready = ("Pending", "Unknown", "Running"), get_condition(pod, "Ready")
    phase, cost = dig(pod, "status.phase", "Pending"), annotation(pod, DELETION_COST) or ""
    restarts_ = sum(each["restartCount"] for each in dig(pod, "status.containerStatuses", ()))
    is_up = is_condition(pod, "Ready")
    since = seconds_of(dig(ready, "lastTransitionTime")) if is_up else 0
    return (bool(pod["spec"].get("nodeName")),
            phases.index(phase) if phase in phases else -1, is_up,
            int(cost) if re.fullmatch(r"-?\d{1,10}", cost) else 0, -(since or 0), -restarts_,
            -(seconds_of(pod["metadata"]["creationTimestamp"]) or 0), name_of(pod))

def bare_template(template):
    """A pod template without the label that tells its hash."""
    labels = without(labels_of(template), HASH_LABEL)
    return {**template, "metadata": {**template["metadata"], "labels": labels}}

def rolling_limits(d):
    """(maxSurge, maxUnavailable) of a Deployment as numbers; both zero would never roll."""
    rolling, replicas = d["spec"]["strategy"].get("rollingUpdate"), replicas_of(d)
    if not rolling:                                             # Recreate
        return 0, 0
    surge = resolve_count(rolling["maxSurge"], replicas, True)
    unavailable = resolve_count(rolling["maxUnavailable"], replicas, False)
    return surge, min(max(unavailable, 0 if surge else 1), replicas)

def shares(d, active):
    """[(ReplicaSet, its size)] when the size of the whole changes in the middle of a rollout: in
    proportion, what is left over goes to the largest, of equal ones to the newest."""
    wanted, surge = replicas_of(d), rolling_limits(d)[0]
    most = wanted + surge if wanted else 0
    left = most - sum(map(replicas_of, active))
    by_age = sorted(active, key=lambda rs: rs["metadata"]["creationTimestamp"], reverse=left > 0)
    ranked, sizes = sorted(by_age, key=replicas_of, reverse=True), {}
    for rs in ranked:
        size, before = replicas_of(rs), int(annotation(rs, MOST) or most)
        share = round(size * (wanted + surge) / max(before, 1)) - size if wanted else -size
        step = max(min(share, left), 0) if left > 0 else min(max(share, left), 0)
        sizes[name_of(rs)] = size + step
        left -= step
    if ranked:
        sizes[name_of(ranked[0])] = max(0, sizes[name_of(ranked[0])] + left)
    return [(rs, sizes[name_of(rs)]) for rs in ranked]

def has_moved(status, before):
    """Whether a Deployment has come on from one status to another."""
    outdated = lambda status: status.get("replicas", 0) - status.get("updatedReplicas", 0)
    grown = ("updatedReplicas", "readyReplicas", "availableReplicas")
    return (outdated(status) < outdated(before) or
            any(status[key] > before.get(key, 0) for key in grown))

def progress_of(d, new, moved, complete, status):
    """(status, reason, message) of the condition Progressing."""
    spec, was, subject = d["spec"], get_condition(d, "Progressing") or {}, new or d
    subject, before = f'{subject["kind"]} "{name_of(subject)}"', was.get("reason")
    as_it_was = was.get("status"), before, was.get("message", "")
    if spec.get("paused"):
        return (as_it_was if before == "ProgressDeadlineExceeded" else
                ("Unknown", "DeploymentPaused", "Deployment is paused"))
    if complete:
        return "True", "NewReplicaSetAvailable", subject + " has successfully progressed."
    if before == "DeploymentPaused":
        return "Unknown", "DeploymentResumed", "Deployment is resumed"
    is_rolled = before == "NewReplicaSetAvailable"
    if is_rolled and status["replicas"] == status["updatedReplicas"]:
        return as_it_was        # a pod that falls ill is no rollout
    if moved or is_rolled:
        return "True", "ReplicaSetUpdated", subject + " is progressing."
    if late_s(was) >= spec.get("progressDeadlineSeconds", 600):
        return "False", "ProgressDeadlineExceeded", subject + " has timed out progressing."
    return as_it_was

def deployment_conditions(d, new, sets, status, complete, enough):
    """Available, Progressing and, where a pod could not be made, ReplicaFailure, by the status
    before and to be."""
    before = d.get("status", {})
    old = before.get("conditions", [])
    moved = not get_condition(d, "Progressing") or has_moved(status, before)
    able = (("MinimumReplicasAvailable", "has") if enough
            else ("MinimumReplicasUnavailable", "does not have"))
    failures = list(filter(None, (get_condition(rs, "ReplicaFailure") for rs in sets)))
    wanted = [condition(old, "Available", str(enough), able[0],
                        f"Deployment {able[1]} minimum availability."),
              condition(old, "Progressing", *progress_of(d, new, moved, complete, status)),
              *(condition(old, c["type"], "True", c["reason"], c["message"])
                for c in failures[:1])]
    for each in wanted:     # lastUpdateTime moves with the reason, or with progress
        keys = ("type", "reason", "status")
        same = next((c for c in old if pick(c, keys) == pick(each, keys)), None)
        anew = not same or each["type"] == "Progressing" and moved and not complete
        each["lastUpdateTime"] = now() if anew else same["lastUpdateTime"]
    return wanted

def late_s(progress):
    """Seconds since a Deployment last made progress, by its condition."""
    return time.time() - (seconds_of(progress.get("lastUpdateTime")) or time.time())

class Members(Replicated):
    """StatefulSets (pkg/controller/statefulset) and DaemonSets (pkg/controller/daemon), whose one
    node is this one."""
    @staticmethod
    def is_member(owner, obj):
        return (owner["kind"] == "DaemonSet" or obj["kind"] != "Pod" or
                ordinal_of(owner, obj) is not None)

    def stateful_set(self, ss, namespace, name):
        if is_deleting(ss):
            return
        spec, status, (history, update) = ss["spec"], ss["status"], self.revisions(ss)
        current = next((each for each in history
                        if name_of(each) == status.get("currentRevision")), update)
        pods = {ordinal_of(ss, pod): pod for pod in self.pods_of(ss, True)}
        pods.pop(None, None)
        failure = None
        try:
            for i in [i for i in self.wanted(ss) if i in pods and not is_deleting(pods[i])]:
                self.keep_claims(ss, i)
            self.step(ss, pods, current, update)
        except ApiError as error:
            failure = str(error)
        ready_s = spec.get("minReadySeconds", 0)
        waits = {i: available_in(pod, ready_s) for i, pod in pods.items()}
        self.look_later(ss, [*waits.values(), failure and 10])
        ss["status"] = self.stateful_status(ss, pods, waits, name_of(current), name_of(update))
        used = {labels_of(pod).get(REVISION_LABEL) for pod in pods.values()}
        self.drop_revisions(ss, history, {*used, name_of(current), name_of(update)})
        self.store.put(ss)

    def step(self, ss, pods, current, update):
        """Bring {ordinal: pod} on: make what is missing, end what is too many, then what is of an
        old revision. Raises ApiError."""
        spec, strategy = ss["spec"], ss["spec"]["updateStrategy"]
        wanted, is_rolling = self.wanted(ss), strategy["type"] == "RollingUpdate"
        # those before it keep their revision
        part = wanted.start + (dig(strategy, "rollingUpdate.partition", 0) if is_rolling else 0)
        is_ordered = spec["podManagementPolicy"] == "OrderedReady"
        revisions = {i: current if i < part else update for i in wanted}
        if (self.is_filled(ss, pods, revisions, is_ordered) and
                self.is_trimmed(ss, pods, wanted, is_ordered) and is_rolling):
            self.replace_old(ss, pods, range(part, wanted.stop), update)

    @staticmethod
    def wanted(ss):
        """The ordinals that a StatefulSet wants."""
        begin = dig(ss["spec"], "ordinals.start", 0)
        return range(begin, begin + replicas_of(ss))

    def is_filled(self, ss, pods, revisions, is_ordered):
        """Make the pods that are missing; if they come in order, each waits for those before it.
        Returns whether all are there."""
        for i, revision in revisions.items():
            pod = pods.get(i)
            if not pod:
                pods[i] = self.make_member(ss, i, revision)
            elif has_ended(pod):
                self.end_ended(ss, pod)                         # the next one has its name
            if is_ordered and not self.is_up(ss, pod):
                return False
        return True

    def is_trimmed(self, ss, pods, wanted, is_ordered):
        """End the pods that are too many, the last first; in order none goes while one before it
        does not serve. Returns whether none is left."""
        surplus = sorted(set(pods) - set(wanted), reverse=True)
        sick = [i for i, pod in pods.items() if not self.is_up(ss, pod)] if is_ordered else []
        for i in surplus[:1] if is_ordered else surplus:
            is_blocked = i in sick and i != min(sick)
            if not is_deleting(pods[i]) and not is_blocked:
                self.keep_claims(ss, i, pods[i])
                self.end_pod(ss, pods[i])
        return not surplus

    def replace_old(self, ss, pods, ordinals, update):
        """End one pod of an old revision, the last first, once those after it serve."""
        for i in reversed(ordinals):
            is_old = labels_of(pods[i]).get(REVISION_LABEL) != name_of(update)
            if is_old and not is_deleting(pods[i]):
                return self.end_pod(ss, pods[i])
            if not self.is_up(ss, pods[i]):
                return

    @staticmethod
    def is_up(ss, pod):
        """Whether a pod is there to stay, and serves: then the next one may come."""
        ready_s = ss["spec"].get("minReadySeconds", 0)
        return bool(pod) and not is_deleting(pod) and available_in(pod, ready_s) == 0

    def make_member(self, ss, ordinal, revision):
        """The pod of an ordinal by a revision, and its claims. Raises ApiError."""
        template, name = revision["data"]["spec"]["template"], f"{name_of(ss)}-{ordinal}"
        claims = {each: f"{each}-{name}" for each in map(name_of, claim_templates(ss))}
        self.keep_claims(ss, ordinal)
        for claim in claims.values():
            found = self.store.get("PersistentVolumeClaim", key_of(ss)[0], claim)
            if is_deleting(found):
                raise ApiError(409, "Conflict", f'persistentvolumeclaim "{claim}" goes')
        others = [v for v in template["spec"].get("volumes", ()) if v["name"] not in claims]
        volumes = [{"name": volume, "persistentVolumeClaim": {"claimName": claim}}
                   for volume, claim in claims.items()]
        spec = {**template["spec"], "hostname": name, "subdomain": ss["spec"]["serviceName"],
                **filled(volumes=others + volumes)}
        return self.make_pod(ss, template, spec, name=name, labels={
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(ordinal), REVISION_LABEL: name_of(revision)})

    def keep_claims(self, ss, ordinal, condemned=None):
        """Have the claims of an ordinal, owned by whom they are to go with: by
        persistentVolumeClaimRetentionPolicy the set, or a pod that is one too many (KEP-1847).
        Raises ApiError."""
        namespace, policy = key_of(ss)[0], ss["spec"]["persistentVolumeClaimRetentionPolicy"]
        owners = [owner_reference(ss)] if policy["whenDeleted"] == "Delete" else []
        if condemned and policy["whenScaled"] == "Delete":
            owners = [without(owner_reference(condemned), "controller", "blockOwnerDeletion")]
        for template in claim_templates(ss):
            name = f"{name_of(template)}-{name_of(ss)}-{ordinal}"
            claim = self.store.get("PersistentVolumeClaim", namespace, name)
            if claim:
                refs = claim["metadata"].get("ownerReferences", ())
                others = [ref for ref in refs if ref["kind"] not in ("StatefulSet", "Pod")]
                claim["metadata"]["ownerReferences"] = others + owners
                self.store.put(claim)
            elif not condemned:
                labels = {**labels_of(template), **ss["spec"]["selector"].get("matchLabels", {})}
                meta = {**pick(template["metadata"], ("annotations",)), "name": name,
                        "labels": labels, "ownerReferences": owners}
                self.writer.create(KIND["PersistentVolumeClaim"], namespace,
                                   {"metadata": meta, "spec": template["spec"]})

    @staticmethod
    def stateful_status(ss, pods, waits, current, update):
        of = lambda name: sum(labels_of(pod).get(REVISION_LABEL) == name and not is_deleting(pod)
                              for pod in pods.values())
        ready = sum(wait is not None for wait in waits.values())
        is_rolling = ss["spec"]["updateStrategy"]["type"] == "RollingUpdate"
        if is_rolling and of(update) == ready == len(pods) == replicas_of(ss):
            current = update                                # the rollout is complete
        counts = filled(readyReplicas=ready, currentReplicas=of(current),
                        updatedReplicas=of(update))
        return {"observedGeneration": ss["metadata"]["generation"], "replicas": len(pods),
                **counts, "availableReplicas": list(waits.values()).count(0),
                "currentRevision": current, "updateRevision": update, "collisionCount": 0}

    # -- DaemonSet
    def daemon_set(self, ds, namespace, name):
        if is_deleting(ds):
            return
        (history, update), ours = self.revisions(ds), self.settings.node
        node, hash_ = self.store.get("Node", "", ours), labels_of(update)[REVISION_LABEL]
        template = daemon_template(ds["spec"]["template"], ours)
        probe = {"spec": template["spec"], "metadata": {"name": ""}}
        belongs = bool(node) and is_wanted(probe, node)
        runs, failure = belongs and not is_repelled(probe, node), None
        pods = self.pods_of(ds, True)
        try:
            pods += self.place_daemon(ds, template, hash_, pods, belongs, runs)
        except ApiError as error:
            failure = str(error)
        alive = [pod for pod in pods if not is_deleting(pod)]
        waits = [available_in(pod, ds["spec"].get("minReadySeconds", 0)) for pod in alive]
        self.look_later(ds, [*waits, failure and 10])
        ds["status"] = daemon_status(ds, alive, waits, hash_, int(runs))
        hashes = {hash_, *(labels_of(pod).get(REVISION_LABEL) for pod in pods)}
        used = {name_of(each) for each in history if labels_of(each)[REVISION_LABEL] in hashes}
        self.drop_revisions(ds, history, used)
        self.store.put(ds)

    def place_daemon(self, ds, template, hash_, pods, belongs, runs):
        """End what has ended, or does not belong here; bring what runs here on. Returns the pods
        made. Raises ApiError."""
        for pod in [pod for pod in pods if has_ended(pod) or not belongs]:
            if belongs:
                self.end_ended(ds, pod)
            else:
                self.end_once(ds, pod)
        return self.replace_daemon(ds, template, hash_, pods) if runs else []

    def replace_daemon(self, ds, template, hash_, pods):
        """One step towards one pod of the present revision; returns those made. Raises
        ApiError."""
        spec, strategy = ds["spec"], ds["spec"]["updateStrategy"]
        old, new = [], []
        for pod in pods:
            (new if labels_of(pod).get(REVISION_LABEL) == hash_ else old).append(pod)
        rolling = strategy.get("rollingUpdate", {}) if strategy["type"] == "RollingUpdate" else {}
        surge = bool(resolve_count(rolling.get("maxSurge", 0), 1, True))
        is_up = lambda pod: available_in(pod, spec.get("minReadySeconds", 0)) == 0
        due = [pod for pod in old if not is_deleting(pod) and strategy["type"] == "RollingUpdate"]
        for pod in due:
            if not surge or any(map(is_up, new)) or not is_up(pod):
                self.end_pod(ds, pod)
        if pods and not (surge and due and not new):        # the old one has yet to go
            return []
        return [self.make_pod(ds, template, generateName=name_of(ds) + "-",
                              labels={REVISION_LABEL: hash_})]

def ordinal_of(ss, pod):
    """The number of a StatefulSet's pod, by its name; None for a name that is no such."""
    found = re.fullmatch(re.escape(name_of(ss)) + r"-(\d{1,9})", name_of(pod))
    return int(found[1]) if found else None

def claim_templates(ss):
    return ss["spec"].get("volumeClaimTemplates", ())

DAEMON_TOLERATIONS = [("not-ready", "NoExecute"), ("unreachable", "NoExecute"),
                      *((trouble, "NoSchedule") for trouble in (
                          "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"))]

def daemon_template(template, node):
    """A pod template that goes to one node alone, whatever trouble that has."""
    spec = json.loads(dumps(template["spec"]))
    tolerations = spec.setdefault("tolerations", [])
    for trouble, effect in DAEMON_TOLERATIONS:
        tolerations.append({"key": "node.kubernetes.io/" + trouble, "operator": "Exists",
                            "effect": effect})
    field = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    terms = dig(affinity, "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms")
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [
        {**term, "matchFields": field} for term in terms or [{}]]}
    return {**template, "spec": spec}

def daemon_status(ds, alive, waits, hash_, wanted):
    """The status of a DaemonSet; wanted: on how many nodes it is to run, 1 or 0."""
    new = [pod for pod in alive if labels_of(pod).get(REVISION_LABEL) == hash_]
    available = min(waits.count(0), wanted)
    return {"observedGeneration": ds["metadata"]["generation"],
            "desiredNumberScheduled": wanted,
            "currentNumberScheduled": min(len(alive), wanted),
            "numberMisscheduled": 0 if wanted else len(alive),
            "numberReady": min(len(waits) - waits.count(None), wanted),
            **filled(updatedNumberScheduled=min(len(new), wanted), numberAvailable=available,
                     numberUnavailable=wanted - available)}

class Jobs(Replicated):
    """Jobs (pkg/controller/job). The end of a pod is counted, and the pod let go, in one
    transaction: none is lost, or counted twice."""
    def job(self, job, namespace, name):
        if not job or is_deleting(job):
            return self.let_go(self.of_name(namespace, name))
        pods = self.pods_of(job, True)
        self.let_go(self.of_name(namespace, name, uid_of(job)))
        if finished(job):
            return self.after_end(job, pods)
        self.tell_suspension(job)
        recount(job)
        set_verdict(job, self.count_ends(job, pods) or judge(job, pods))
        is_over, failure = bool(target_of(job)), None
        if is_over or job["spec"]["suspend"]:
            end = self.end_once if is_over else self.end_untold     # the first count as failed
            for pod in filter(is_active, pods):
                end(job, pod)
        else:
            failure = self.fill_up(job, pods)
        alive = [pod for pod in self.pods_of(job) if not has_ended(pod)]
        if is_over and not alive:
            self.end(job)
        active = sum(map(is_active, alive))
        job["status"] = {**without(job["status"], "active"), **filled(active=active),
                         "terminating": len(alive) - active,
                         "ready": sum(is_condition(pod, "Ready") for pod in alive),
                         "uncountedTerminatedPods": {}}
        self.look_later(job, [deadline_in(job), failure and 10])
        self.store.put(job)

    def of_name(self, namespace, name, uid=None):
        """The pods that a Job of a name has left, or leaves; but for those of the Job of a uid."""
        for pod in self.store.list("Pod", namespace, holding=TRACKING.encode()):
            owner = controller_of(pod) or {}
            is_named = (owner.get("kind"), owner.get("name")) == ("Job", name)
            if is_named and owner["uid"] != uid:
                yield pod

    def end_untold(self, job, pod):
        """End a pod that shall not count as failed."""
        self.let_go([pod])
        self.end_pod(job, pod)

    def count_ends(self, job, pods):
        """Count the pods that have ended since, and let them go; returns the verdict of a
        podFailurePolicy, (type, reason, message), or None."""
        spec, verdict = job["spec"], None
        for pod in pods:
            never_placed = not pod["spec"].get("nodeName")      # nobody will say that it failed
            is_lost = dig(pod, "status.phase") == "Failed" or is_deleting(pod) and (
                never_placed or spec["podReplacementPolicy"] != "Failed")
            if TRACKING not in pod["metadata"].get("finalizers", ()):
                continue
            if dig(pod, "status.phase") == "Succeeded":
                count_success(job, index_of(pod))
            elif is_lost:
                verdict = count_failure(job, pod) or verdict
            else:
                continue
            self.let_go([pod])
        return verdict

    def fill_up(self, job, pods):
        """Make pods until as many run as should, or end what is too many; returns why one could
        not be made, or None."""
        spec, succeeded = job["spec"], job["status"].get("succeeded", 0)
        active = list(filter(is_active, pods))
        held = [pod for pod in pods if not has_ended(pod) and
                (is_active(pod) or spec["podReplacementPolicy"] == "Failed")]
        wanted = spec["parallelism"]
        if "completions" in spec:
            wanted = min(wanted, spec["completions"] - succeeded)
        elif succeeded:
            wanted = len(active)                                # one has said that all is done
        most = spec.get("completions", math.inf)
        active.sort(key=lambda pod: ((index_of(pod) or 0) < most, usefulness(pod)))
        for pod in active[:max(0, len(active) - wanted)]:
            self.end_untold(job, pod)
        places = free_places(job, held, pods, max(0, min(wanted - len(held), 50)))
        self.look_later(job, [wait for _, wait in places])
        try:
            for index in [index for index, wait in places if not wait]:
                self.make_worker(job, index, pods)
        except ApiError as error:
            return str(error)

    def make_worker(self, job, index, pods):
        """One pod of a Job. Raises ApiError."""
        template, base = job["spec"]["template"], name_of(job)
        if index is None:
            return self.make_pod(job, template, generateName=base + "-", finalizers=[TRACKING])
        spec, number = json.loads(dumps(template["spec"])), str(index)
        fill(spec, hostname=f"{base}-{index}")
        source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
        for _, container in containers_of(spec):
            container.setdefault("env", []).append(
                {"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
        failures = sum(index_of(pod) == index and dig(pod, "status.phase") == "Failed"
                       for pod in pods)
        return self.make_pod(job, template, spec, generateName=f"{base}-{index}-",
                             finalizers=[TRACKING], labels={INDEX: number},
                             annotations={INDEX: number, INDEX_FAILURES: str(failures)})

    def tell_suspension(self, job):
        """Begin; or tell of a Job that was suspended, or goes on."""
        status, is_asleep = job["status"], job["spec"]["suspend"]
        if is_asleep != is_condition(job, "Suspended"):
            word = "suspended" if is_asleep else "resumed"
            told = condition(status.get("conditions"), "Suspended", str(is_asleep),
                             "Job" + word.title(), "Job " + word, lastProbeTime=now())
            put_condition(status, told)
            status.pop("startTime", None)
            self.tell(job, "Normal", word.title(), "Job " + word)
        if not is_asleep:
            fill(status, startTime=now())

    def end(self, job):
        """All its pods are gone: a Job that was to fail, or to be complete, is."""
        status, target = job["status"], target_of(job)
        is_failure = target["type"] == "FailureTarget"
        reason, text = target["reason"], target["message"]
        put_condition(status, condition([], "Failed" if is_failure else "Complete", "True", reason,
                                        text, lastProbeTime=now()))
        if is_failure:
            return self.tell(job, "Warning", reason, text)
        status["completionTime"] = now()
        self.tell(job, "Normal", "Completed", "Job completed")

    def after_end(self, job, pods):
        """What is done with a Job that is over: it is removed, if and when it says so."""
        self.let_go(pods)
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None:
            return
        left = seconds_of(finished(job)["lastTransitionTime"]) + ttl - time.time()
        if left > 0:
            return self.look_later(job, [left])
        self.writer.delete(job)

def put_condition(status, new):
    """Have a condition among others, in place of that of its type."""
    others = [each for each in status.get("conditions", ()) if each["type"] != new["type"]]
    status["conditions"] = [*others, new]

def finished(job):
    """The condition that says that a Job is over, or None."""
    return next((get_condition(job, each) for each in ("Complete", "Failed")
                 if is_condition(job, each)), None)

def target_of(job):
    """The condition that says how a Job is to end once its pods are gone, or None."""
    return next((get_condition(job, each) for each in ("FailureTarget", "SuccessCriteriaMet")
                 if is_condition(job, each)), None)

def set_verdict(job, verdict):
    if verdict and not target_of(job):
        type_, *words = verdict
        put_condition(job["status"],
                      condition([], type_, "True", *words, lastProbeTime=now()))

def is_active(pod):
    return not has_ended(pod) and not is_deleting(pod)

def deadline_in(job):
    """Seconds until a Job has run for its activeDeadlineSeconds, None without an end."""
    began, limit = dig(job, "status.startTime"), job["spec"].get("activeDeadlineSeconds")
    left = seconds_of(began) + limit - time.time() if began and limit else None
    return left and max(left, 0.5)

def count_success(job, index):
    if index is None:
        job["status"]["succeeded"] = job["status"].get("succeeded", 0) + 1
    else:
        recount(job, index)

def recount(job, *more):
    """The indexes that are done, of a Job whose completions may have changed."""
    status, limit = job["status"], job["spec"].get("completions", math.inf)
    done = read_indexes(status.get("completedIndexes")).union(more)
    if done:
        done = {index for index in done if index < limit}
        status.update(completedIndexes=indexes_text(done), succeeded=len(done))

def count_failure(job, pod):
    """Count a pod that failed, as the podFailurePolicy says; returns the verdict of that, (type,
    reason, message), or None."""
    spec, status, (action, why) = job["spec"], job["status"], failure_action(job["spec"], pod)
    if action == "Ignore":
        return None
    status["failed"] = status.get("failed", 0) + 1
    limit, lost = spec.get("backoffLimitPerIndex"), read_indexes(status.get("failedIndexes"))
    if limit is not None:
        is_lost = action == "FailIndex" or failures_of(pod) >= limit
        status["failedIndexes"] = indexes_text(lost | ({index_of(pod)} if is_lost else set()))
    return ("FailureTarget", "PodFailurePolicy", why) if action == "FailJob" else None

def free_places(job, held, pods, count):
    """[(the index that a new pod is for, None without, seconds until it may come)], so many."""
    spec, status = job["spec"], job["status"]
    if spec["completionMode"] != "Indexed":
        return [(None, pause_s(pods))] * count
    taken, by_index = set(map(index_of, held)), {}
    for field in ("completedIndexes", "failedIndexes"):
        taken |= read_indexes(status.get(field))
    for pod in pods:
        by_index.setdefault(index_of(pod), []).append(pod)
    free = (i for i in range(spec["completions"]) if i not in taken)
    return [(i, pause_s(by_index.get(i, ()))) for i in islice(free, count)]

def index_of(pod):
    """The completion index of a pod, None without one."""
    text = annotation(pod, INDEX) or ""
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None

def failures_of(pod):
    """How often its index had failed before it."""
    text = annotation(pod, INDEX_FAILURES) or ""
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0

def read_indexes(text):
    """"1,3-5" -> {1, 3, 4, 5}; they rise, and none is above INDEXES."""
    found, least = set(), 0
    for first, last in re.findall(r"(\d{1,6})(?:-(\d{1,6}))?", text or ""):
        end = min(int(last or first), INDEXES) + 1
        found.update(range(max(int(first), least), end))
        least = max(least, end)
    return found

def indexes_text(indexes):
    """The other way."""
    runs = []
    for i in sorted(indexes):
        if runs and i == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], i
        else:
            runs.append((i, i))
    return ",".join(f"{first}-{last}" if last > first + 1
                    else ",".join(map(str, range(first, last + 1))) for first, last in runs)

def ended_at(pod):
    """When a pod ended, Unix seconds; of one that never ran, when that was known at the latest."""
    ends = [seconds_of(dig(status, "state.terminated.finishedAt"))
            for field in ("initContainerStatuses", "containerStatuses")
            for status in dig(pod, "status." + field, ())]
    meta, ready = pod["metadata"], get_condition(pod, "Ready")
    return (max(filter(None, ends), default=None) or
            seconds_of(dig(ready, "lastTransitionTime")) or
            seconds_of(meta.get("deletionTimestamp") or meta["creationTimestamp"]))

def lately_failed(pods):
    """Seconds until pods that were refused, or evicted, are made anew: the next may be, too."""
    since = time.time() - 3600
    return pause_s([pod for pod in pods if has_ended(pod) and ended_at(pod) > since], 1)

def pause_s(pods, first=BACKOFF_S):
    """Seconds until the next try after the failures among these pods, 0 for none; first: after
    one."""
    by_time = sorted(filter(has_ended, pods), key=ended_at)
    failures = 0
    for pod in by_time:
        failures = failures + 1 if dig(pod, "status.phase") == "Failed" else 0
    if not failures:
        return 0
    pause = min(first * 2 ** min(failures - 1, 10), 600)
    return max(0, ended_at(by_time[-1]) + pause - time.time())

def failure_action(spec, pod):
    """(what a podFailurePolicy says of a pod that failed, why); ("Count", "") without one."""
    statuses = [(status["name"], dig(status, "state.terminated.exitCode"))
                for field in ("initContainerStatuses", "containerStatuses")
                for status in dig(pod, f"status.{field}", ())]
    for i, rule in enumerate(dig(spec, "podFailurePolicy.rules", ())):
        codes, patterns = rule.get("onExitCodes"), rule.get("onPodConditions", ())
        for name, code in statuses if codes and dig(pod, "status.phase") == "Failed" else ():
            is_meant = bool(code) and codes.get("containerName") in (None, name)
            if is_meant and (code in codes["values"]) == (codes["operator"] == "In"):
                return rule["action"], (f"Container {name} for pod {'/'.join(key_of(pod))} failed "
                                        f"with exit code {code} matching {rule['action']} rule at "
                                        f"index {i}")
        for pattern in patterns:
            found = get_condition(pod, pattern["type"])
            if found and found["status"] == pattern["status"]:
                return rule["action"], (f"Pod {'/'.join(key_of(pod))} has condition "
                                        f"{pattern['type']} matching {rule['action']} rule at "
                                        f"index {i}")
    return "Count", ""

def judge(job, pods):
    """How a Job is to end by what was counted: (type, reason, message), or None to go on."""
    spec, status = job["spec"], job["status"]
    done, lost = (read_indexes(status.get(field))
                  for field in ("completedIndexes", "failedIndexes"))
    left, met = deadline_in(job), is_worn(spec, status, pods)
    is_met = [is_sufficient(rule, done) for rule in dig(spec, "successPolicy.rules", ())]
    over = lost and len(done | lost) >= spec.get("completions", math.inf)
    verdicts = [
        (any(is_met), "SuccessCriteriaMet", "SuccessPolicy", "Matched rules of successPolicy"),
        (met, "FailureTarget", "BackoffLimitExceeded",
         "Job has reached the specified backoff limit"),
        (left is not None and left <= 0.5, "FailureTarget", "DeadlineExceeded",
         "Job was active longer than specified deadline"),
        (len(lost) > spec.get("maxFailedIndexes", math.inf), "FailureTarget",
         "MaxFailedIndexesExceeded",
         "Job has exceeded the specified maximal number of failed indexes"),
        (over, "FailureTarget", "FailedIndexes", "Job has failed indexes"),
        (has_completed(spec, status, pods), "SuccessCriteriaMet", "CompletionsReached",
         "Reached expected number of succeeded pods")]
    return next((told for holds, *told in verdicts if holds), None)

def is_worn(spec, status, pods):
    """Whether the pods of a Job have failed, or their containers begun again, too often."""
    alive = [pod for pod in pods if not has_ended(pod)]
    restarted = sum(each["restartCount"] for pod in alive
                    for field in ("initContainerStatuses", "containerStatuses")
                    for each in dig(pod, "status." + field, ()))
    limit, policy = spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]
    return status.get("failed", 0) > limit or (
        policy == "OnFailure" and restarted > 0 and restarted >= limit)

def has_completed(spec, status, pods):
    succeeded = status.get("succeeded", 0)
    if "completions" in spec:
        return succeeded >= spec["completions"]
    return succeeded and all(map(has_ended, pods))

def is_sufficient(rule, done):
    """Whether the completed indexes meet a rule of a successPolicy."""
    wanted = read_indexes(rule["succeededIndexes"]) if "succeededIndexes" in rule else done
    count = rule.get("succeededCount", len(wanted))
    return bool(wanted) and len(wanted & done) >= count

class CronJobs(Replicated):
    """CronJobs (pkg/controller/cronjob)."""
    def cron_job(self, cron_job, namespace, name):
        spec, status = cron_job["spec"], cron_job["status"]
        jobs = self.owned_by(cron_job, "Job")
        self.drop_jobs(cron_job, jobs)
        running = [job for job in jobs if not finished(job) and not is_deleting(job)]
        if not spec.get("suspend") and not is_deleting(cron_job):
            running = self.run_due(cron_job, running)
        ends = [dig(job, "status.completionTime", "") for job in jobs]
        last = max([*ends, status.get("lastSuccessfulTime") or ""])
        active = [{**pick(job, ("kind", "apiVersion")),
                   **pick(job["metadata"], ("namespace", "name", "uid", "resourceVersion"))}
                  for job in running]
        cron_job["status"] = {**without(status, "active"),
                              **filled(lastSuccessfulTime=last, active=active)}
        self.store.put(cron_job)

    def run_due(self, cron_job, running):
        """Start what is due, and come back when the next is; returns the Jobs that run then."""
        spec, present = cron_job["spec"], time.time()
        cron, zone, policy = parse_cron(spec["schedule"]), zone_of(spec), spec["concurrencyPolicy"]
        due, coming = (last_time(cron, zone, since_of(cron_job, present), present),
                       next_time(cron, zone, present))
        self.look_later(cron_job, [coming and coming - present])
        if not due:
            return running
        if running and policy == "Forbid":
            self.tell(cron_job, "Normal", "JobAlreadyActive", "Not starting job because prior "
                      "execution is running and concurrency policy is Forbid")
            return running
        for job in running if policy == "Replace" else ():
            self.writer.delete(job)
            self.tell(cron_job, "Normal", "SuccessfulDelete", f"Deleted job {name_of(job)}")
        made = self.make_job(cron_job, due)
        cron_job["status"]["lastScheduleTime"] = time_text(due)
        return [*made, *(running if policy == "Allow" else ())]

    def make_job(self, cron_job, due):
        """[the Job of one due time], [] if there is one already."""
        (namespace, name), template = key_of(cron_job), cron_job["spec"]["jobTemplate"]
        name = f"{name[:52]}-{int(due // 60)}"
        if self.store.row("Job", (namespace, name)):
            return []
        notes = {**dig(template, "metadata.annotations", {}),
                 "batch.kubernetes.io/cronjob-scheduled-timestamp": time_text(due)}
        meta = {"name": name, "ownerReferences": [owner_reference(cron_job)],
                "annotations": notes, **pick(template.get("metadata", {}), ("labels",))}
        job = self.writer.create(KIND["Job"], namespace,
                                 {"metadata": meta, "spec": template["spec"]})
        self.tell(cron_job, "Normal", "SuccessfulCreate", f"Created job {name}")
        return [job]

    def drop_jobs(self, cron_job, jobs):
        """Remove the oldest Jobs that are over, beyond the limits of the history."""
        for type_, field in (("Complete", "successfulJobsHistoryLimit"),
                             ("Failed", "failedJobsHistoryLimit")):
            over = [job for job in jobs if is_condition(job, type_) and not is_deleting(job)]
            over.sort(key=lambda job: dig(job, "status.startTime", ""))
            for job in over[:max(0, len(over) - cron_job["spec"].get(field, 1))]:
                self.writer.delete(job)

def since_of(cron_job, present):
    """After which moment, Unix seconds, what was due is still to be done."""
    spec, last = cron_job["spec"], dig(cron_job, "status.lastScheduleTime")
    since = seconds_of(last or cron_job["metadata"]["creationTimestamp"])
    if since > present + CLOCK_DOUBT_S:                         # the clock was wrong then
        since = present
    return max(since, present - spec.get("startingDeadlineSeconds", math.inf))

# == 34. Controllers =========================================================================
# The router, which knows what a change concerns, and all controllers but those of workloads. One
# thread runs them all, from one queue.
BIND_COMPLETED, BOUND_BY = ("pv.kubernetes.io/bind-completed",
                            "pv.kubernetes.io/bound-by-controller")
MIRROR_CONTROLLER = "endpointslicemirroring-controller.k8s.io"
CRD_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
NAMESPACE_GRACE_S = 2       # the namespace controller's own is 5
PORT_RETRY_S = 30           # until a host's port is looked at again
HOST_PROGRAM = "a program of the host"

class Controllers:
    """The router: reconcile(key), key = (what, its arguments ...), by the table of reconcilers;
    and what a change concerns. All reconcilers run in the queue's one thread, in one transaction,
    but those in `outside`, which do I/O; observe() runs in the thread of whoever wrote."""
    def __init__(self, k2d):
        self.settings, self.store, self.worker = k2d.settings, k2d.store, k2d.worker
        self.names, self.hub = k2d.names, k2d.hub
        self.queue = WorkQueue("controllers", self.reconcile, 1, k2d.hub, self.tell_fault)
        self.event = k2d.event
        self.started = False    # whether start() has looked at all: NAT wants the whole picture
        workloads, services, claims = Workloads(k2d, self), Services(k2d, self), Claims(k2d, self)
        members, jobs = Members(k2d, self), Jobs(k2d, self)
        cron_jobs = CronJobs(k2d, self)
        self.garbage = garbage = Garbage(k2d, self)
        self.scheduling = Scheduling(k2d, self)
        self.services = services
        self.reconcilers = {                        # kind, or what else is to be done -> method
            "Node": self.scheduling.taint_node, "schedule": self.scheduling.schedule,
            "ReplicaSet": workloads.replica_set, "ReplicationController": workloads.replica_set,
            "Deployment": workloads.deployment, "PodDisruptionBudget": workloads.budget,
            "StatefulSet": members.stateful_set, "DaemonSet": members.daemon_set,
            "Job": jobs.job, "CronJob": cron_jobs.cron_job,
            "Service": services.endpoints, "nat": services.nat, "hosts": services.hosts,
            "balancers": services.balancers,
            "PersistentVolumeClaim": claims.claim, "PersistentVolume": claims.volume,
            "provision": claims.provision,
            "reclaim": claims.reclaim, "prune": self.scheduling.prune,
            "Namespace": garbage.namespace, "collect": garbage.collect,
            "finalize": garbage.finalize, "ResourceQuota": garbage.quota,
            "ServiceAccount": garbage.service_account,
            "CustomResourceDefinition": garbage.definition, "expire": garbage.expire}
        self.outside = {"nat", "hosts", "provision", "reclaim", "prune"}
        self.observers = {                          # kind -> what a change of it concerns
            "Service": self.observe_service, "Endpoints": self.observe_endpoints,
            "EndpointSlice": self.observe_slice, "PersistentVolumeClaim": self.observe_claim,
            "PersistentVolume": self.observe_storage, "StorageClass": self.observe_storage,
            "Event": self.observe_event, "ReplicaSet": self.observe_set,
            "CronJob": self.observe_cron_job}

    def reconcile(self, key):
        what, *args = key
        method = self.reconcilers[what]
        if what in self.outside:
            return method(*args)
        with self.store.transaction():
            if what not in KIND:
                return method(*args)
            obj = self.store.get(*key)
            if not obj:
                self.queue.forget(key)
            # these leave something behind
            if obj or what in ("Service", "CustomResourceDefinition", "Job"):
                method(obj, *args)

    def tell_fault(self, key, problem):
        """A pass over an object went wrong, and will be tried again: its event says why."""
        obj = self.store.get(*key) if key[0] in KIND else None
        if obj:
            self.event(obj, "Warning", "FailedSync", f"error syncing: {problem}",
                       component="k2d")

    def add(self, *key):
        self.queue.add(key)

    def add_all(self, kind, namespace):
        for key in self.store.keys(kind, namespace):
            self.add(kind, *key)

    def start(self):
        """After a start: look at everything once, for whatever was half done."""
        for kind in [kind for kind in KINDS if kind.id != "Event"]:
            for key in self.store.keys(kind.id):
                row = self.store.row(kind.id, key)
                if row:
                    self.observe(
                        [Change(row.version, kind, "ADDED", key, row.raw, row.labels, None)], ())
            for obj in self.store.list(kind.id, holding=b'"ownerReferences"'):
                for ref in obj["metadata"]["ownerReferences"]:
                    if not find_owner(self.store, ref, key_of(obj)[0]):
                        self.add("collect", ref["uid"])
        self.started = True
        self.add("nat")

    # -- what a change concerns
    def observe(self, changes, watches):
        for change in changes:
            guarded(self.observe_one, change, change.type == "DELETED")

    def observe_one(self, change, deleted):
        if change.kind.id in self.reconcilers:
            self.add(change.kind.id, *change.key)
        self.observe_owners(change, deleted)
        if change.kind.id == "Pod":
            self.observe_pod(change, deleted)
        else:
            self.observe_other(change, deleted)

    def observe_owners(self, change, deleted):
        """Owners, finalizers, and the namespace with its quotas."""
        kind, (namespace, name), raw = change.kind, change.key, change.raw
        for ref in self.garbage.note_owners(kind.id, change.key, raw, deleted):
            self.observe_owner(ref, namespace, deleted)
        if deleted:
            self.add("collect", uid_of(json.loads(raw)))
        elif b'"deletionTimestamp"' in raw and b'"finalizers"' in raw:
            self.add("finalize", kind.id, namespace, name)
        if kind.namespaced:
            self.add_all("ResourceQuota", namespace)
            if deleted or name == "kube-root-ca.crt":
                # which may wait for just this, or want it back
                self.add("Namespace", "", namespace)

    def observe_owner(self, ref, namespace, deleted):
        owner = kind_named(ref["apiVersion"], ref["kind"])
        if owner and ref.get("controller") and owner.id in WORKLOADS:
            self.add(owner.id, namespace, ref["name"])
        if owner and deleted:
            self.add("finalize", owner.id, namespace if owner.namespaced else "", ref["name"])

    def observe_pod(self, change, deleted):
        pod, namespace = json.loads(change.raw), change.key[0]
        self.worker.on_pod(change)
        self.scheduling.on_pod(change, pod, deleted)
        if b'"hostPort"' in change.raw:
            self.add("balancers")
            self.add("nat")
        if b'"subdomain"' in change.raw and (deleted or change.type == "ADDED" or
                                             b'"podIP":' not in change.old.raw):
            self.names.changed += 1
            self.add("hosts")
        for claim in claims_of(pod):
            self.add("PersistentVolumeClaim", namespace, claim)
            self.add("finalize", "PersistentVolumeClaim", namespace, claim)
        for name in self.services.selecting(namespace, change):
            self.add("Service", namespace, name)
        self.add_all("PodDisruptionBudget", namespace)
        is_new = (not change.old or change.labels != change.old.labels or
                  b'"controller":true' in change.old.raw)
        if is_new and not controller_of(pod):                       # an orphan may be adopted
            for kind in WORKLOADS:
                self.add_all(kind, namespace)

    def observe_other(self, change, deleted):
        kind, (namespace, name) = change.kind.id, change.key
        if kind in self.observers:
            self.observers[kind](change, deleted)
        if kind == "Node" or self.scheduling.waiting and kind in ("PersistentVolumeClaim",
                                                                  "Namespace"):
            self.scheduling.make_room()
        if kind == "Node":
            self.add_all("DaemonSet", None)
        if kind in ("ConfigMap", "Secret", "ServiceAccount", "PersistentVolumeClaim"):
            for pod in self.store.list("Pod", namespace, holding=b'"%s"' % name.encode()):
                self.worker.starter.retry(uid_of(pod))
                self.worker.queue.add(key_of(pod))

    def observe_service(self, change, deleted):
        self.services.on_change(change, deleted)
        self.names.changed += 1
        self.add("hosts")
        self.add("balancers")
        self.add("nat")

    def observe_endpoints(self, change, deleted):
        if deleted or change.key not in self.services.selectors:
            self.add("Service", *change.key)

    def observe_slice(self, change, deleted):
        self.add("nat")
        if deleted:                                             # which comes back, if it is ours
            self.add("Service", change.key[0], (change.labels or {}).get(SERVICE_NAME, ""))

    def observe_claim(self, change, deleted):
        self.add("PersistentVolume", "", dig(json.loads(change.raw), "spec.volumeName", ""))

    def observe_storage(self, change, deleted):
        self.add_all("PersistentVolumeClaim", None)
        self.add("finalize", change.kind.id, *change.key)

    def observe_set(self, change, deleted):
        if not deleted and b'"ownerReferences"' not in change.raw:  # an orphan may be adopted
            self.add_all("Deployment", change.key[0])

    def observe_cron_job(self, change, deleted):
        self.hub.call(self.hub.on_clock, self.add_all, "CronJob", None)

    def observe_event(self, change, deleted):
        if not deleted:
            self.queue.add_after(
                EVENT_SECONDS if len(self.store.rows["Event"]) < EVENTS + 50 else 0, ("expire",))

class Scheduling(Controller):
    """Binds pods to the one node. waiting: {key: version} of the pods that fit on no node; they
    are looked at again when they change, or something makes room."""
    def __init__(self, k2d, router):
        super().__init__(k2d, router)
        self.waiting = {}

    def make_room(self):
        self.waiting.clear()
        self.router.add("schedule")

    def on_pod(self, change, pod, deleted):
        """A change of a pod may let it, or another, be bound."""
        if deleted:
            self.network.keep_address(pod)
        is_less = deleted or has_ended(pod) or change.old and change.labels != change.old.labels
        if self.waiting and is_less and change.key not in self.waiting:
            self.make_room()
        elif deleted:
            self.waiting.pop(change.key, None)
        elif b'"podIP":' not in change.raw:
            self.router.add("schedule")

    def prune(self):
        """Remove images that k2d has pulled and no container has, the oldest first, until the disk
        has room again. Blocks on the engine."""
        present = self.engine.call("GET", "/containers/json?all=1", shape="[]engine.Listed")
        used = {info.get("Image") for info in present}
        for fact, _ in self.store.facts(PULLED):
            image = fact[len(PULLED):]
            self.node.look()
            if not self.node.short["DiskPressure"]:
                return
            try:
                if image not in used:
                    self.engine.call("DELETE", "/images/" + urllib.parse.quote(image),
                                     expect=(404,))
                    self.store.drop_fact(fact)
                    log(f"the disk is full: removed the image {image}")
            except EngineError as error:        # a container has it by another name, say
                log(f"the image {image} stays: {error}")

    def taint_node(self, node, _, name):
        """Taint a node that is cordoned or short of something, offer its extended resources."""
        spec, status = node["spec"], node.get("status", {})
        troubles = [(CORDONED, spec.get("unschedulable")),
                    *((taint, is_condition(node, name)) for name, taint in PRESSURES.items())]
        taints = spec.get("taints", [])
        for taint, is_so in troubles:
            others = [t for t in taints if t["key"] != taint["key"]]
            if not is_so:
                taints = others
            elif len(others) == len(taints):
                taints = [*taints, {**taint, "timeAdded": now()}]
        node["spec"] = {**without(spec, "taints"), **filled(taints=taints)}
        extended = {key: amount for key, amount in status.get("capacity", {}).items()
                    if "/" in key}
        if extended:
            status["allocatable"] = {**status.get("allocatable", {}), **extended}
        self.store.put(node)

    def present_node(self):
        """The node, with what it is short of now; None before it was first described."""
        if self.node.look():
            self.queue.add_after(PRESSURE_S, ("schedule",))
        if self.node.short["DiskPressure"]:
            self.router.add("prune")
        node = self.store.get("Node", "", self.settings.node)
        if node:
            self.taint_node(node, "", name_of(node))
        return node

    def schedule(self):
        """Bind the pods that wait for a node, the most important first, or say why they do not
        fit. Those that their maker has bound the kubelet takes or rejects."""
        ours, node = self.settings.node, self.present_node()
        rows = self.store.rows["Pod"].items() if node else ()
        known = [key for key, row in rows if self.waiting.get(key) != row.version]
        settled, waiting = [], []
        for pod in [self.store.get("Pod", *key) for key in known]:
            if has_ended(pod) or pod["spec"].get("nodeName", ours) != ours:
                continue
            if dig(pod, "status.podIP") or is_foreign(pod):
                settled.append(pod)
            elif self.is_ready(pod):
                waiting.append(pod)
        if not waiting:
            return
        waiting.sort(key=lambda pod: (not pod["spec"].get("nodeName"), -priority_of(pod),
                                      pod["metadata"]["creationTimestamp"], name_of(pod)))
        view = View(settled,
                    {name: row.labels for (_, name), row in self.store.rows["Namespace"].items()})
        for pod in waiting:
            self.waiting.pop(key_of(pod), None)
            if not self.place(pod, node, view):
                self.waiting[key_of(pod)] = int(pod["metadata"]["resourceVersion"])

    @staticmethod
    def is_ready(pod):
        """Whether a pod that has no address yet may get one."""
        spec = pod["spec"]
        is_mine = (not spec.get("schedulingGates") and
                   spec.get("schedulerName", "default-scheduler") == "default-scheduler")
        return not is_deleting(pod) and bool(spec.get("nodeName") or is_mine)

    def place(self, pod, node, view):
        """Bind one pod to the node and give it its address; returns whether that is settled, one
        way or the other."""
        spec, is_bound, ours = pod["spec"], pod["spec"].get("nodeName"), self.settings.node
        if not is_bound and self.is_unschedulable(pod, node, view):
            return False
        sysctl = forbidden_sysctls(spec)
        refused = ("SysctlForbidden", sysctl) if sysctl else None
        if is_bound and not refused:
            refused = rejection(pod, node, view)
        spec["nodeName"] = ours
        if refused:
            pod["status"] = {"phase": "Failed", "reason": refused[0],
                             "message": "Pod was rejected: " + refused[1], "startTime": now(),
                             "qosClass": qos_class(spec)}
            self.event(pod, "Warning", *refused)
        else:
            if not spec.get("hostNetwork"):
                pod["status"]["podIP"] = self.network.allocate(key_of(pod))
            pod["status"] = pod_status(pod, {}, {}, self.settings.host_ip)
            view.add(pod)
        self.store.put(pod)     # which the pod worker hears of, like everybody
        if not is_bound:
            self.event(pod, "Normal", "Scheduled",
                       f"Successfully assigned {'/'.join(key_of(pod))} to {ours}",
                       component="default-scheduler")
        return True

    def is_unschedulable(self, pod, node, view):
        """Whether a pod has to wait: then it says why."""
        lookup = lambda kind, name: self.store.get(kind, key_of(pod)[0], name)
        fault = claim_trouble(pod, lookup, view.pods)
        text = f"0/1 nodes are available: {fault}." if fault else misfit(pod, node, view)
        if not text:
            return False
        if dig(get_condition(pod, "PodScheduled"), "message") != text:
            self.event(pod, "Warning", "FailedScheduling", text, component="default-scheduler")
        set_condition(pod, "PodScheduled", "False", "Unschedulable", text)
        self.store.put(pod)
        return True

class Services(Controller):
    """Endpoints, EndpointSlices, NAT rules, hosts files."""
    def __init__(self, k2d, router):
        super().__init__(k2d, router)
        self.selectors = {}     # (namespace, name) -> Requirements of each Service with a selector

    def on_change(self, change, deleted):
        spec = json.loads(change.raw)["spec"]
        self.selectors.pop(change.key, None)
        if not deleted and spec.get("selector") and spec.get("type") != "ExternalName":
            self.selectors[change.key] = selector_of(spec["selector"])

    def selecting(self, namespace, change):
        """The names of the Services that select a pod as it is or was before a change."""
        for (where, name), selector in list(self.selectors.items()):
            was_selected = change.old and selects(selector, change.old.labels)
            if where == namespace and (was_selected or selects(selector, change.labels)):
                yield name

    def endpoints(self, service, namespace, name):
        """The EndpointSlices of a Service: with a selector from its pods, which Endpoints tell of,
        too; without one they mirror the Endpoints that somebody has made."""
        if not self.worker.known.digested or (namespace, name) == ("default", "kubernetes"):
            return                                              # absence means nothing yet
        present, groups, by = self.store.row("Endpoints", (namespace, name)), {}, MIRROR_CONTROLLER
        if service and (namespace, name) in self.selectors:
            groups, by = self.from_pods(service), "endpointslice-controller.k8s.io"
        elif present and present.on_disk is None:               # it had a selector
            self.store.remove(json.loads(present.raw))
        elif present and service:
            groups = mirrored(json.loads(present.raw))
        gone = {name_of(each): each for each in slices_of(self.store, namespace, name)
                if self.store.row("EndpointSlice", key_of(each)).on_disk is None}
        for (type_, ports), endpoints in groups.items():
            slice_name = f"{name}-{safe_hash([namespace, name, type_, ports], 5)}"
            gone.pop(slice_name, None)
            self.derive("EndpointSlice", namespace, slice_name,
                        {**labels_of(service), SERVICE_NAME: name}, by, service,
                        {"addressType": type_, "endpoints": endpoints, "ports": as_ports(ports)})
        for each in gone.values():
            self.store.remove(each)

    def balancers(self):
        """Give the Services of type LoadBalancer the host's address, those that have it and the
        oldest first, unless somebody else has one of their ports there: then they wait, and say
        so."""
        services = [each for each in self.store.list("Service") if not is_published(each)]
        taken = self.taken_ports(services)
        services.sort(key=lambda each: (not ingress_ips(each),
                                        each["metadata"]["creationTimestamp"]))
        for service in services:
            ports, own = service["spec"].get("ports", ()), f"Service {'/'.join(key_of(service))}"
            wanted = [(port["protocol"], port["port"]) for port in ports]
            clash = next((each for each in wanted if taken.get(each, own) != own), None)
            is_balancer, ingress = service["spec"]["type"] == "LoadBalancer", []
            if is_balancer and clash:
                self.event(service, "Warning", "SyncLoadBalancerFailed",
                           f"port {clash[1]}/{clash[0]} of the host belongs to {taken[clash]}",
                           component="service-controller")
                if taken[clash] == HOST_PROGRAM:                    # whose end nobody tells
                    self.queue.add_after(PORT_RETRY_S, ("balancers",))
            elif is_balancer:
                ingress = [{"ip": self.settings.host_ip, "ipMode": "VIP"}]
                taken.update(dict.fromkeys(wanted, own))
            service["status"] = {**service.get("status", {}),
                                 "loadBalancer": filled(ingress=ingress)}
            self.store.put(service)

    def taken_ports(self, services):
        """{(protocol, port of the host): whose it is}, but for the ports of balancers."""
        taken = {(port["protocol"], port.get("nodePort")): f"Service {'/'.join(key_of(each))}"
                 for each in services for port in each["spec"].get("ports", ())}
        taken.update(dict.fromkeys(listening_ports(), HOST_PROGRAM))
        for pod in self.store.list("Pod", holding=b'"hostPort"'):
            if dig(pod, "status.podIP") and not has_ended(pod):
                taken.update({(protocol, port): f"pod {'/'.join(key_of(pod))}"
                              for _, protocol, port in host_ports(pod)})
        return taken

    def from_pods(self, service):
        """{(address type, ports): endpoints} of a Service with a selector, whose Endpoints
        follow."""
        (namespace, name), subsets, groups = key_of(service), {}, {}
        for pod in self.store.list("Pod", namespace, self.selectors[namespace, name]):
            if dig(pod, "status.podIP") and not has_ended(pod):
                ports = ports_in(service, pod)
                place, address, endpoint = endpoint_of(pod, service, self.settings.node)
                groups.setdefault(("IPv4", ports), []).append(endpoint)
                if not is_deleting(pod):
                    subsets.setdefault(ports, {}).setdefault(place, []).append(address)
        told = []
        for ports, found in sorted(subsets.items()):
            told.append({**pick(found, ("addresses", "notReadyAddresses")),
                         "ports": [filled(**port) for port in as_ports(ports)]})
        self.derive("Endpoints", namespace, name, labels_of(service), "endpoint-controller", None,
                    filled(subsets=told))
        # the numbers at least
        return groups or {("IPv4", ports_in(service, {"spec": {"containers": []}})): []}

    def derive(self, kind, namespace, name, labels, by, owner, body):
        """Put an object that follows from others, keeping its identity; by: who derived it."""
        present = self.store.get(kind, namespace, name)
        obj = new_object(KIND[kind], name, namespace, **body)
        if present:
            obj["metadata"] = present["metadata"]
        obj["metadata"]["labels"] = {**labels, MANAGED_BY[kind]: by}
        if owner:
            obj["metadata"].update(ownerReferences=[owner_reference(owner)], generation=1)
        self.store.put(obj, on_disk=False)


    def nat(self):
        if any(key[0] == "Service" for key in list(self.queue.waiting)):
            self.router.add("nat")  # after them: half of a picture would refuse somebody
        elif self.router.started and self.worker.known.digested:
            self.network.sync()
            if self.network.lacking:
                self.queue.add_after(PORT_RETRY_S, ("nat",))

    def hosts(self):
        """Tell every running pod the present Services."""
        for pod in self.store.list("Pod"):
            try:
                write_in_place(self.settings.pod_folder(uid_of(pod), "etc-hosts"),
                               hosts_text(pod, self.names.services()))
            except FileNotFoundError:   # on the host's network, not created yet, or just gone
                continue

def mirrored(endpoints):
    """{(address type, ports): endpoints} of the EndpointSlices that say what Endpoints say."""
    groups = {}
    if labels_of(endpoints).get("endpointslice.kubernetes.io/skip-mirror") == "true":
        return groups
    for subset in endpoints.get("subsets", ()):
        ports = tuple((port.get("name", ""), port["port"], port["protocol"])
                      for port in subset.get("ports", ()))
        for place in pick(subset, ("addresses", "notReadyAddresses")):
            for one in subset[place]:
                key = "IPv6" if ":" in one["ip"] else "IPv4", ports
                groups.setdefault(key, []).append(
                    {"addresses": [one["ip"]], "conditions": {"ready": place == "addresses"},
                     **pick(one, ("hostname", "nodeName", "targetRef"))})
    return groups

def endpoint_of(pod, service, node):
    """What a pod is to a Service: (the list of Endpoints it is in, its entry there, its entry in
    the EndpointSlice)."""
    meta, spec, ip = pod["metadata"], pod["spec"], pod["status"]["podIP"]
    ready, deleting = is_condition(pod, "Ready"), is_deleting(pod)
    unready_too = service["spec"].get("publishNotReadyAddresses")
    serves = {"ready": bool(unready_too or ready and not deleting), "serving": ready,
              "terminating": deleting}
    more = {"nodeName": node,
            "targetRef": {"kind": "Pod", **pick(meta, ("namespace", "name", "uid"))}}
    if spec.get("hostname") and spec.get("subdomain") == name_of(service):
        more["hostname"] = spec["hostname"]
    return ("addresses" if ready or unready_too else "notReadyAddresses", {"ip": ip, **more},
            {"addresses": [ip], "conditions": serves, **more})

def target_port(port, pod):
    """The number that a Service port's targetPort means in a pod, or None."""
    target, protocol = port.get("targetPort") or port["port"], port.get("protocol", "TCP")
    if isinstance(target, int):
        return target
    named = [p for c in (*pod["spec"]["containers"], *sidecars_of(pod["spec"]))
             for p in c.get("ports", ()) if p.get("name") == target and
             p.get("protocol", "TCP") == protocol]
    return named[0]["containerPort"] if named else None

def ports_in(service, pod):
    """((name, number, protocol), ...) of a Service's ports in a pod."""
    found = [(p.get("name", ""), target_port(p, pod), p.get("protocol", "TCP"))
             for p in service["spec"].get("ports", ())]
    return tuple(each for each in found if each[1])

def as_ports(ports):
    return [{"name": name, "port": number, "protocol": protocol}
            for name, number, protocol in ports]

class Claims(Controller):
    """Claims and persistent volumes (pkg/controller/volume/persistentvolume)."""
    def claim(self, claim, namespace, name):
        """Bind a claim to a volume, or say why not; a bound one follows its volume."""
        spec, volume = claim["spec"], claim["spec"].get("volumeName")
        if is_deleting(claim):
            return
        if spec.get("storageClassName") is None and not volume:
            # one that came after the claim
            spec.update(filled(storageClassName=default_class(self.store)))
        pv = self.store.get("PersistentVolume", "", volume) if volume else self.matching(claim)
        if annotation(claim, BIND_COMPLETED):
            self.follow(claim, pv)
        elif pv:
            self.join(claim, pv)
        elif not volume:
            self.ask_for_volume(claim)
        self.store.put(claim)

    def follow(self, claim, pv):
        """A bound claim has what its volume has, or has lost it."""
        if pv and (not pv["spec"].get("claimRef") or is_for(pv, claim)):
            return self.bind(pv, claim)
        if claim["status"].get("phase") != "Lost":
            self.tell(claim, "Warning", "ClaimMisbound" if pv else "ClaimLost",
                      "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
        claim["status"] = {"phase": "Lost"}

    def join(self, claim, pv):
        """Bind a claim to the volume that was found for it, or that it asks for."""
        is_reserved, name = pv["spec"].get("claimRef"), name_of(pv)
        if is_reserved and not is_for(pv, claim):
            self.tell(claim, "Warning", "FailedBinding",
                      f'volume "{name}" already bound to a different claim.')
        elif not is_reserved and not suits(pv, claim):
            self.tell(claim, "Warning", "VolumeMismatch",
                      f'Cannot bind to requested volume "{name}": its class, size or modes differ')
        else:
            self.bind(pv, claim)

    def tell(self, obj, *words):
        self.event(obj, *words, component="persistentvolume-controller")

    def matching(self, claim):
        """The volume that a claim gets: one reserved for it, else the smallest that suits it; None
        if there is none."""
        found = []
        for pv in self.store.list("PersistentVolume"):
            mine = is_for(pv, claim)
            size = quantity_nanos(pv["spec"]["capacity"].get("storage", "0"))
            free = not pv["spec"].get("claimRef") and dig(pv, "status.phase") == "Available"
            chosen = selects(selector_of(claim["spec"].get("selector")), labels_of(pv))
            if (mine or free and chosen) and not is_deleting(pv) and suits(pv, claim):
                found.append((not mine, size, name_of(pv), pv))
        return min(found, key=lambda each: each[:3], default=[None])[-1]

    def bind(self, pv, claim):
        """Make a volume and a claim each other's, and tell the claim what it has."""
        spec, meta, offer = claim["spec"], claim["metadata"], pv["spec"]
        notes = meta.setdefault("annotations", {})
        if dig(offer, "claimRef.uid") != meta["uid"]:
            if not offer.get("claimRef"):
                pv["metadata"].setdefault("annotations", {})[BOUND_BY] = "yes"
            offer["claimRef"] = {**pick(claim, ("kind", "apiVersion")),
                                 **pick(meta, ("namespace", "name", "uid", "resourceVersion"))}
        if not spec.get("volumeName"):
            spec["volumeName"], notes[BOUND_BY] = name_of(pv), "yes"
        if is_ours(pv) and storage_nanos(claim) > quantity_nanos(offer["capacity"]["storage"]):
            # the engine's volumes have no size: a figure grows
            offer["capacity"] = spec["resources"]["requests"]
        notes[BIND_COMPLETED] = "yes"
        self.set_phase(pv, "Bound")
        claim["status"] = {"phase": "Bound", "accessModes": offer["accessModes"],
                           "capacity": dict(offer["capacity"])}

    def ask_for_volume(self, claim):
        """No volume suits a claim: have one made, or say what is missing."""
        spec, (namespace, name), class_ = (claim["spec"], key_of(claim),
                                           claim["spec"].get("storageClassName") or "")
        found = self.store.get("StorageClass", "", class_)
        users = (pod for pod in self.store.list("Pod", namespace, holding=b'"volumes"')
                 if name in claims_of(pod))
        if dig(found, "volumeBindingMode") == "WaitForFirstConsumer" and not any(users):
            self.tell(claim, "Normal", "WaitForFirstConsumer",
                      "waiting for first consumer to be created before binding")
        elif not class_:
            self.tell(claim, "Normal", "FailedBinding",
                      "no persistent volumes available for this claim and no storage class is set")
        elif not found:
            self.tell(claim, "Warning", "ProvisioningFailed",
                      f'storageclass.storage.k8s.io "{class_}" not found')
        elif found["provisioner"] != PROVISIONER:
            self.tell(claim, "Normal", "ExternalProvisioning",
                      "Waiting for a volume to be created either by the external provisioner "
                      f"'{found['provisioner']}' or manually by the system administrator.")
        elif spec.get("volumeMode") == "Block" or spec.get("selector"):
            self.tell(claim, "Warning", "ProvisioningFailed",
                      f'Failed to provision volume with StorageClass "{class_}": '
                      "an engine volume can be no block device, and not be selected by labels")
        else:
            self.router.add("provision", namespace, name)

    def provision(self, namespace, name):
        """Make an engine volume for a claim, unless it names one, and its PersistentVolume. Blocks
        on the engine."""
        claim = self.store.get("PersistentVolumeClaim", namespace, name)
        class_ = self.store.get("StorageClass", "", dig(claim, "spec.storageClassName", ""))
        if not class_ or claim["spec"].get("volumeName") or is_deleting(claim):
            return
        volume, adopted = "pvc-" + uid_of(claim), annotation(claim, PROVISIONER)
        try:
            path = self.adopt(adopted) if adopted else self.make(volume, f"{namespace}/{name}")
        except (EngineError, OSError) as error:
            self.event(
                claim, "Warning", "ProvisioningFailed",
                f'Failed to provision volume with StorageClass "{name_of(class_)}": {error}',
                component=PROVISIONER)
            raise EngineError(0, str(error))                # tried again
        with self.store.transaction():
            if self.store.row("PersistentVolume", ("", volume)):
                return
            self.writer.create(KIND["PersistentVolume"], "", {
                "metadata": {"name": volume, "annotations": {
                    PROVISIONED_BY: PROVISIONER, **({PROVISIONER: adopted} if adopted else {})}},
                "spec": {
                    **pick(claim["spec"], ("accessModes", "storageClassName", "volumeMode")),
                    "capacity": claim["spec"]["resources"]["requests"],
                    "persistentVolumeReclaimPolicy": "Retain" if adopted else class_.get(
                        "reclaimPolicy", "Delete"),
                    # `docker volume rm` is noticed
                    "hostPath": {"path": path, "type": "Directory"},
                    "claimRef": {**pick(claim, ("kind", "apiVersion")),
                                 **pick(claim["metadata"], ("namespace", "name", "uid"))}}})
            self.event(claim, "Normal", "ProvisioningSucceeded",
                       f"Successfully provisioned volume {volume} using {PROVISIONER}",
                       component=PROVISIONER)

    def make(self, volume, claim):
        """Where the host has a new engine volume, for whoever a claim's containers run as."""
        body = {"Name": volume, "Labels": {"k2d.io/claim": claim}}
        made = self.engine.call("POST", "/volumes/create", body, shape="engine.Volume")
        open_to_all(host_root() + made["Mountpoint"])
        return made["Mountpoint"]

    def adopt(self, volume):
        """Where the host has an engine volume of somebody else's. Raises EngineError."""
        return self.engine.call("GET", "/volumes/" + volume, shape="engine.Volume")["Mountpoint"]

    def set_phase(self, pv, phase, **told):
        if dig(pv, "status.phase") != phase:
            pv["status"] = {"phase": phase, **told, "lastPhaseTransitionTime": now()}
        self.store.put(pv)

    def volume(self, pv, _, name):
        """Available, Bound, or Released; then its reclaim policy says what follows."""
        ref, phase = pv["spec"].get("claimRef", {}), dig(pv, "status.phase")
        policy = dig(pv, "spec.persistentVolumeReclaimPolicy")
        claim = self.store.get("PersistentVolumeClaim", ref.get("namespace", ""),
                               ref.get("name", ""))
        if not ref.get("uid"):
            self.set_phase(pv, "Available")
        elif dig(claim, "metadata.uid") == ref["uid"]:
            if phase != "Bound":
                self.router.add("PersistentVolumeClaim", *key_of(claim))
        elif policy == "Retain" or is_ours(pv):
            self.set_phase(pv, "Released")
            if policy == "Delete":
                self.router.add("reclaim", name)
        elif phase != "Failed":
            why = f'volume "{name}" cannot be deleted: k2d deletes the volumes that it has made'
            self.set_phase(pv, "Failed", message=why, reason="VolumeFailedDelete")
            self.tell(pv, "Warning", "VolumeFailedDelete", why)

    def reclaim(self, name):
        """Remove the engine volume of a claim that is gone, then its object. Blocks."""
        pv = self.store.get("PersistentVolume", "", name)
        if dig(pv, "status.phase") == "Released" and is_ours(pv):
            self.engine.call("DELETE", "/volumes/" + engine_volume(pv), expect=(404,))
            with self.store.transaction():
                pv = self.store.get("PersistentVolume", "", name)
                if pv and not is_deleting(pv):
                    self.writer.delete(pv)

def suits(pv, claim):
    """Whether a volume has what a claim wants; one that is reserved for it may be of any class."""
    offer, spec = pv["spec"], claim["spec"]
    size = quantity_nanos(offer["capacity"].get("storage", "0"))
    has_modes = set(offer.get("accessModes", ())) >= set(spec["accessModes"])
    in_mode = offer.get("volumeMode") == spec.get("volumeMode")
    of_class = is_for(pv, claim) or (
        offer.get("storageClassName", "") == (spec.get("storageClassName") or ""))
    return has_modes and in_mode and of_class and size >= storage_nanos(claim)

class Garbage(Controller):
    """Namespaces, owners and dependents, finalizers; quotas, tokens, definitions, Events."""
    def __init__(self, k2d, router):
        super().__init__(k2d, router)
        self.owned = {}         # uid -> {(kind, key)} of what names it, or has, as an owner
        for kind, rows in self.store.rows.items():
            for key, row in rows.items():
                self.note_owners(kind, key, row.raw)

    def note_owners(self, kind, key, raw, deleted=False):
        """Remember whose an object is, until it is deleted; returns its ownerReferences."""
        meta = json.loads(raw)["metadata"] if b'"ownerReferences"' in raw else {}
        for uid in map(itemgetter("uid"), meta.get("ownerReferences", ())):
            owned = self.owned.setdefault(uid, set())
            (owned.discard if deleted else owned.add)((kind, key))
            if not owned:
                del self.owned[uid]
        return meta.get("ownerReferences", ())

    def namespace(self, ns, _, name):
        since = seconds_of(ns["metadata"].get("deletionTimestamp"))
        if not since:
            return self.furnish(name)
        wait = since + NAMESPACE_GRACE_S - time.time()
        # its content goes a moment later: the rest of a `kubectl delete -f` still finds its
        # objects
        if wait > 0:
            return self.queue.add_after(wait, ("Namespace", "", name))
        kinds = [kind for kind in KINDS if kind.namespaced and is_stored(kind)]
        pods_first = [KIND["Pod"]] if any(self.store.keys("Pod", name)) else kinds
        for obj in self.content(pods_first, name):
            if not is_deleting(obj):
                self.writer.delete(obj)
        finalizers = [f for obj in self.content(kinds, name)
                      for f in obj["metadata"].get("finalizers", ())]
        if finalizers:
            self.tell_what_holds(ns, finalizers)
        if not any(self.content(kinds, name)) and not ns["metadata"].get("finalizers"):
            ns["spec"].pop("finalizers", None)
            self.store.remove(ns)

    def content(self, kinds, namespace):
        for kind in kinds:
            yield from self.store.list(kind.id, namespace)

    def furnish(self, name):
        """What every namespace has."""
        for kind, each, fields in (("ServiceAccount", "default", {}),
                                   ("ConfigMap", "kube-root-ca.crt",
                                    {"data": {"ca.crt": self.access.ca}})):
            present = self.store.get(kind, name, each)
            if present:
                self.store.put({**present, **fields})
            else:
                self.writer.create(KIND[kind], name, {"metadata": {"name": each}, **fields})

    def tell_what_holds(self, ns, finalizers):
        kept = ", ".join(sorted(f"{f} in {n} resource instances"
                                for f, n in Counter(finalizers).items()))
        found, failure = dig(ns, "status.conditions", ()), "NamespaceDeletionContentFailure"
        ns["status"]["conditions"] = [
            condition(found, failure, "True", "ContentDeletionFailed",
                      "Failed to delete all resource types"),
            condition(found, "NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain",
                      f"Some content in the namespace has finalizers remaining: {kept}")]
        self.store.put(ns)

    def dependents(self, uid, namespace=""):
        """[(object, its ownerReferences)] of all that name an object of this uid, in a namespace
        or of the whole cluster, as an owner."""
        found = [self.store.get(kind, *key) for kind, key in sorted(self.owned.get(uid, ()))
                 if namespace in ("", key[0])]
        pairs = [(obj, obj["metadata"].get("ownerReferences", ())) for obj in found if obj]
        return [(obj, refs) for obj, refs in pairs if uid in map(itemgetter("uid"), refs)]

    def collect(self, uid):
        """Delete what was owned by an object that is gone, unless somebody else owns it too."""
        dependents = self.dependents(uid)
        self.owned.pop(uid, None)
        for obj, refs in dependents:
            living = [ref for ref in refs
                      if find_owner(self.store, ref, key_of(obj)[0]) is not None]
            if not living and not is_deleting(obj):
                self.writer.delete(obj)
            elif living and len(living) < len(refs):
                obj["metadata"]["ownerReferences"] = living
                self.store.put(obj)

    def finalize(self, kind_name, namespace, name):
        """Carry out propagationPolicy Foreground and Orphan, which stand as finalizers on a
        deleted object; let go of claims that no pod uses, and of volumes."""
        obj = self.store.get(kind_name, namespace, name)
        finalizers = obj["metadata"].get("finalizers", []) if obj and is_deleting(obj) else []
        holds = {"orphan": self.orphan, "foregroundDeletion": self.hold_for_dependents,
                 "kubernetes.io/pvc-protection": self.hold_claim,
                 "kubernetes.io/pv-protection": self.hold_volume}
        due = next((each for each in holds if each in finalizers), None)
        if due and not holds[due](obj):
            obj["metadata"]["finalizers"] = [f for f in finalizers if f != due]
            self.writer.settle(obj)

    # -- each returns whether the object is still held
    def hold_volume(self, pv):
        return dig(pv, "status.phase") == "Bound"

    def hold_claim(self, claim):
        namespace, name = key_of(claim)
        return any(name in claims_of(pod)
                   for pod in self.store.list("Pod", namespace, holding=b'"nodeName"'))

    def orphan(self, owner):
        for obj, refs in self.dependents(uid_of(owner), key_of(owner)[0]):
            obj["metadata"]["ownerReferences"] = [ref for ref in refs
                                                  if ref["uid"] != uid_of(owner)]
            self.store.put(obj)
        return False

    def hold_for_dependents(self, owner):
        uid, namespace = uid_of(owner), key_of(owner)[0]
        for obj, refs in self.dependents(uid, namespace):
            others = [ref for ref in refs if ref["uid"] != uid]
            if any(self.keeps(ref, key_of(obj)[0]) for ref in others):
                obj["metadata"]["ownerReferences"] = others
                self.store.put(obj)
            elif not is_deleting(obj):
                if any(is_deleting(below) for below, _ in self.dependents(uid_of(obj))):
                    for ref in refs:
                        ref["blockOwnerDeletion"] = False       # a circle: do not wait
                self.writer.delete(obj, {"propagationPolicy": "Foreground"})
        left = [ref for _, refs in self.dependents(uid, namespace) for ref in refs]
        return any(ref["uid"] == uid and ref.get("blockOwnerDeletion") for ref in left)

    def keeps(self, ref, namespace):
        """Whether an owner is there and does not wait for its own deletion."""
        owner = find_owner(self.store, ref, namespace)
        return (owner is not None and
                "foregroundDeletion" not in dig(owner, "metadata.finalizers", ()))

    # -- quotas, tokens, definitions, Events
    def quota(self, quota, namespace, name):
        used = {key: quantity_text(amount)
                for key, amount in quota_used(self.store, quota).items()}
        quota["status"] = {"hard": quota["spec"].get("hard", {}), "used": used}
        self.store.put(quota)

    def service_account(self, account, namespace, name):
        """Fill Secrets of type service-account-token that came before their account."""
        for secret in self.store.list("Secret", namespace,
                                      holding=b'"kubernetes.io/service-account-token"'):
            if not secret.get("data"):
                self.access.fill_token(secret)
                self.store.put(secret)

    def definition(self, crd, _, name):
        """Accept the names of a definition and serve its resources, which go before it."""
        if not crd:
            return register({"metadata": {"name": name}}, False)
        if is_deleting(crd):
            return self.end_definition(crd, name)
        spec, names, status = crd["spec"], crd["spec"]["names"], crd["status"]
        old = status.get("conditions", ())
        others = {word for k in KINDS if k.group == spec["group"] and k.id != name
                  for word in (k.name, k.plural)}
        taken = next((word for word in (names["kind"], names["plural"]) if word in others), "")
        accepted = ("True", "NoConflicts", "no conflicts found")
        established = ("True", "InitialNamesAccepted", "the initial names have been accepted")
        if taken:
            accepted = ("False", "KindConflict", f'"{taken}" is already in use')
            established = ("False", "NotAccepted", "not all names are accepted")
        else:
            status["acceptedNames"] = names
        kept = [c for c in old if c["type"] not in ("NamesAccepted", "Established")]
        status["conditions"] = [condition(old, "NamesAccepted", *accepted),
                                condition(old, "Established", *established), *kept]
        stored = [v["name"] for v in spec["versions"] if v.get("storage")]
        status["storedVersions"] = list(dict.fromkeys([*status.get("storedVersions", ()),
                                                       *stored]))
        finalizers = crd["metadata"].setdefault("finalizers", [])
        if CRD_FINALIZER not in finalizers:
            finalizers.append(CRD_FINALIZER)
        register(crd, not taken)
        self.store.put(crd)

    def end_definition(self, crd, name):
        for obj in self.store.list(name):
            if not is_deleting(obj):
                self.writer.delete(obj)
        old = dig(crd, "status.conditions", ())
        kept = [c for c in old if c["type"] != "Terminating"]
        crd["status"]["conditions"] = [*kept,
                                       condition(old, "Terminating", "True",
                                                 "InstanceDeletionInProgress",
                                                 "CustomResource deletion is in progress")]
        if self.store.keys(name):
            self.store.put(crd)
            return self.queue.add_after(1, ("CustomResourceDefinition", "", name))
        crd["metadata"]["finalizers"] = [f for f in crd["metadata"].get("finalizers", ())
                                         if f != CRD_FINALIZER]
        register(crd, False)
        self.writer.settle(crd)

    def expire(self):
        """Forget Events after their hour, and the oldest beyond the limit at once."""
        when = lambda event: event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
        present = sorted(self.store.list("Event"), key=when)
        for i, event in enumerate(present):
            left = (seconds_of(when(event)) or 0) + EVENT_SECONDS - time.time()
            if i >= len(present) - EVENTS and left >= 0:
                return self.queue.add_after(min(left, EVENT_SECONDS) + 1, ("expire",))
            self.store.remove(event)

# == 35. Log, exec, attach, port-forward [host] ==============================================
# A protocol turns bytes into events and back, and touches no socket; a Session moves the bytes.
#   ("open", stream, headers)                ("data", stream, bytes) a piece as it came
#   ("end" or "reset", stream, b"")          ("reply", None, bytes) to be sent back
#   ("gone", None, b"") the client ends it all
STREAM_BYTES = 256 << 10    # what waits for one side before the other is no longer read
FORWARDS = 32               # connections at a time of one port-forward
LINGER_S = 5                # how long a client may take to hang up after all was said
CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}  # over a WebSocket

def websocket_frame(opcode, payload):
    """One final, unmasked frame (RFC 6455, 5.2; a server never masks)."""
    size = len(payload)
    if size < 126:
        length = struct.pack("!B", size)
    elif size < 1 << 16:
        length = struct.pack("!BH", 126, size)
    else:
        length = struct.pack("!BQ", 127, size)
    return bytes([0x80 | opcode]) + length + payload

def unmask(data, mask):
    """XOR with the mask over and over, as one large number: Python has nothing faster."""
    whole = (mask * (len(data) // 4 + 1))[:len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(data), "big")

class WebSocket:
    """The server's side of RFC 6455. channels: a message begins with the number of its stream;
    encoded: the rest is base64; closes: the message [255, n] ends stream n (v5). Frames of any
    length, passed on in pieces."""
    def __init__(self, channels=True, encoded=False, closes=False):
        self.channels, self.encoded, self.closes = channels, encoded, closes
        self.buffer, self.frame = b"", None     # (final, opcode, bytes still to come, mask)
        self.in_message, self.stream, self.rest = False, None, b""

    def receive(self, data):
        """The events of some bytes from the client. Raises ValueError for what is none."""
        self.buffer += data
        while self.frame or self.read_head():
            final, opcode, left, mask = self.frame
            piece = self.buffer[:left]
            if len(piece) < left and (opcode > 7 or not piece):    # control frames are taken whole
                return
            text, turn, left = unmask(piece, mask), len(piece) % 4, left - len(piece)
            self.buffer = self.buffer[len(piece):]
            self.frame = (final, opcode, left, mask[turn:] + mask[:turn]) if left else None
            if opcode == 8:
                yield "reply", None, websocket_frame(8, text[:2])
                yield "gone", None, b""
            elif opcode == 9:
                yield "reply", None, websocket_frame(10, text)
            elif opcode < 3:
                yield from self.read_message(text)
                self.in_message = not final or left > 0

    def read_head(self):
        """Take the head of a frame off the buffer; whether it was complete. Raises ValueError."""
        if len(self.buffer) < 2:
            return False
        first, second = self.buffer[0], self.buffer[1]
        size, opcode, final = second & 127, first & 127, first >> 7
        at = 2 + {126: 2, 127: 8}.get(size, 0)
        if len(self.buffer) < at + 4:
            return False
        known = (0, 8, 9, 10) if self.in_message else (1, 2, 8, 9, 10)
        is_long_control = opcode > 7 and (size > 125 or not final)
        if opcode not in known or not second >> 7 or is_long_control:
            raise ValueError("not a frame of a WebSocket's client")
        left = int.from_bytes(self.buffer[2:at], "big") if at > 2 else size
        self.frame = final, opcode, left, self.buffer[at:at + 4]
        if opcode in (1, 2):
            self.stream, self.rest = None, b""
        self.buffer = self.buffer[at + 4:]
        return True

    def read_message(self, text):
        """The events of a piece of a message."""
        if self.channels and self.stream is None and text:
            self.stream, text = text[0] - 48 * self.encoded, text[1:]
        if self.encoded:
            text, whole = self.rest + text, (len(self.rest) + len(text)) // 4 * 4
            text, self.rest = base64.b64decode(text[:whole]), text[whole:]
        if self.closes and self.stream == 255:
            yield from (("end", stream, b"") for stream in text)
        elif text:
            yield "data", self.stream, text

    def data(self, stream, text):
        """The bytes that say so much on a stream."""
        text = base64.b64encode(text) if self.encoded else text
        text = bytes([stream + 48 * self.encoded]) + text if self.channels else text
        return websocket_frame(1 if self.encoded else 2, text)

    def end(self, stream):
        return b""  # nothing can be said of one stream alone

    def goodbye(self):
        return websocket_frame(8, struct.pack("!H", 1000))

# SPDY/3, 2.6.10.1
SPDY_WORDS = b"".join(struct.pack(">I", len(word)) + word.replace("_", " ").encode() for word in (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base "
    "content-encoding content-language content-length content-location content-md5 "
    "content-range content-type date etag expect expires from host if-match if-modified-since "
    "if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer "
    "transfer-encoding upgrade user-agent vary via warning www-authenticate method get status "
    "200_OK version HTTP/1.1 url public set-cookie keep-alive origin").split()) + (
    b"10010120120220520630030230330430530630740240540640740840941041141241341441541641750250450"
    b"5203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 "
    b"Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 "
    b"Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, "
    b"Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    b"application/xml,application/xhtml+xml,text/plain,text/javascript,"
    b"publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.")
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7

class Spdy:
    """The server's side of SPDY/3.1 as Kubernetes uses it: its library (moby/spdystream) neither
    sends nor heeds WINDOW_UPDATE, so that the flow is TCP's to control."""
    channels = False

    def __init__(self):
        import zlib
        self.buffer, self.left, self.stream = b"", 0, 0
        self.final, self.last, self.zlib = False, 0, zlib
        self.inflate = zlib.decompressobj(zdict=SPDY_WORDS)
        self.deflate = zlib.compressobj(zdict=SPDY_WORDS)

    def receive(self, data):
        """The events of some bytes from the client. Raises ValueError where they break the
        protocol."""
        self.buffer += data
        while True:
            piece = self.buffer[:self.left]
            self.buffer, self.left = self.buffer[len(piece):], self.left - len(piece)
            if piece:
                yield "data", self.stream, piece
            if self.final and not self.left:
                self.final = False
                yield "end", self.stream, b""
            if self.left or len(self.buffer) < 8:
                return
            word, size = struct.unpack_from(">II", self.buffer)
            flags, size = size >> 24, size & 0xffffff
            if word >> 31 == 0:
                self.stream, self.left, self.final = word, size, bool(flags & 1)
                self.buffer = self.buffer[8:]
                continue
            if size > HEAD_BYTES or word >> 16 != 0x8003:
                raise ValueError("not a control frame of SPDY/3's")
            if len(self.buffer) < 8 + size:
                return
            body, self.buffer = self.buffer[8:8 + size], self.buffer[8 + size:]
            yield from self.read_control(word & 0xffff, flags, body)

    def read_control(self, what, flags, body):
        """The events of a control frame; those of no use to us have none."""
        stream = int.from_bytes(body[:4], "big")
        if what == SYN_STREAM:
            self.last = stream
            no_headers = (self.deflate.compress(bytes(4)) +
                          self.deflate.flush(self.zlib.Z_SYNC_FLUSH))
            yield "reply", None, self.control(SYN_REPLY, body[:4] + no_headers)
            yield "open", stream, self.unpack(body[10:])
            yield from [("end", stream, b"")] * (flags & 1)
        elif what == PING and stream % 2:                       # else an answer to one of ours
            yield "reply", None, self.control(PING, body)
        elif what in (RST_STREAM, GOAWAY):
            yield "reset" if what == RST_STREAM else "gone", stream, b""

    def unpack(self, block):
        """The headers of a compressed block, at most HEAD_BYTES of them."""
        try:
            text, parts = self.inflate.decompress(block, HEAD_BYTES)[4:], []
        except self.zlib.error as error:
            raise ValueError(error)
        while len(text) >= 4:
            size = 4 + int.from_bytes(text[:4], "big")
            parts.append(text[4:size].decode("latin-1"))
            text = text[size:]
        return dict(zip(parts[::2], parts[1::2]))

    def wire(self, data):
        return data
    def control(self, what, body):
        return self.wire(struct.pack(">HHI", 0x8003, what, len(body)) + body)
    def data(self, stream, text):
        return self.wire(struct.pack(">II", stream, len(text)) + text) if text else b""
    def end(self, stream):
        return self.wire(struct.pack(">II", stream, 1 << 24))
    def goodbye(self):
        return self.control(GOAWAY, struct.pack(">II", self.last, 0))

class Tunnel(Spdy):
    """SPDY in the binary messages of a WebSocket."""
    def __init__(self):
        super().__init__()
        self.outer = WebSocket(channels=False)

    def receive(self, data):
        for event in self.outer.receive(data):
            yield from super().receive(event[2]) if event[0] == "data" else [event]

    def wire(self, data):
        return self.outer.data(None, data)
    def goodbye(self):
        return super().goodbye() + self.outer.goodbye()

TERMINAL = {"websocket": {"v5.channel.k8s.io": {"closes": True},
                          **dict.fromkeys(("v4.channel.k8s.io", "channel.k8s.io", ""), {}),
                          **dict.fromkeys(("v4.base64.channel.k8s.io", "base64.channel.k8s.io"),
                                          {"encoded": True})},
            "spdy/3.1": [version + "channel.k8s.io" for version in ("v4.", "v3.", "v2.", "")]}
# subresource -> {what Upgrade says, in lower case: the subprotocols, those of a WebSocket with its
# form}
UPGRADES = {"exec": TERMINAL, "attach": TERMINAL,
            "portforward": {"websocket": {"SPDY/3.1+portforward.k8s.io": None,
                                          "v4.channel.k8s.io": {},
                                          "v4.base64.channel.k8s.io": {"encoded": True}},
                            "spdy/3.1": ["portforward.k8s.io"]},
            "log": {"websocket": {**dict.fromkeys(("binary.k8s.io", ""), {"channels": False}),
                                  "base64.binary.k8s.io": {"channels": False, "encoded": True}}}}

def upgrade(headers, subresource):
    """(protocol, the subprotocol's name, the head of the 101) for a request that wants one of the
    UPGRADES of a subresource. Raises ApiError 400, 403."""
    wanted = headers.get("Upgrade", "").lower()
    known = UPGRADES[subresource].get(wanted)
    if not known or "upgrade" not in headers.get("Connection", "").lower():
        raise bad_request("Upgrade request required")
    field = "Sec-WebSocket-Protocol" if wanted == "websocket" else "X-Stream-Protocol-Version"
    offered = [name.strip() for name in headers.get(field, "").split(",")]
    name = next((name for name in offered if name in known), None)
    if name is None:
        raise ApiError(403, "Forbidden",
                       f"unable to upgrade: client supports {offered}, server {list(known)}")
    head = {"Connection": "Upgrade", "Upgrade": wanted.replace("spdy", "SPDY"),
            **filled(**{field: name})}
    if wanted != "websocket":
        return Spdy(), name, head
    # RFC 6455, 4.2.2
    key = headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    head["Sec-WebSocket-Accept"] = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    return Tunnel() if known[name] is None else WebSocket(**known[name]), name, head

class Far:
    """A socket at a container's end, and what waits to be written to it. ended: no more will come;
    lasting: it is not told of that; deaf: it takes no more; streams: the client's streams that
    belong to it, by their kind."""
    __slots__ = ("sock", "out", "ended", "deaf", "lasting", "streams")

    def __init__(self):
        self.sock, self.out, self.streams = None, bytearray(), {}
        self.ended = self.deaf = self.lasting = False

    def take(self, what, text):
        self.ended = self.ended or what != "data"
        if not self.deaf:
            self.out += text

    def write(self):
        """Send what goes; once all is out, pass on the end."""
        try:
            send(self.sock, self.out)
            if self.ended and not self.out:
                self.deaf = True
                if not self.lasting:
                    self.sock.shutdown(socket.SHUT_WR)
        except OSError:     # it hears no more, but may still have something to say
            self.deaf = True
            self.out.clear()

    def close(self):
        self.deaf = True
        self.out.clear()
        if self.sock:
            self.sock.close()

class Session:
    """One client, and what it is connected to: a loop over all the sockets in the thread of the
    request, none of which is ever waited for alone. What one side does not take is soon not read
    from the other."""
    def __init__(self, protocol, head):
        self.protocol, self.head, self.out = protocol, head, bytearray()
        self.fars, self.gone = [], False

    def serve(self, handler):
        """Take over a request's connection until the session ends. Raises OSError."""
        handler.take_over(101, self.head)
        self.sock = handler.sock
        self.sock.setblocking(False)
        try:
            self.receive(handler.connection.buffer)
            self.run()
        except ValueError as error:
            log(f"{handler.target.partition('?')[0]}: {error}")
        finally:
            for far in self.fars:
                far.close()

    def turn(self, timeout=None):
        """Wait until something can be moved, at most so many seconds, and move it. Raises OSError,
        ValueError."""
        hungry = (sum(len(far.out) for far in self.fars) < STREAM_BYTES and
                  len(self.out) < 2 * STREAM_BYTES)
        poll, fars = select.poll(), self.waiting_fars()
        pending = bool(hungry and self.sock.pending())
        wish = select.POLLIN if hungry else select.POLLRDHUP
        poll.register(self.sock, (wish | select.POLLOUT) if self.out else wish)
        for far, wish in fars.values():
            poll.register(far.sock, wish)
        if pending:     # in TLS's own buffer, which no poll shows
            timeout = 0
        ready = dict(poll.poll(None if timeout is None else max(0, timeout) * 1000))
        if ready.pop(self.sock.fileno(), 0) & ~select.POLLOUT or pending:
            self.read_client(hungry)
        for fd, mask in ready.items():
            far, _ = fars[fd]
            if mask & select.POLLOUT:
                far.write()
            if mask & ~select.POLLOUT and far in self.fars:
                self.read_far(far)
        send(self.sock, self.out)

    def read_client(self, hungry):
        # else it hung up with much still unread
        data = unblocked(self.sock.recv, 65536) if hungry else b""
        self.gone = data == b""
        self.receive(data or b"")

    def waiting_fars(self):
        """{file descriptor: (Far, what it is waited for)}"""
        out = {}
        for far in self.fars:
            has_more = bool(far.out or far.ended and not far.deaf)
            wish = select.POLLIN * (len(self.out) < STREAM_BYTES) | select.POLLOUT * has_more
            if far.sock and wish:
                out[far.sock.fileno()] = far, wish
        return out

    def read_far(self, far):
        try:
            data = unblocked(far.sock.recv, 65536)
        except OSError:                                         # reset
            data = b""
        if data:
            self.on_far(far, data)
        elif data is not None:
            self.drop(far)

    def receive(self, data):
        for what, stream, text in self.protocol.receive(data):
            if what == "reply":
                self.out += text
            elif what == "gone":
                self.gone = True
            else:
                self.on_client(what, stream, text)

    def drop(self, far):
        self.fars.remove(far)
        far.close()

    def finish(self):
        """Say goodbye, and let the client be the one who hangs up: what it still sends would reset
        the connection."""
        for far in self.fars[:]:
            self.drop(far)
        self.out += self.protocol.goodbye()
        while self.out and not self.gone:
            self.turn()
        until = time.monotonic() + LINGER_S
        while not self.gone and time.monotonic() < until:
            self.turn(until - time.monotonic())
        send(self.sock, self.out)

class Terminal(Session):
    """exec or attach: one far end, which begins with the engine's answer to a call. wanted: the
    names of the streams; target: the path of the exec or the container; as_json: how the client
    wants the status; is_once: whether a stdin that ends has ended for good."""
    def __init__(self, engine, protocol, head, call, tty, wanted, target, as_json, is_once):
        super().__init__(protocol, head)
        self.engine, self.call, self.tty = engine, call, tty
        self.wanted, self.target, self.is_once = wanted, target, is_once
        self.as_json, self.buffer, self.sizes, self.size = as_json, b"", b"", None
        self.streams, self.far = dict(CHANNELS) if protocol.channels else {}, Far()
        self.fars, self.far.deaf = [self.far], "stdin" not in wanted

    def run(self):
        until = time.monotonic() + 30
        while not self.gone and self.wanted - self.streams.keys():
            self.turn(until - time.monotonic())
            if time.monotonic() > until:
                raise ValueError("timed out waiting for client to create streams")
        if self.protocol.channels:  # an empty message says that we are there
            self.out += self.protocol.data(min(CHANNELS[name] for name in self.wanted - {"stdin"}),
                                           b"")
        try:
            status = self.run_far()
        except EngineError as error:
            what = "executing command in" if self.target.startswith("/exec") else "attaching to"
            text = f"error {what} container: {error}"
            status = failure_status("InternalError", text, {"message": text}, code=500)
        text = dumps(status) if self.as_json else status.get("message", "").encode()
        self.out += self.protocol.data(self.streams["error"], text) if text else b""
        for name in self.wanted - {"stdin", "resize"}:
            self.out += self.protocol.end(self.streams[name])
        self.finish()

    def run_far(self):
        """Pass bytes on until the far end is done; returns the Status. Raises EngineError."""
        self.far.sock, _, rest = self.engine.stream(
            *self.call, headers=("Connection: Upgrade", "Upgrade: tcp"))
        self.far.sock.setblocking(False)
        self.on_far(self.far, rest)
        self.resize()
        # The engine attaches to what has ended too, and would wait for its next start.
        info = (self.engine.inspect(self.target.rpartition("/")[2])
                if self.target.startswith("/containers") else {})
        ended = info and not info["State"]["Running"]
        # At the end of a stdin that may come again, the engine would leave us; the container's is
        # open anyway.
        self.far.lasting = bool(info) and not (self.is_once or info["Config"]["StdinOnce"])
        until = time.monotonic() + 1 if ended else float("inf")
        while not self.gone and self.fars and time.monotonic() < until:
            self.turn(1 if ended else None)
        if ended and self.fars:
            raise EngineError(409, "container is in CONTAINER_EXITED state")
        failed = self.exit_status() if self.target.startswith("/exec") else None
        return failed or {"metadata": {}, "status": "Success"}

    def on_client(self, what, stream, text):
        if what == "open" and text.get("streamtype") in CHANNELS:
            self.streams[text["streamtype"]] = stream
        elif stream == self.streams.get("stdin", -1):
            self.far.take(what, text)
        elif stream == self.streams.get("resize", -1):
            *sizes, self.sizes = (self.sizes + text)[-4096:].split(b"}")
            self.size = json.loads(sizes[-1] + b"}") if sizes else self.size
            if self.far.sock and sizes:
                self.resize()

    def resize(self):
        """Tell the engine the terminal's size; what has ended by now needs none."""
        is_size = isinstance(self.size, dict) and {"Height", "Width"} <= self.size.keys()
        if is_size and self.tty:
            height, width = (int(self.size[key]) for key in ("Height", "Width"))
            self.engine.call("POST", f"{self.target}/resize?h={height}&w={width}",
                             expect=(400, 404, 409, 500))

    def on_far(self, far, data):
        frames, self.buffer = log_frames(self.buffer + data, self.tty)
        for number, text in frames:
            name = "stderr" if number == 2 else "stdout"
            self.out += (self.protocol.data(self.streams[name], text) if text and
                         name in self.wanted else b"")

    def exit_status(self):
        """The Status of a command that failed, once it has ended; None for one that did well."""
        pause, info = 0.01, self.engine.look_at_exec(self.target)
        while info["Running"] and not self.gone:    # it may have closed its output and go on
            self.turn(pause)
            pause, info = min(pause * 2, 1), self.engine.look_at_exec(self.target)
        code = info["ExitCode"]
        text = ("command terminated with non-zero exit code: command terminated with exit "
                f"code {code}")
        return (failure_status("NonZeroExitCode", text,
                               {"reason": "ExitCode", "message": str(code)}) if code else None)

def failure_status(reason, message, cause, **more):
    """What an error stream says of what went wrong: a Status without its kind."""
    return {"metadata": {}, "status": "Failure", "message": message, "reason": reason,
            "details": {"causes": [cause]}, **more}

class Forward(Session):
    """port-forward: a far end for each pair of data and error stream of a requestid."""
    def __init__(self, protocol, head, pod, containers):
        super().__init__(protocol, head)
        self.pod, self.containers = pod, containers     # containers() -> the Founds of the pod
        self.pairs = {}     # requestid -> a Far that lacks a stream

    def run(self):
        while not self.gone:
            self.turn()
        self.finish()

    def on_client(self, what, stream, text):
        if what == "open":
            return self.open(stream, text)
        for far in [far for far in self.fars if far.streams.get("data") == stream]:
            if what == "reset":
                self.drop(far)
            else:
                far.take(what, text)

    def open(self, stream, headers):
        kind, port = headers.get("streamtype"), headers.get("port", "")
        if kind not in ("data", "error") or not port_of(port) or len(self.fars) >= FORWARDS:
            self.out += self.protocol.end(stream)
            return
        # clients of old send no requestid, but the error stream first
        id_ = headers.get("requestid") or (stream - 2 if kind == "data" else stream)
        if id_ not in self.pairs:
            self.pairs[id_] = Far()     # data may come before the error stream is there
            self.fars.append(self.pairs[id_])
        self.pairs[id_].streams[kind] = stream
        if len(self.pairs[id_].streams) == 2:
            self.connect(self.pairs.pop(id_), port_of(port))

    def connect(self, far, port):
        try:
            far.sock = connect_inside(
                next((found.pid for found in self.containers() if found.running), 0), port)
            far.sock.setblocking(False)
        except OSError as error:
            text = (f"error forwarding port {port} to pod {self.pod}: "
                    f"{(error.strerror or str(error)).lower()}")
            self.out += self.protocol.data(far.streams["error"], text.encode())
            self.drop(far)

    def on_far(self, far, data):
        self.out += self.protocol.data(far.streams["data"], data)

    def drop(self, far):
        super().drop(far)
        self.pairs = {id_: each for id_, each in self.pairs.items() if each is not far}
        for stream in far.streams.values():
            self.out += self.protocol.end(stream)

class ForwardByChannel(Forward):
    """port-forward in a WebSocket without SPDY: two channels a port, for data and errors, which
    begin with its number (kubelet, portforward/websocket.go)."""
    def __init__(self, protocol, head, pod, containers, ports):
        super().__init__(protocol, head, pod, containers)
        self.ports = ports
        for number, _ in enumerate(ports):
            far = Far()
            far.streams = {"data": 2 * number, "error": 2 * number + 1}
            self.fars.append(far)

    def run(self):
        for far, port in zip(list(self.fars), self.ports):
            for stream in far.streams.values():
                self.out += self.protocol.data(stream, struct.pack("<H", port))
            self.connect(far, port)
        while self.fars and not self.gone:
            self.turn()
        self.finish()

def port_of(word):
    """The number of a port that a client names; 0 for what is none."""
    return int(word) if re.fullmatch("[0-9]{1,5}", word) and int(word) < 65536 else 0

def forwarded_ports(request):
    """The ports that a request for ForwardByChannel names. Raises ApiError 400."""
    words = ",".join(value for name, value in request.options if name == "ports").split(",")
    ports = list(map(port_of, words))
    if len(words) > FORWARDS or not all(ports):
        raise bad_request(f"the query wants ports=NUMBER, of 1 to 65535, at most {FORWARDS}")
    return ports

# -- logs
STAMP = re.compile(rb"\A\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d) ")
def log_text(sock, buffer, tty, stamped=False, waits=lambda: True):
    """The text of a log, piece by piece as the socket has it; waits() blocks until it has more, or
    ends it by False. stamped: every frame has its time; of a line too long for one frame the first
    alone keeps it."""
    is_line = True
    while True:
        frames, buffer = log_frames(buffer, tty)
        texts = []
        for _, text in frames:
            texts.append(text if is_line or not stamped or tty else STAMP.sub(b"", text))
            is_line = text.endswith(b"\n")
        yield b"".join(texts)
        got = waits() and sock.recv(65536)
        if not got:
            return
        buffer += got

def serve_log(handler, sock, pieces_of, limit, follow, skip, socket_of=(None, None)):
    """Pass a container's log on, without its first lines to skip, until it ends, the client goes
    (or says anything while it follows), or limit bytes are out. pieces_of(waits) -> the text of
    the log; socket_of: the protocol and the head of a WebSocket, if the client has one. Who reads
    slowly is waited for, and nothing more is read meanwhile."""
    ends, (protocol, head) = select.poll(), socket_of
    for end in (sock, handler.sock):
        ends.register(end, select.POLLIN)
    has_more = (lambda: not follow or
                not any(end == handler.sock.fileno() for end, _ in ends.poll()))
    plain = {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}
    with sock:
        handler.take_over(101 if protocol else 200, head or plain)
        handler.sock.settimeout(None)   # a pager may stand still for long
        for text in pieces_of(has_more):
            lines = text.split(b"\n", skip) if skip else [text]
            skip -= len(lines) - 1
            text = b"" if skip else lines[-1][:limit]
            if text:
                handler.sock.sendall(protocol.data(None, text) if protocol else chunk(text))
                limit = None if limit is None else limit - len(text)
            if limit == 0:
                break
        handler.sock.sendall(protocol.goodbye() if protocol else b"0\r\n\r\n")

def serve_proxy(handler, sock, data):
    """Send data, a whole request, and pass the answer on as it comes, until it ends."""
    handler.keep = False
    with sock:
        sock.settimeout(IO_SECONDS)
        sock.sendall(data)
        head, rest = read_answer_head(sock)
        lines = [line for line in head.split(b"\n")
                 if not line.lower().startswith(b"connection:")]
        handler.write(b"\n".join(lines).rstrip(b"\r") + b"\r\nConnection: close\r\n\r\n" + rest)
        for got in iter(lambda: sock.recv(65536), b""):
            handler.write(got)

# -- the requests
WAITING = {  # reason -> what is said to those who want its log
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image"}
# headers that the proxied server does not get
HIDDEN = "authorization", "connection", "host", "transfer-encoding", "content-length", "expect"

def chosen_container(pod, name):
    """The name of the container that a request is for. Raises ApiError 400."""
    names = [container["name"] for _, container in containers_of(pod["spec"])]
    if name and name not in names:
        raise bad_request(f"container {name} is not valid for pod {name_of(pod)}")
    if not name and len(pod["spec"]["containers"]) > 1:
        raise bad_request(
            f"a container name must be specified for pod {name_of(pod)}, choose one of: {names}")
    return name or pod["spec"]["containers"][0]["name"]

def log_numbers(request):
    """The numbers in PodLogOptions, and when to begin. Raises ApiError 400, 422."""
    query, faults, numbers, begin = request.query, Faults(), {}, exact_seconds("")
    for field in [field for field in ("tailLines", "limitBytes", "sinceSeconds")
                  if field in query]:
        numbers[field], least = request.number(field), 0 if field == "tailLines" else 1
        if numbers[field] < least:
            faults.add(field, "Invalid", "is too small")
    if query.get("sinceTime") and seconds_of(query["sinceTime"]) is None:
        raise bad_request(f"sinceTime: {query['sinceTime'][:80]!r} is no time, RFC 3339")
    if "sinceSeconds" in query and "sinceTime" in query:
        faults.add("", "Forbidden", "sinceTime and sinceSeconds exclude each other")
    if "stream" in query:                # its feature gate is off in this version
        faults.add("stream", "Forbidden", "the streams of a log come together")
    faults.check(SUB_KINDS["exec"]._replace(name="PodLogOptions"), request.name)
    if "sinceSeconds" in query:
        begin = f"{time.time() - numbers['sinceSeconds']:020.9f}"
    return numbers, max(begin, exact_seconds(query.get("sinceTime")))

def log_span(found, last, previous):
    """(container, when its log begins, when it ends) of a run: one log holds all runs of a
    container; each begins where the one before it ended, and is cut off there."""
    if not previous:
        return found.id, found.run_began, ""
    id_ = last.get("containerID", found.id).rpartition("/")[2]
    if id_ != found.id:
        return id_, "", ""
    return ((id_, found.prior_began, found.run_began) if found.running
            else (id_, found.run_began, ""))

class AtPod:
    """What requests for a pod's log, streams and ports are answered. Any thread."""
    def __init__(self, settings, store, access, engine, known):
        self.settings, self.store, self.access = settings, store, access
        self.engine, self.known = engine, known
        self.by_subresource = {"log": self.log, "proxy": self.proxy, "exec": self.connect,
                               "attach": self.connect, "portforward": self.connect}

    def pod_of(self, request):
        pod = self.store.get("Pod", request.namespace or "", request.name)
        if not pod:
            raise not_found(KIND["Pod"], request.name)
        return pod

    def log(self, request):
        """A container's log, of this run or the one before."""
        (numbers, begin), pod = log_numbers(request), self.pod_of(request)
        name = chosen_container(pod, request.query.get("container"))
        if not pod["spec"].get("nodeName"):
            return answer(204, b"", "text/plain")
        found, previous = self.known.found(uid_of(pod)).get(name), request.flag("previous")
        last = self.check_log(pod, name, found, previous)
        id_, since, until = log_span(found, last, previous)
        follow, stamped, tail, skip = request.flag("follow"), request.flag("timestamps"), "all", 0
        asked = {"stdout": 1, "stderr": 1, "follow": int(follow), "timestamps": int(stamped)}
        for bound, at in (("since", max(exact_seconds(since), begin)),
                          ("until", exact_seconds(until))):
            if at.strip("0."):
                asked[bound] = at.lstrip("0")
        try:
            if until and "tailLines" in numbers:
                skip = max(0, self.count_lines(id_, asked, found.tty) - numbers["tailLines"])
            else:
                tail = numbers.get("tailLines", "all")
            protocol = head = None
            if request.headers.get("Upgrade", "").lower() == "websocket":
                protocol, _, head = upgrade(request.headers, "log")
            sock, rest = self.engine.log(id_, {**asked, "tail": tail})
        except EngineError as error:
            raise bad_request(f"unable to retrieve container logs for docker://{id_}: {error}")
        pieces_of = lambda waits: log_text(sock, rest, found.tty, stamped, waits)
        return lambda handler: serve_log(handler, sock, pieces_of, numbers.get("limitBytes"),
                                         follow, skip, (protocol, head))

    @staticmethod
    def check_log(pod, name, found, previous):
        """The last run of a container that has a log. Raises ApiError 400 for none."""
        status = next((s for field in STATUS_FIELDS.values()
                       for s in dig(pod, f"status.{field}", ()) if s["name"] == name), None)
        last, reason = dig(status, "lastState.terminated"), dig(status, "state.waiting.reason")
        text = ""
        if previous and not (last and found):
            text = f'previous terminated container "{name}" not found'
        elif not status:
            text = f'container "{name}" is not available'
        elif reason and not last and not previous:
            text = f'container "{name}" is waiting to start: {WAITING.get(reason, reason)}'
        elif not found:
            text = f'container "{name}" is terminated'
        if text:
            raise bad_request(f'{text} in pod "{name_of(pod)}"')
        return last

    def count_lines(self, id_, asked, tty):
        """How many lines a part of a log has: the engine counts from the end of all runs."""
        sock, rest = self.engine.log(id_, asked)
        with sock:
            return sum(text.count(b"\n") for text in log_text(sock, rest, tty))

    def proxy(self, request):
        """Pass a request on to a port of a pod, or of what is behind a Service: NAME, NAME:PORT or
        https:NAME:PORT."""
        parts = request.name.split(":")
        scheme = parts.pop(0) if len(parts) > 2 else ""
        name, port = [*parts, ""][:2]
        obj = self.store.get(request.kind.id, request.namespace, name)
        if not obj:
            raise not_found(request.kind, name)
        host, port = (self.service_target(obj, port) if obj["kind"] == "Service"
                      else self.pod_target(obj, port))
        if not is_endpoint(host) or is_own_address(host) or (
                ipaddress.ip_address(host) in self.settings.service_cidr):
            raise forbidden(request.kind, name, f"{host} is no pod's own address, and may be "
                            "that of the host")
        try:
            sock = dial(host, int(port), time.monotonic() + IO_SECONDS)
            if scheme == "https":
                sock = unverified_tls().wrap_socket(sock, server_hostname=host)
        except (OSError, ValueError) as error:
            raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {error}")
        path = re.match(r"(?:/+[^/?]+){7}(.*)", request.target)[1]      # what follows /proxy
        headers = {**without(request.headers, *HIDDEN), "host": f"{host}:{port}",
                   "connection": "close", "content-length": str(len(request.body)),
                   "x-forwarded-uri": request.target.partition("?")[0]}
        lines = [f"{request.method} {path if path[:1] == '/' else '/' + path} HTTP/1.1",
                 *(f"{field}: {value}" for field, value in headers.items())]
        data = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + request.body
        return lambda handler: serve_proxy(handler, sock, data)

    def service_target(self, service, port):
        """(address, port) of a ready endpoint. Raises ApiError 503."""
        wanted = [p for p in service["spec"].get("ports", ())
                  if port in ("", p.get("name"), str(p["port"]))]
        slices = slices_of(self.store, *key_of(service))
        ends = ready_endpoints(slices, wanted[0].get("name", "")) if wanted else []
        if not ends:
            raise ApiError(503, "ServiceUnavailable",
                           f'no endpoints available for service "{name_of(service)}"')
        return random.choice(ends)

    @staticmethod
    def pod_target(pod, port):
        ports = [p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports", ())]
        host = dig(pod, "status.podIP")
        if not host:
            raise bad_request("the pod has no address yet")
        return host, port or (ports or [80])[0]

    def connect(self, request):
        """exec, attach and portforward: what takes the connection over, or the kubelet's refusal.
        Raises ApiError."""
        what, pod = request.subresource, self.pod_of(request)
        if request.method == "HEAD":
            raise wrong_method()
        self.access.require(request, "create")  # for a GET too, since Kubernetes 1.35
        name = (chosen_container(pod, request.query.get("container")) if what != "portforward"
                else None)
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {request.name} does not have a host assigned")
        protocol, version, head = upgrade(request.headers, what)
        containers = lambda: list(self.known.found(uid_of(pod)).values())
        if what == "portforward":
            if not any(found.running for found in containers()):
                return text_answer(500, f'pod not found ("{request.name}_{request.namespace}")')
            whole = protocol, head, request.name, containers
            by_channel = isinstance(protocol, WebSocket)
            return (ForwardByChannel(*whole, forwarded_ports(request)) if by_channel else
                    Forward(*whole)).serve
        found = next((f for f in containers() if f.container == name and f.running), None)
        if not found:
            return text_answer(500, f'container not found ("{name}")')
        spec = container_named(pod["spec"], name)
        return self.terminal(request, found, spec, protocol, version, head)

    def terminal(self, request, found, spec, protocol, version, head):
        """exec or attach to a running container; spec: as the pod describes it."""
        is_exec, tty = request.subresource == "exec", request.flag("tty")
        wanted = {each for each in ("stdin", "stdout", "stderr") if request.flag(each)} - (
            {"stderr"} if tty else set())
        if not wanted:
            return text_answer(400, "you must specify at least 1 of stdin, stdout, stderr")
        target = "/containers/" + found.id
        call = "POST", target + "/attach?stream=1&" + "&".join(f"{each}=1" for each in wanted)
        if is_exec:
            command = [value for key, value in request.options if key == "command"]
            body = {**{"Attach" + each.title(): True for each in wanted}, "Tty": tty,
                    "Cmd": command}
            try:
                target = self.engine.make_exec(found.id, body)
            except EngineError as error:
                return text_answer(500, str(error))
            call = "POST", target + "/start", {"Detach": False, "Tty": tty}
        wanted.add("error")
        if tty and version not in ("v2.channel.k8s.io", "channel.k8s.io"):
            wanted.add("resize")
        is_once = bool(spec.get("stdinOnce"))       # Podman does not tell
        return Terminal(self.engine, protocol, head, call, tty if is_exec else found.tty, wanted,
                        target, version[:2] in ("v4", "v5"), is_once).serve

# == 36. Usage ===============================================================================
# metrics.k8s.io: what containers and the machine use. Measured when somebody asks; else nothing
# runs. A cgroup's files cost microseconds; the engine's stats, where those files are not in reach,
# a second or two.
WINDOW_S = 1, 30                # a rate is over so many seconds, at least and at most
Sample = namedtuple("Sample", "time cpu_nanos memory_bytes")        # memory: the working set
def file_number(path, name=""):
    return int(re.search(rf"(?m)^{name} ?(\d+)$", read_text(path))[1])

def cgroup_paths(pid, proc):
    """{controller: path} of a process's cgroups; "" of version 2."""
    lines = [line.split(":", 2) for line in read_text(f"{proc}/{pid}/cgroup").splitlines()]
    return {name: path for _, names, path in lines for name in names.split(",")}

def cgroup_sample(id_, pid, root="/sys/fs/cgroup", proc="/proc"):
    """The Sample of a container by its process, None where that process or its cgroup cannot be
    seen from here."""
    try:
        paths = cgroup_paths(pid, proc)
        if "memory" in paths:                   # version 1: a hierarchy for each controller
            cpu, memory = (f"{root}/{name}{paths[name]}" for name in ("cpuacct", "memory"))
            nanos = file_number(f"{cpu}/cpuacct.usage")
            words = ("memory.usage_in_bytes", "total_inactive_file")
        else:
            cpu = memory = root + paths[""]
            nanos = file_number(f"{cpu}/cpu.stat", "usage_usec") * 1000
            words = "memory.current", "inactive_file"
        used = file_number(f"{memory}/{words[0]}")
        idle = file_number(f"{memory}/memory.stat", words[1])
        # Another id: a namesake, as the engine counts processes in a namespace of its own.
        return Sample(time.time(), nanos, max(0, used - idle)) if id_ in cpu else None
    except (OSError, LookupError, TypeError):
        return None

def machine_sample(stat, meminfo):
    """The Sample of the machine by /proc/stat (hundredths of seconds; idle and iowait come fourth
    and fifth) and /proc/meminfo."""
    ticks = [int(number) for number in stat.split("\n", 1)[0].split()[1:9]]
    total, free = (int(re.search(rf"{name}: +(\d+)", meminfo)[1]) << 10
                   for name in ("MemTotal", "MemAvailable"))
    return Sample(time.time(), (sum(ticks) - ticks[3] - ticks[4]) * 10 ** 7, total - free)

def stats_samples(stats):
    """The two Samples in the engine's stats of a container, None if it ended meanwhile."""
    memory = dig(stats, "memory_stats", {})
    times = [seconds_of(dig(stats, x)) for x in ("preread", "read")]
    if not all(times) or "usage" not in memory:
        return None
    idle = dig(memory, "stats.total_inactive_file", dig(memory, "stats.inactive_file", 0))
    return [Sample(at, dig(stats, f"{part}.cpu_usage.total_usage", 0),
                   max(0, memory["usage"] - idle))
            for at, part in zip(times, ("precpu_stats", "cpu_stats"))]

def usage_of(before, after):
    """usage of metrics.k8s.io between two Samples."""
    nanos = max(0, after.cpu_nanos - before.cpu_nanos) / max(after.time - before.time, 0.001)
    return {"cpu": quantity_text(round(nanos)), "memory": f"{after.memory_bytes >> 10}Ki"}

def is_measured(found):
    return found.running and found.container != SANDBOX

class Usage:
    """Measures for requests; keeps a sample of each thing measured, so that a question soon after
    need not wait."""
    def __init__(self, settings, store, engine, known):
        self.settings, self.store, self.engine, self.known = settings, store, engine, known
        # lock: one measures at a time, the others gain
        self.lock, self.before = threading.Lock(), {}

    @staticmethod
    def sample(key):
        return (cgroup_sample(*key) if key
                else machine_sample(read_text("/proc/stat"), read_text("/proc/meminfo")))

    def measure(self, keys):
        """{key: (Sample, Sample)}; a key is (container's id, pid), of the machine ()."""
        with self.lock:
            begin, out = time.time(), {}
            known = {key: old for key, old in self.before.items()
                     if 0 <= begin - old.time < WINDOW_S[1]}
            first = {key: known.get(key) or self.sample(key) for key in keys}
            seen = {key: old for key, old in first.items() if old}
            asked = [threading.Thread(target=self.ask, args=(key, out))
                     for key in first.keys() - seen.keys()]
            for thread in asked:
                thread.start()
            time.sleep(max([0, *(old.time + WINDOW_S[0] - time.time() for old in seen.values())]))
            out.update((key, (old, self.sample(key))) for key, old in seen.items())
            self.before = {**known, **seen}
            for thread in asked:
                thread.join()
            return {key: pair for key, pair in out.items() if pair and pair[1]}

    def ask(self, key, into):
        """Where the cgroup is out of reach: the engine measures, for a second or two."""
        try:
            into[key] = stats_samples(
                self.engine.call("GET", f"/containers/{key[0]}/stats?stream=0", None, ENDED,
                                 "Raw"))
        except (EngineError, TypeError) as error:
            log(f"stats of {key[0][:12]}: {error}")

    @staticmethod
    def metrics(obj, pairs, **usage):
        """The NodeMetrics or PodMetrics of an object."""
        window = max(after.time - before.time for before, after in pairs)
        meta = {**pick(obj["metadata"], ("name", "namespace", "labels")),
                "creationTimestamp": now()}
        return {"kind": obj["kind"] + "Metrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": meta, "timestamp": now(), "window": f"{window:.3f}s", **usage}

    def nodes(self, nodes):
        # of others, which somebody made, nothing is known
        own, pairs = self.settings.node, self.measure([()])
        return [self.metrics(node, pairs.values(), usage=usage_of(*pairs[()])) for node in nodes
                if name_of(node) == own]

    def pods(self, pods):
        running = {uid_of(pod): pod for pod in pods if dig(pod, "status.phase") == "Running"}
        found = {uid: list(filter(is_measured, self.known.found(uid).values())) for uid in running}
        pairs = self.measure([(f.id, f.pid) for each in found.values() for f in each])
        out = []
        for uid, pod in running.items():
            own = {f.container: pairs[f.id, f.pid] for f in found[uid] if (f.id, f.pid) in pairs}
            told = [{"name": name, "usage": usage_of(*pair)} for name, pair in own.items()]
            if told:
                out.append(self.metrics(pod, own.values(), containers=told))
        return out

    def answer(self, request):
        """What pods or the node use, one or a list of them, measured now. Raises ApiError 404."""
        check_options("ListOptions", request.query)
        kind, wanted, form = request.kind, request.selection(), request.form
        home = KIND[kind.name.replace("Metrics", "")]
        _, rows = self.store.snapshot(home.id, request.namespace)
        objects = [json.loads(row.raw) for key, row in rows
                   if wanted.matches(key, row.raw, row.labels)]
        measured = self.nodes(objects) if home.id == "Node" else self.pods(objects)
        if request.name and not measured:
            raise not_found(home if not objects else kind._replace(plural=kind.singular),
                            request.name)
        return (reply(request, 200, measured[0]) if request.name
                else listed(kind, map(dumps, measured), {}, form))

# -- /metrics, in the text format of Prometheus 0.0.4
class Counts:
    """What is counted as requests come; all else is looked at when somebody asks."""
    def __init__(self):
        self.lock, self.requests, self.seconds = threading.Lock(), Counter(), Counter()

    def note(self, method, code, seconds):
        method = method if method in METHODS else "other"       # a client may think of any word
        with self.lock:
            self.requests[method, str(code)] += 1
            self.seconds[method,] += seconds

    def rows(self):
        """(name, its type, the names of its labels, {their values: figure}) of each."""
        with self.lock:
            requests, seconds = dict(self.requests), dict(self.seconds)
        yield "apiserver_request_total", "counter", ("verb", "code"), requests
        yield "apiserver_request_duration_seconds_sum", "counter", ("verb",), seconds

def metrics_text(rows):
    """The text of rows as Counts gives them."""
    lines = []
    for name, type_, labels, figures in rows:
        lines.append(f"# TYPE {name} {type_}")
        for values, figure in sorted(figures.items()):
            told = ",".join(f'{label}="{value}"' for label, value in zip(labels, values))
            lines.append(f"{name}{{{told}}} {figure}" if told else f"{name} {figure}")
    return "\n".join(lines) + "\n"

def container_rows(pods, found_of):
    """The rows of what containers use. found_of(uid): {container: Found}."""
    cpu, memory = {}, {}
    for pod in pods:
        for name, found in found_of(uid_of(pod)).items():
            sample = cgroup_sample(found.id, found.pid) if found.running else None
            if sample:
                where = *key_of(pod), name
                cpu[where], memory[where] = sample.cpu_nanos / 1e9, sample.memory_bytes
    labels = ("namespace", "pod", "container")
    yield "container_cpu_usage_seconds_total", "counter", labels, cpu
    yield "container_memory_working_set_bytes", "gauge", labels, memory

# == 37. Node and Events =====================================================================
# What k2d tells of itself: the machine as a Node, its Lease, and what happens, as Events.

def present_devices(settings):
    """{resource: "1" or "0"} of the devices that have a name: it is there as long as any is."""
    return {OWN_RESOURCE + name: str(int(bool(device_nodes(patterns))))
            for name, patterns in settings.devices.items()}

class NodeKeeper:
    """The Node object: this machine as the engine describes it."""
    def __init__(self, settings, store, engine, network):
        self.settings, self.store, self.engine, self.network = settings, store, engine, network
        self.info = {}      # the engine's /info
        self.devices = {}   # of status.capacity
        self.ready = False                              # whether the engine answers
        self.short = dict.fromkeys(PRESSURES, False)    # what the machine is short of
        self.images = []    # status.images of the node: the largest, as the kubelet tells them

    def capacity(self, node):
        """What the machine has, and what somebody has said that it has besides."""
        told = dig(node, "status.capacity", {})
        self.devices = present_devices(self.settings)
        return {"cpu": str(self.info.get("NCPU", 1)),
                "memory": f"{self.info.get('MemTotal', 0) >> 10}Ki", "pods": "110",
                "ephemeral-storage": f"{disk_bytes(self.settings.data_path) >> 10}Ki",
                **{name: amount for name, amount in told.items()
                   if "/" in name and not name.startswith(OWN_RESOURCE)},
                **self.devices}

    def conditions(self, ready, node):
        trouble = self.network.problem
        rows = [("NetworkUnavailable", "True" if trouble else "False",
                 "NoNAT" if trouble else "RulesInstalled",
                 trouble or "Services are rules of the kernel's NAT"),
                *self.pressures(),
                ("PIDPressure", "False", "KubeletHasSufficientPID",
                 "the engine has sufficient PID available"),
                ("Ready", "True" if ready else "Unknown",
                 "KubeletReady" if ready else "NodeStatusUnknown",
                 "the engine answers" if ready else "the engine does not answer")]
        told = [condition(dig(node, "status.conditions"), *row, lastHeartbeatTime=None)
                for row in rows]
        return [{**each, "lastHeartbeatTime": each["lastTransitionTime"]} for each in told]

    def pressures(self):
        """Rows of conditions."""
        memory, disk = self.short["MemoryPressure"], self.short["DiskPressure"]
        return [("MemoryPressure", str(memory),
                 f"KubeletHas{'Insufficient' if memory else 'Sufficient'}Memory",
                 f"less than {LEAST_MEMORY >> 20} MiB are free" if memory else "there is memory"),
                ("DiskPressure", str(disk), f"KubeletHas{'' if disk else 'No'}DiskPressure",
                 "the disk of the data path, or the engine's, is nearly full" if disk else
                 "there is room on the disk")]

    def look(self):
        """Whether memory or disk are short; the node says so from when that changes. Nobody looks
        by the clock, but while they are."""
        folders = (self.settings.data_path, self.info.get("DockerRootDir") or "/")
        disks = [free_disk(folder) for folder in folders]
        short = {"DiskPressure": any(free < LEAST_DISK and share < 0.1 for free, share in disks),
                 "MemoryPressure": free_memory() < LEAST_MEMORY}
        if short != self.short:
            self.short = short
            with self.store.transaction():
                node = self.store.get("Node", "", self.settings.node)
                if node:
                    node["status"]["conditions"] = self.conditions(self.ready, node)
                    self.store.put(node)
        return any(short.values())

    def list_images(self):
        images = [(image["RepoDigests"] + image["RepoTags"], image["Size"])
                  for image in self.engine.call("GET", "/images/json", shape="[]engine.Image")]
        images.sort(key=lambda image: -image[1])
        self.images = [{"names": names, "sizeBytes": size} for names, size in images if names][:50]

    def update(self, ready):
        """Write what is so now. Raises EngineError."""
        self.ready, info, s = ready, self.info, self.settings
        machine = ARCHITECTURES.get(info.get("Architecture"), info.get("Architecture", ""))
        if ready:
            self.list_images()
        with self.store.transaction():
            node = (self.store.get("Node", "", s.node) or
                    new_object(KIND["Node"], s.node,
                               spec={"podCIDR": str(s.pod_cidr), "podCIDRs": [str(s.pod_cidr)]}))
            node["metadata"].setdefault("labels", {}).update(
                {"kubernetes.io/hostname": s.node, "kubernetes.io/os": "linux",
                 "kubernetes.io/arch": machine, "node-role.kubernetes.io/control-plane": ""})
            capacity, machine_id = self.capacity(node), first_line("/etc/machine-id")
            node["status"] = {
                "capacity": capacity, "allocatable": capacity,
                "daemonEndpoints": {"kubeletEndpoint": {"Port": s.port}},
                "conditions": self.conditions(ready, node),
                "addresses": [{"type": "InternalIP", "address": s.host_ip},
                              {"type": "Hostname", "address": s.node}],
                **filled(images=self.images),
                "nodeInfo": {
                    "machineID": machine_id, "systemUUID": machine_id,
                    "bootID": first_line("/proc/sys/kernel/random/boot_id"),
                    "architecture": machine, "kernelVersion": info.get("KernelVersion", ""),
                    "osImage": info.get("OperatingSystem", ""),
                    "containerRuntimeVersion": f"docker://{info.get('ServerVersion', '')}",
                    "kubeletVersion": f"{SERVES}+k2d{VERSION}", "kubeProxyVersion": "",
                    "operatingSystem": "linux"}}
            self.store.put(node)

    def renew_lease(self):
        """The node's Lease, renewed when somebody looks: what it says is that k2d answers, and no
        clock must tick."""
        name, namespace = self.settings.node, "kube-node-lease"
        with self.store.transaction():
            lease = (self.store.get("Lease", namespace, name) or
                     new_object(KIND["Lease"], name, namespace,
                                spec={"holderIdentity": name, "leaseDurationSeconds": 40}))
            lease["spec"]["renewTime"] = now("micro")
            self.store.put(lease)

class Recorder:
    """Records Events: in memory, for an hour, of one source no more than it may tell."""
    def __init__(self, settings, store):
        self.settings, self.store = settings, store
        # (uid, source) -> (Events it may still tell, when that was, {what was told: Event's name})
        self.told = {}

    def names_left(self, uid, component):
        """{what was told: its Event's name} of a source, None if it has said enough."""
        at = time.monotonic()
        left, then, names = self.told.pop((uid, component), (EVENT_BURST, at, {}))
        left = min(EVENT_BURST, left + (at - then) / EVENT_REFILL_S)
        self.told[uid, component] = left - (left >= 1), at, names
        if len(self.told) > EVENTS:
            del self.told[next(iter(self.told))]
        if len(names) > 2 * EVENT_BURST:
            names.clear()
        return names if left >= 1 else None

    def event(self, obj, type_, reason, text, container=None, component="kubelet"):
        """Record an Event about an object; one that repeats is counted."""
        meta, stamp = obj["metadata"], now()
        host = self.settings.node if component == "kubelet" else ""
        namespace, path = meta.get("namespace") or "default", ""
        for at, each in containers_of(obj["spec"]) if container else ():
            if each["name"] == container:
                path = f"spec{at.partition('[')[0]}{{{container}}}"
        with self.store.transaction():
            names = self.names_left(meta["uid"], component)
            if names is None:
                return
            # names rise with time, as the kubelet's do: clients show Events of the same second in
            # their order
            name = names.setdefault((reason, text, container),
                                    f"{meta['name']}.{time.time_ns():x}")
            subject = {**pick(obj, ("kind", "apiVersion")),
                       **pick(meta, ("namespace", "name", "uid", "resourceVersion")),
                       **filled(fieldPath=path)}
            event = (self.store.get("Event", namespace, name) or
                     new_object(
                         KIND["Event"], name, namespace, involvedObject=subject, reason=reason,
                         message=text[:1024], source={"component": component, **filled(host=host)},
                         firstTimestamp=stamp, lastTimestamp=stamp, count=0, type=type_,
                         eventTime=None, reportingComponent=component, reportingInstance=host))
            event.update(count=event["count"] + 1, lastTimestamp=stamp)
            self.store.put(event)

# == 38. k2d [host] ==========================================================================
# The wiring: all the parts, how they start and end, and the engine as it comes and goes.

def notify(text):
    """Tell the service manager how it goes, if there is one (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(path.replace("@", "\0", 1) if path[:1] == "@" else path)
        sock.send(text.encode())

@contextmanager
def answering_faults(what):
    """Around what answers a request: a fault of our own is logged and answered 500."""
    try:
        yield
    except ApiError:
        raise
    except RecursionError:
        raise bad_request("the body is nested too deeply")
    except Exception as error:
        log(f"{what}: {fault_text(error)}")
        raise ApiError(500, "InternalError", "Internal error occurred: the log of k2d says more")

# the admin may ask for a copy of the database in the data path, which is for root alone
BACKUP_PATH, COPY = "/k2d/backup", "k2d.db.copy"

class K2d:
    """All the parts of one running k2d."""
    def __init__(self, settings):
        self.settings = settings
        make_folder(settings.data_path)
        self.store = Store(settings.path("k2d.db"), settings.memory_bytes // 8)
        keep_private(settings.data_path)
        # the node is the same one after its host is renamed: its pods and volumes name it
        known = [name for _, name in self.store.keys("Node")]       # of a k2d that kept no name
        first = known[0] if known and settings.node not in known else settings.node
        settings.node = self.store.fact("node") or first
        self.store.set_fact("node", settings.node)
        self.access = Access(settings, self.store)
        self.hub, self.engine = Hub(self.store), Engine(settings.docker_host)
        self.recorder = Recorder(settings, self.store)
        self.writer = Writer(settings, self.store, self.access)
        self.event = self.recorder.event
        self.network = Network(settings, self.engine, self.store, self.writer, self.event)
        self.names = Names(settings, self.store)
        self.node = NodeKeeper(settings, self.store, self.engine, self.network)
        self.worker = Worker(self)
        self.controllers = Controllers(self)
        self.usage = Usage(settings, self.store, self.engine, self.worker.known)
        self.api = Api(self.store, self.writer, self.access)
        self.api.by_kept["usage"] = self.usage.answer
        self.api.by_subresource.update(
            AtPod(settings, self.store, self.access, self.engine,
                  self.worker.known).by_subresource)
        self.store.listeners += [self.on_change, self.controllers.observe]
        self.retry_s, self.ready = 1, threading.Event()
        self.lookups = WorkQueue("lookup", self.look_up, 4, self.hub)
        self.moves = WorkQueue("move", self.move, 1, self.hub)
        self.counts, self.offset_s = Counts(), time.time() - time.monotonic()
        self.own = {        # paths that are no resources: (method, path) -> what gives their text
            ("POST", BACKUP_PATH): lambda: self.store.copy(settings.path(COPY)),
            ("GET", "/metrics"): lambda: metrics_text(self.metrics()),
            ("GET", "/metrics/cadvisor"): lambda: metrics_text(
                container_rows(self.store.list("Pod"), self.worker.known.found))}
        self.heavy = threading.Lock()       # held while a large body is worked on
        self.bulk = threading.Semaphore(BULK)       # places for large bodies that come

    def notice_clock(self):
        """A clock that was set, by years perhaps, may have ended the tokens of pods: they are all
        looked at, when the next request shows it. Without one, nobody misses them."""
        offset_s = time.time() - time.monotonic()
        if abs(offset_s - self.offset_s) > CLOCK_SET_S:
            self.offset_s = offset_s
            for key in self.store.keys("Pod"):
                self.worker.queue.add(key)

    def counted(self, handler):
        """respond(), counted."""
        begun, code = time.monotonic(), 500
        self.notice_clock()
        try:
            found = self.respond(handler)
            code = found.code if isinstance(found, Answer) else 200
            return found
        except ApiError as error:
            code = error.code
            raise
        finally:
            self.counts.note(handler.method, code, time.monotonic() - begun)

    def metrics(self):
        """The rows of /metrics."""
        yield from self.counts.rows()
        plain = lambda figure: {(): figure}
        queues = self.hub.requests, self.controllers.queue, self.worker.queue
        phases = Counter((dig(pod, "status.phase", ""),) for pod in self.store.list("Pod"))
        yield ("apiserver_longrunning_requests", "gauge", (), plain(len(self.store.watches)))
        yield ("workqueue_depth", "gauge", ("name",),
               {(queue.name,): len(queue.waiting) for queue in queues})
        yield "k2d_pods", "gauge", ("phase",), phases
        yield "k2d_engine_calls_total", "counter", (), plain(self.engine.calls)
        yield ("process_resident_memory_bytes", "gauge", (),
               plain(int(read_text("/proc/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")))
        yield "process_cpu_seconds_total", "counter", (), plain(time.process_time())
        yield "process_open_fds", "gauge", (), plain(len(list_folder("/proc/self/fd")))

    def respond(self, handler):
        """The Answer to a request, or for one that goes on a function that sends it. Raises
        ApiError; OSError where the client went away."""
        path, is_read = handler.target.partition("?")[0], handler.method in ("GET", "HEAD")
        if path in HEALTH_PATHS and is_read:
            check = path.strip("/").partition("/")[0]
            return text_answer(200,
                               f"[+]ping ok\n[+]store ok\n{check} check passed\n"
                               if "verbose" in handler.target else "ok")
        if path == "/version" and is_read:
            return version_answer(self.settings.machine)
        with answering_faults(f"{handler.method} {path}"):
            user = self.access.user(handler.headers, handler.sock.getpeercert())
            request = Request(handler.method, handler.target, handler.headers, user,
                              handler.warnings)
            admit(request, self.access)
        if request.subresource in (*CONNECTS, "log"):           # the engine may take its time
            handler.step_aside()
        if not is_read or request.subresource == "proxy":
            is_review = bool(request.kind) and request.kind.kept == "-"     # anybody may send one
            request.body = handler.read_body(SMALL_BYTES if is_review else BODY_BYTES, self.bulk)
        with answering_faults(f"{handler.method} {path}"):
            if len(request.body) < SMALL_BYTES or request.subresource == "proxy":
                return self.respond_to(request)
            with self.heavy:                                    # as a dict it is 30 times as large
                return self.respond_to(request)


    def respond_to(self, request):
        kind = request.kind
        if (kind and
            (kind.id, request.namespace, request.method) == ("Lease", "kube-node-lease", "GET")):
            self.node.renew_lease()
        if kind:
            return self.api.handle(request)
        own, found = self.own.get((request.method, request.path)), None
        if own:
            return text_answer(200, own())
        if request.method in ("GET", "HEAD"):
            address = f"{self.settings.host_ip}:{self.settings.port}"
            found = (openapi(request) if request.parts[:1] == ["openapi"]
                     else discovery(request, address))
        return found or text_answer(404, "404 page not found\n")

    def on_change(self, changes, watches):
        """Watches hear of changes; while versions move, those that want bookmarks get one a
        minute, else nothing wakes. Runs in the writer's thread."""
        if watches:
            self.hub.call(self.hub.deliver, changes, watches)
        if not self.hub.bookmarks_due and any(watch.bookmarks for watch in watches):
            self.hub.bookmarks_due = True
            self.hub.after(60, self.hub.bookmarks)

    def answer_name(self, data, longest, reply):
        """Answer a DNS query, at once unless the host's resolver has to be asked; who is too many
        for that asks again."""
        try:
            reply(answer_dns(data, self.names.resolve, longest))
        except Elsewhere:
            if len(self.lookups.waiting) < DNS_LOOKUPS:
                self.lookups.add((data, longest, reply))

    def look_up(self, key):
        data, longest, reply = key
        resolve = lambda name, type_: self.names.resolve(name, type_, from_host)
        self.hub.call(reply, answer_dns(data, resolve, longest))

    # -- start and end
    def serve(self):
        """Start every part, in this order, and wait for the signal to end."""
        self.network.check_overlap()
        bootstrap(self.settings, self.store, self.writer, self.controllers.services)
        self.network.dns_port = self.hub.serve_dns(self.settings.gateway, self.answer_name)
        self.worker.load()
        if self.settings.devices:
            self.hub.on_news(kernel_news(KERNEL_UEVENTS, 1), self.on_device)
        threading.Thread(target=self.hub.run, name="hub", daemon=True).start()
        self.connect_engine()
        self.ready.wait(10)     # what is listed should be true from the first answer on
        context = server_context(*map(self.access.file, ("server.crt", "server.key", "ca.crt")))
        try:
            self.hub.listen(self.settings.port, context,
                            lambda client: Handler(client, self.hub, self.counted).run())
        except OSError as error:
            raise SystemExit(f"k2d: port {self.settings.port}: {os.strerror(error.errno)}")
        write_file(self.settings.path("kubeconfig"), self.access.kubeconfig().encode())
        news = kernel_news(socket.NETLINK_ROUTE, ADDRESS_NEWS)
        self.hub.call(self.hub.on_news, news, self.on_address)
        self.hub.call(self.on_address)      # it may have changed since we looked
        told = f"serving {self.settings.server}"
        log(told)
        notify(f"READY=1\nSTATUS={told}")
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        log("stopping; containers go on")
        notify("STOPPING=1")
        self.hub.running = False
        self.hub.call(lambda: None)
        self.controllers.queue.close()
        self.worker.queue.close()
        self.store.close()
        os._exit(0)     # not by way of the interpreter's end, which daemon threads would disturb

    # -- the engine, as it comes and goes
    def connect_engine(self):
        threading.Thread(target=self.connect_once, name="engine", daemon=True).start()

    def connect_once(self):
        """Greet the engine, hear its events, then look at everything: in this order, so that
        nothing falls between."""
        sock = None
        try:
            self.engine.negotiate()
            self.node.info = self.engine.call("GET", "/info", shape="engine.Info")
            self.writer.runtime_names = tuple(self.node.info["Runtimes"])
            self.settings.log_driver = self.node.info["LoggingDriver"]
            self.settings.is_podman = self.engine.is_podman
            self.network.ensure()
            self.node.update(True)
            filters = urllib.parse.quote(json.dumps({"type": ["container"],
                                                     "event": list(EVENT_ACTIONS)}))
            sock, _, rest = self.engine.stream("GET", "/events?filters=" + filters)
            self.hub.call(self.hub.follow, sock, rest, self.worker.on_event, self.on_engine_gone)
            again = self.worker.known.digested
            self.worker.list_all()
            self.retry_s = 1
            threading.Thread(target=guarded, args=(self.load_archives,), daemon=True).start()
            if again:
                self.controllers.start()
        except Exception as error:
            log(f"{fault_text(error)}; trying again in {self.retry_s} s")
            if sock:
                with suppress(OSError):             # the hub has closed it
                    sock.shutdown(socket.SHUT_RDWR)     # the hub sees it end, and calls us again
            else:
                self.hub.after(self.retry_s, self.connect_engine)
            self.retry_s = min(self.retry_s * 2, 30)
            self.ready.set()

    def load_archives(self):
        """Have the engine take what lies in DATA/images, each archive once. Blocks."""
        folder = self.settings.path("images")
        for name in sorted(name for name in list_folder(folder) if name.endswith(".tar")):
            path = os.path.join(folder, name)
            try:
                about = f"{os.stat(path).st_size} {os.stat(path).st_mtime_ns}"
                if self.store.fact("archive/" + name) != about:
                    log(f"{path}: {self.engine.load(path)}")
                    self.store.set_fact("archive/" + name, about)
            except (EngineError, OSError) as error:
                log(f"{path}: {error}")

    def on_engine_gone(self):
        log("the engine hung up; its containers and our rules stay as they are")
        self.worker.known.listed, self.worker.lost_at = False, time.time()
        threading.Thread(target=guarded, args=(self.node.update, False), daemon=True).start()
        self.hub.after(self.retry_s, self.connect_engine)

    def on_digested(self):
        """Every container has been looked at for the first time."""
        self.controllers.start()
        self.ready.set()

    def on_image(self):
        guarded(self.node.update, True)

    def on_address(self):
        """Addresses or routes changed: whatever tells ours follows; the CA stays."""
        if self.settings.find_address():
            self.moves.add(("move",))

    def move(self, _):
        """This host has another address. Blocks."""
        log(f"the address of this host is {self.settings.host_ip} now")
        self.access.certify()
        self.hub.context.load_cert_chain(*map(self.access.file, ("server.crt", "server.key")))
        write_file(self.settings.path("kubeconfig"), self.access.kubeconfig().encode())
        with self.store.transaction():
            tell_address(self.settings, self.controllers.services)
        self.node.update(self.node.ready)
        self.controllers.add_all("Service", None)
        self.controllers.add("balancers")
        self.controllers.add("nat")
        for key in self.store.keys("Pod"):
            self.worker.queue.add(key)

    def on_device(self):
        """Devices came or went: the node says which are there."""
        if present_devices(self.settings) != self.node.devices:
            threading.Thread(target=guarded, args=(self.node.update, self.node.ready),
                             daemon=True).start()

def bootstrap(settings, store, writer, services):
    """The objects that every cluster has."""
    def make(kind, name, labels=None, namespace="", **fields):
        present = store.get(kind, namespace, name)
        if not present:
            writer.create(KIND[kind], namespace,
                          {"metadata": {"name": name, "labels": labels}, **fields})
        elif kind == "ClusterRole" and annotation(present, AUTO_UPDATE) != "false":
            store.put({**present, **fields})                    # an older k2d may have given more
    with store.transaction():
        for name in (*SYSTEM_NAMESPACES, "kube-node-lease"):
            make("Namespace", name)
        make("Service", "kubernetes", {"component": "apiserver", "provider": "kubernetes"},
             "default",
             spec={"type": "ClusterIP", "clusterIP": settings.kubernetes_ip,
                   "ports": [{"name": "https", "port": 443, "targetPort": settings.port}]})
        for name, rules in ROLES.items():
            make("ClusterRole", name, BOOTSTRAP, rules=rules)
        group = {"apiGroup": "rbac.authorization.k8s.io"}
        for name, names in GRANTED.items():
            subjects = [{**group, "kind": "Group", "name": each} for each in names]
            make("ClusterRoleBinding", name, BOOTSTRAP, subjects=subjects,
                 roleRef={**group, "kind": "ClusterRole", "name": name})
        for name, value in (("cluster", 2 * 10 ** 9), ("node", 2 * 10 ** 9 + 1000)):
            make("PriorityClass", f"system-{name}-critical", value=value)
        # Immediate: one node gives nothing to wait for, and `helm --wait` waits for claims that no
        # pod uses, too.
        if not store.fact("class"):                             # who takes it away means it
            make("StorageClass", "local",
                 metadata={"name": "local", "annotations": {IS_DEFAULT: "true"}},
                 provisioner=PROVISIONER, volumeBindingMode="Immediate", allowVolumeExpansion=True)
        store.set_fact("class", "made")
        for crd in store.list("CustomResourceDefinition"):
            if is_condition(crd, "Established"):
                register(crd)
        tell_address(settings, services)

def tell_address(settings, services):
    """Have the Service kubernetes lead to this host."""
    ip, port = settings.host_ip, {"name": "https", "port": settings.port, "protocol": "TCP"}
    services.derive("Endpoints", "default", "kubernetes", {}, "k2d", None,
                    {"subsets": [{"addresses": [{"ip": ip}], "ports": [port]}]})
    services.derive("EndpointSlice", "default", "kubernetes", {SERVICE_NAME: "kubernetes"},
                    "k2d", None, {
                        "addressType": "IPv4", "ports": [port],
                        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}}]})

def serve(settings):
    """Serve until SIGTERM; the containers outlive it."""
    os.umask(0o022)
    # no honest object is deeper; deeper JSON must not use up a small stack
    sys.setrecursionlimit(500)
    # 3.13's json has a limit of its own
    threading.stack_size(512 << 10 if sys.version_info < (3, 13) else 8 << 20)
    import resource
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), most))
    # for sigwait; threads inherit it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    K2d(settings).serve()

# == 39. Check [host] ========================================================================
# What a machine must have for k2d, and what to do where it lacks, for `check`, `install` and
# `status`.
Finding = namedtuple("Finding", "about level found cure")   # level: good, warning, fault

def warn_if(about, is_bad, found, cure):
    return Finding(about, "warning" if is_bad else "good", found, cure if is_bad else "")

def fault_if(about, is_bad, found, cure):
    return warn_if(about, is_bad, found, cure)._replace(level="fault" if is_bad else "good")

PROGRAMS = {"openssl": "openssl", "iptables": "iptables", "ip": "iproute2", "mount": "mount",
            "nsenter": "util-linux"}        # and Debian's packages that they come with
CGROUP_CURE = ("limits of memory are not kept: add  cgroup_enable=memory cgroup_memory=1  to the "
               "one line of /boot/firmware/cmdline.txt (once /boot/cmdline.txt), and restart")

def has_memory_cgroup():
    """Whether the kernel keeps limits of memory; a stock Raspberry Pi does not."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "memory" in read_text("/sys/fs/cgroup/cgroup.controllers").split()
    return bool(re.search(r"(?m)^memory\s.*\s1$", read_text("/proc/cgroups")))

def answer_by(settings, method, path, seconds=60):
    """What the k2d of a data path answers its admin, "" if it does not. Raises SystemExit where it
    refuses."""
    import http.client
    try:
        context = ssl.create_default_context(cafile=settings.path("pki", "ca.crt"))
        token = re.search(r"token: (\S+)", read_text(settings.path("kubeconfig")))[1]
        client = http.client.HTTPSConnection("127.0.0.1", settings.port, timeout=seconds,
                                             context=context)
        client.request(method, path, headers={"Authorization": "Bearer " + token})
        found = client.getresponse()
        text = found.read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    if found.status >= 300:
        raise SystemExit(f"k2d: {text.strip()}")
    return text

def port_holder(settings):
    """"" where the API's port is free or k2d's own, else what is wrong with it."""
    try:
        socket.create_server(("", settings.port)).close()
        return ""
    except OSError as error:
        return "" if answer_by(settings, "GET", "/version", 5) else error.strerror

def check_machine(settings):
    """Findings on programs, the kernel, and what there is of memory, disk and ports."""
    yield fault_if("user", os.geteuid(), f"number {os.geteuid()}", "call it by sudo")
    for program, package in PROGRAMS.items():
        code, _ = run(program, "--version")
        yield fault_if(program, code == 127, "missing" if code == 127 else "there",
                       f"apt-get install {package}")
    has_memory = has_memory_cgroup()
    yield warn_if("cgroup", not has_memory, "memory" if has_memory else "no memory", CGROUP_CURE)
    year = time.gmtime().tm_year
    yield warn_if("clock", year < 2024, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                  "set it, or wait for the network's time: certificates of others are not valid")
    memory = free_memory()
    yield warn_if("memory", memory < 64 << 20, f"{memory >> 20} MiB free", "k2d wants some 30 MiB")
    free, share = free_disk(settings.data_path)
    yield warn_if("disk", free < 200 << 20, f"{free >> 20} MiB free, {share:.0%}",
                  f"make room where {settings.data_path} is: docker image prune")
    holder = port_holder(settings)
    yield fault_if("port", holder, f"{settings.port} {holder}".strip(), "choose another by --port")

def check_network(settings):
    """Findings on NAT and on ranges of addresses."""
    code, text = run("iptables", "-w", "-t", "nat", "-S")
    lines = text.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
    backend = run("iptables", "--version")[1].decode().strip()
    yield warn_if("NAT", code, lines[-1] if code else backend,
                  "Services get no addresses: is the kernel's module iptable_nat or nf_nat there?")
    try:
        Network(settings, None, None, None, None).check_overlap()
        yield Finding("ranges", "good", f"{settings.pod_cidr} {settings.service_cidr}", "")
    except SystemExit as error:
        yield Finding("ranges", "fault", "taken", str(error).replace("k2d: ", ""))

def check_engine(settings):
    """Findings on the engine."""
    engine = Engine(settings.docker_host)
    try:
        engine.negotiate()
        info = engine.call("GET", "/info", shape="engine.Info")
    except EngineError as error:
        yield Finding("engine", "fault", str(error),
                      "apt-get install docker.io; systemctl enable --now docker")
        return
    yield Finding("engine", "good", f"{info['ServerVersion']}, API {engine.prefix[2:]}", "")
    yield warn_if("its limits", not info["MemoryLimit"], "kept" if info["MemoryLimit"] else "not",
                  "the engine keeps no limits of memory, see cgroup")
    rotates = engine.is_podman or info["LoggingDriver"] in ("json-file", "local", "journald")
    yield warn_if("its logs", not rotates, info["LoggingDriver"] or "as Podman keeps them",
                  "kubectl logs may show nothing, or fill the disk")

def check_all(settings):
    """What check tells of this machine."""
    return [*check_machine(settings), *check_network(settings), *check_engine(settings)]

def show_findings(found):
    """Print them, a line each, and below it what to do."""
    for each in found:
        print(f"{each.level:<8} {each.about:<11} {each.found}")
        if each.cure:
            print(f"{'':<20} -> {each.cure}")

def check_host(settings):
    """Say what this machine lacks, and what to do about it; the exit code is 1 for a fault."""
    found = check_all(settings)
    if "json" in settings.given:
        print(json.dumps([each._asdict() for each in found], indent=2))
    else:
        show_findings(found)
    raise SystemExit(int(any(each.level == "fault" for each in found)))

# == 40. Command line [host] =================================================================
# What a person does with k2d: each command is a function of the Settings.
HOME_FILE, UNIT = "/usr/local/lib/k2d/k2d.py", "/etc/systemd/system/k2d.service"
LINK, DEFAULTS_FILE = "/usr/local/bin/k2d", "/etc/default/k2d"
# No setting that gives k2d mounts of its own (ProtectSystem, PrivateTmp): containers would not see
# its volumes.
UNIT_TEXT = f"""[Unit]
Description=k2d: the Kubernetes API on a container engine
After=network-online.target docker.service podman.socket
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
EnvironmentFile=-{DEFAULTS_FILE}
ExecStart={sys.executable} {HOME_FILE} serve
Restart=always
RestartSec=2
KillMode=process
LimitNOFILE={DESCRIPTORS}
MemoryMax=256M
OOMScoreAdjust=-500
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
"""

def ask_k2d(settings, method, path):
    """What the k2d of a data path answers its admin. Raises SystemExit where it does not."""
    found = answer_by(settings, method, path)
    if os.geteuid():
        raise SystemExit("k2d: only root may read its token: call it by sudo")
    if not found:
        raise SystemExit(f"k2d: no k2d of {settings.data_path} answers on port {settings.port}; "
                         "try: systemctl status k2d")
    return found

def systemctl(*words):
    """Have systemd do something; its words if it fails. Raises SystemExit."""
    code, text = run("systemctl", *words)
    if code:
        raise SystemExit(f"k2d: systemctl {' '.join(words)}: {text.decode().strip()}")

def require_systemd():
    """Raises SystemExit where there is no systemd, or for another user than root."""
    if os.geteuid() or not os.path.isdir("/run/systemd/system"):
        raise SystemExit("k2d: this wants root, and systemd; without it, have whatever starts "
                         "your services run: python3 k2d.py serve")

def install(settings):
    """Run k2d as a systemd service, now and after each start; options given are kept."""
    require_systemd()
    found = check_all(settings)
    show_findings(found)
    if any(each.level == "fault" for each in found):
        raise SystemExit("k2d: nothing was installed; see the faults above")
    options = kept_options()
    for flag, variable, *_ in OPTIONS:
        value = settings.given.get(flag, os.environ.get(variable))
        options.update({variable: value} if value is not None else {})
    lines = [f"{name}={value}\n" for name, value in options.items()]
    if lines:
        write_file(DEFAULTS_FILE, "".join(lines).encode())
    install_file(read_bytes(os.path.abspath(__file__), 1 << 30))
    if not os.path.lexists(LINK):
        os.symlink(HOME_FILE, LINK)
    write_file(UNIT, UNIT_TEXT.encode(), 0o644)
    systemctl("daemon-reload")
    systemctl("enable", "k2d")
    systemctl("restart", "k2d")         # until it is ready
    path = hand_over(settings)
    print(f"k2d runs; next:  KUBECONFIG={path} kubectl get nodes")
    print("k2d status | check | upgrade FILE | backup FILE | uninstall    (--help tells all)")

def install_file(text):
    """Have this text as the k2d.py that is installed."""
    make_folder(os.path.dirname(HOME_FILE), 0o755)
    write_file(HOME_FILE, text, 0o755)

def load(settings):
    """Give the engine images from archives, as `docker save` writes them: for boards offline."""
    engine = Engine(settings.docker_host)
    engine.negotiate()
    for path in settings.files:
        try:
            print(f"{path}: {engine.load(path)}")
        except OSError as error:
            raise SystemExit(f"k2d: {path}: {error.strerror}")

def hand_over(settings):
    """Give a kubeconfig to the person who has called us by sudo, or to root; the file's path."""
    import pwd
    person = pwd.getpwuid(int(os.environ.get("SUDO_UID", 0)))
    folder = os.path.join(person.pw_dir, ".kube")
    path = os.path.join(folder, "config")
    if os.path.exists(path) and "\n- name: k2d\n" not in read_text(path):
        path = os.path.join(folder, "k2d")      # the config is somebody else's
    make_folder(folder)
    write_file(path, read_bytes(settings.path("kubeconfig"), FILE_BYTES))
    for each in (folder, path):
        os.chown(each, person.pw_uid, person.pw_gid)
    return path

def replace_by(settings):
    """Put another k2d.py in the place of the one installed; back to it if that does not answer."""
    require_systemd()
    new, = settings.files
    code, said = run(sys.executable, new, "version")
    if code or not said.startswith(b"k2d "):
        raise SystemExit(f"k2d: {new} is no k2d.py that this Python runs: {said.decode()[-500:]}")
    if not os.path.exists(HOME_FILE):
        raise SystemExit("k2d: nothing is installed yet: k2d.py install")
    before, copy = read_bytes(HOME_FILE, 1 << 30), settings.path(COPY)
    ask_k2d(settings, "POST", BACKUP_PATH)
    install_file(read_bytes(new, 1 << 30))
    code, _ = run("systemctl", "restart", "k2d")
    if not code and answer_by(settings, "GET", "/version"):
        return print(f"upgraded to {said.decode().strip()}; the database of before is {copy}")
    run("systemctl", "stop", "k2d")
    install_file(before)
    adopt_database(settings, read_bytes(copy, 1 << 30))
    systemctl("restart", "k2d")
    raise SystemExit(f"k2d: {new} did not answer, see journalctl -u k2d; the one before is back")

def adopt_database(settings, data):
    """Have a copy as the database of a k2d that does not run."""
    for end in ("-wal", "-shm"):        # first: they would be played into the copy
        remove_tree(settings.path("k2d.db" + end))
    write_file(settings.path("k2d.db"), data)

def uninstall(settings):
    """Remove the service, not its containers and data; with --purge these as well."""
    require_systemd()
    run("systemctl", "disable", "--now", "k2d")
    gone = [UNIT, *[LINK] * (os.path.realpath(LINK) == HOME_FILE), os.path.dirname(HOME_FILE)]
    if "purge" in settings.given:
        reset(settings)
        gone.append(DEFAULTS_FILE)      # it says where the data is
    for path in gone:
        remove_tree(path)
    systemctl("daemon-reload")
    print("k2d is gone" + ("" if "purge" in settings.given else
                           f"; {settings.data_path} and its containers stay"))

def resident(names):
    """Bytes of memory of the programs of these names or paths, or that run a file of them."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, UnicodeError):       # it has ended
            words = read_text(f"/proc/{pid}/cmdline").split("\0")[:2]
            if any(word in names or os.path.basename(word) in names for word in words):
                status = read_text(f"/proc/{pid}/status")
                total += int(dict(re.findall(r"(\w+):\s+(\d+)", status)).get("VmRSS", 0)) << 10
    return total

def show_status(settings):
    """Show on one screen how k2d and its machine are, and what to do about problems."""
    pods = json.loads(ask_k2d(settings, "GET", "/api/v1/pods"))["items"]
    phases = Counter(dig(pod, "status.phase", "") for pod in pods)
    engine, own = resident(("dockerd", "containerd", "podman")), settings.path("k2d.pyc")
    certificate = run("openssl", "x509", "-noout", "-enddate", "-in",
                      settings.path("pki", "server.crt"))[1].decode().strip().partition("=")[2]
    for about, text in (
            ("k2d", f"{VERSION}, {resident([own]) / 1e6:.1f} MB of memory"),
            ("engine", f"{engine / 1e6:.1f} MB of memory"),
            ("address", settings.server),
            ("pods", ", ".join(f"{n} {phase}" for phase, n in phases.items()) or "none"),
            ("certificate", f"until {certificate}")):
        print(f"{about:<20} {text}")
    problems = [each for each in check_all(settings) if each.cure]
    show_findings(problems)
    if not problems:
        print(f"{'problems':<20} none")

KEPT = ("token", "pki/ca.crt", "pki/ca.key", "pki/sa.key")      # besides the database

def backup(settings):
    """Write all that k2d knows into one file, not what is in volumes: while it runs."""
    import io
    import tarfile
    ask_k2d(settings, "POST", BACKUP_PATH)
    target, out = settings.files[0], io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(settings.path(COPY), "k2d.db")
        for name in filter(lambda name: os.path.exists(settings.path(name)), KEPT):
            archive.add(settings.path(name), name)
    os.unlink(settings.path(COPY))
    write_file(target, out.getvalue())
    print(f"{target}: {len(out.getvalue()) >> 10} KiB; it holds secrets")

def restore(settings):
    """Have all as in a file of `backup`; what k2d knows now is gone."""
    import tarfile
    is_service = os.path.exists(UNIT)
    try:
        with tarfile.open(settings.files[0]) as archive:
            held = {name: archive.extractfile(name).read() for name in archive.getnames()
                    if name in ("k2d.db", *KEPT)}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise SystemExit(f"k2d: {settings.files[0]}: {error}")
    if not held.get("k2d.db", b"").startswith(b"SQLite format 3"):
        raise SystemExit(f"k2d: {settings.files[0]} is no backup of k2d's")
    if is_service:
        systemctl("stop", "k2d")
    elif answer_by(settings, "GET", "/version", 5):
        raise SystemExit("k2d: stop the k2d of this data path first")
    make_folder(settings.path("pki"))
    for name in ("server.crt", "server.key", "server.names"):
        remove_tree(settings.path("pki", name))
    adopt_database(settings, held.pop("k2d.db"))
    for name, data in held.items():
        write_file(settings.path(name), data)
    if is_service:
        systemctl("start", "k2d")
    print("restored" + ("" if is_service else "; start it again"))

NOT_EXPORTED = {"Node", "Event", "Lease", "ControllerRevision"}
EVERY_CLUSTERS = {  # (kind, name) of what each cluster makes itself
    ("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default"), ("Service", "kubernetes"),
    ("StorageClass", "local"), *(("PriorityClass", f"system-{name}-critical")
                                 for name in ("cluster", "node")),
    *(("Namespace", name) for name in (*SYSTEM_NAMESPACES, "kube-node-lease"))}
GIVEN = {   # kind -> fields of its spec that a cluster gives
    "Service": ("clusterIP", "clusterIPs"), "PersistentVolumeClaim": ("volumeName",),
    "PersistentVolume": ("claimRef",), "Pod": ("nodeName",), "Job": ("selector",)}

def is_declared(obj):
    """Whether somebody has declared an object: no controller, no cluster, no `docker run`."""
    meta, labels = obj["metadata"], labels_of(obj)
    return not (meta.get("ownerReferences") or is_deleting(obj) or is_foreign(obj) or
                BOOTSTRAP.items() <= labels.items() or labels.keys() & set(MANAGED_BY.values()) or
                obj["kind"] == "PersistentVolume" and is_ours(obj) or
                (obj["kind"], meta["name"]) in EVERY_CLUSTERS)

def portable(obj):
    """An object as any cluster takes it: without what ours has filled in."""
    meta, spec = obj["metadata"], obj.get("spec")
    notes = {key: text for key, text in meta.get("annotations", {}).items()
             if key.split("/")[0] not in ("pv.kubernetes.io", "deployment.kubernetes.io",
                                          "kubectl.kubernetes.io")}
    told = {**pick(obj, ("apiVersion", "kind")),
            "metadata": {**pick(meta, ("name", "namespace", "labels")),
                         **filled(annotations=notes)},
            **without(obj, "apiVersion", "kind", "metadata", "status")}
    is_headless = obj["kind"] == "Service" and spec.get("clusterIP") == "None"
    if obj["kind"] in GIVEN and not is_headless:
        told["spec"] = without(spec, *GIVEN[obj["kind"]])
    if obj["kind"] == "Job":
        for labels in (told["metadata"].get("labels", {}), labels_of(spec["template"])):
            for key in [key for key in labels if key.endswith("controller-uid")]:
                del labels[key]
    return told

def print_fields(settings):
    """Print which fields of which kinds are not honoured, and how they are answered."""
    def named(fields, flag):
        below = {}
        for path in [path for path in fields if fields[path] == flag]:
            above, _, name = path.rpartition(".")
            below.setdefault(above, []).append(name)
        return "; ".join(f"`{above}`: {', '.join(names)}" for above, names in below.items())
    stored = [kind for kind in KIND.values() if kind.kept in ("disk", "spec", "pod", "memory")]
    rows = {kind.name: unheeded_fields(kind.schema) for kind in stored}
    whole = sorted(name for name in rows if not rows[name] and name not in UNHEEDED)
    print("All fields are honoured of", ", ".join(whole) + ".\n")
    for name, (what, _) in UNHEEDED.items():
        print(f"- {name}: {what}")
    print("\n| kind | accepted with a `Warning:` | refused |\n|---|---|---|")
    for name in sorted(filter(rows.get, rows)):
        print(f"| {name} | {named(rows[name], '~')} | {named(rows[name], '!')} |")

def export(settings):
    """Print all that was declared here as manifests for `kubectl apply`, on any cluster."""
    listed = lambda path: json.loads(ask_k2d(settings, "GET", path))["items"]
    custom = listed("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    kinds = [kind for kind in KINDS if kind.kept in ("disk", "spec", "pod") and
             kind.name not in NOT_EXPORTED]
    first = {"Namespace": 0, "CustomResourceDefinition": 1}
    kinds.sort(key=lambda kind: first.get(kind.name, 2))
    for kind in kinds + [kind for crd in custom for kind, version in kinds_of(crd)
                         if version["storage"] and version["served"]]:
        version = group_version(kind)
        for item in listed(f"/api{'s' if kind.group else ''}/{version}/{kind.plural}"):
            obj = {"apiVersion": version, "kind": kind.name, **item}
            if is_declared(obj):
                print("---\n" + json.dumps(portable(obj), indent=2))

def kubeconfig(settings):
    """Print the admin's kubeconfig, or that of a user by a certificate, who may what RBAC says."""
    given = settings.given
    try:
        text = read_text(settings.path("kubeconfig"))
        ca = read_text(settings.path("pki", "ca.crt"))
    except OSError as error:
        raise SystemExit(f"k2d: {error.filename}: {error.strerror}; has `k2d.py serve` run with "
                         "this data path?")
    server, token = re.search(r"(?s)server: (\S+).*token: (\S+)", text).groups()
    user, credentials = given.get("user", "admin"), {"token": token}
    if "group" in given and "user" not in given:
        raise SystemExit("k2d: --group wants a --user, who is in it")
    if "user" in given:
        credentials = certificate_of(settings, user, given.get("group", ""))
    text = kubeconfig_text(given.get("server", server), ca, user, credentials)
    if "merge" in given:
        return merge_kubeconfig(settings, os.path.abspath(given["merge"]), text)
    print(text, end="")

def merge_kubeconfig(settings, path, text):
    """Have kubectl put a kubeconfig into one that may be there, as its present context; whose file
    it is does not change. Raises SystemExit, OSError."""
    if ":" in path:
        raise SystemExit(f"k2d: --merge {path}: want a path without ':'")
    ours = settings.path("kubeconfig.merged")
    write_file(ours, text.encode())
    both = f"KUBECONFIG={ours}:{path}"
    code, merged = run("env", both, "kubectl", "config", "view", "--flatten")
    os.unlink(ours)
    if code or not merged.startswith(b"apiVersion:"):
        raise SystemExit(f"k2d: {path} stays as it is; kubectl, which merges, said: " +
                         merged.decode("utf-8", "replace").strip()[:FAULT_CHARS])
    owner = os.stat(path if os.path.exists(path) else os.path.dirname(path))
    write_file(path, merged)
    os.chown(path, owner.st_uid, owner.st_gid)
    print(f"{path}: its context is k2d now")

def certificate_of(settings, user, group):
    """Credentials of a kubeconfig for a user, in a group or "". Raises SystemExit, OSError."""
    import tempfile
    subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
    if not re.fullmatch(r"(/O=[\w.:@-]{1,64})?/CN=[\w.:@-]{1,64}", subject):
        raise SystemExit("k2d: a user or group is letters, digits and . : @ - _, 64 at most")
    with tempfile.TemporaryDirectory(dir=settings.path("pki")) as folder:
        file = lambda name: os.path.join(folder, name)
        for name in ("ca.key", "ca.crt"):
            write_file(file(name), read_bytes(settings.path("pki", name), FILE_BYTES))
        make_certificate(folder, "client", "leaf", subject, "DNS:none", "-cert", file("ca.crt"),
                         usage="client")
        return {"client-certificate-data": in_base64(read_text(file("client.crt"))),
                "client-key-data": in_base64(read_text(file("client.key")))}

def reset(settings):
    """Remove all that k2d made on this host: containers of its pods, network, NAT rules, data."""
    engine, path = Engine(settings.docker_host), settings.path("k2d.db")
    if os.path.exists(path):
        store = Store(path)                 # refuses while a k2d runs
        engine.negotiate()
        uids = {uid_of(store.get("Pod", *key)) for key in store.keys("Pod")} | store.buried
        remove_pods(settings, engine, uids)
        for pv in store.list("PersistentVolume"):   # those that are to be retained are left
            if is_ours(pv) and pv["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
                engine.call("DELETE", "/volumes/" + engine_volume(pv), expect=(404,))
        Network(settings, engine, store, None).remove()
        store.close()
        for name in ("k2d.db", "k2d.db-wal", "k2d.db-shm", "k2d.pyc", "k2d.pyc.new", COPY, "token",
                     "kubeconfig", "pki", "pods"):
            remove_tree(settings.path(name))
        with suppress(OSError):             # others' files are in it, or it is a mount
            os.rmdir(settings.data_path)
    elif list_folder(settings.data_path):
        raise SystemExit(
            f"k2d: {settings.data_path} is not a data path of k2d; nothing was removed")
    else:
        return log(f"{settings.data_path}: no k2d was here, or all is removed")
    log(f"removed pods, network {settings.network}, NAT rules and {settings.data_path}")

def remove_pods(settings, engine, uids):
    """Remove the containers and volumes of pods, and take others off our network."""
    listed = engine.call("GET", "/containers/json?all=1", shape="[]engine.Listed")
    for info in sandboxes_last(listed):
        if dig(info, ["Labels", POD_UID]) in uids:
            engine.call("DELETE", f"/containers/{info['Id']}?force=1&v=1", expect=ENDED)
        elif settings.network in dig(info, "NetworkSettings.Networks", {}):
            body = {"Container": info["Id"], "Force": True}
            engine.call("POST", f"/networks/{settings.network}/disconnect", body)
    for uid in uids:
        remove_volumes(settings, uid)

COMMANDS = {    # name -> the function, what it takes besides OPTIONS
    "serve": (serve, ""), "check": (check_host, "[--json]"), "install": (install, ""),
    "status": (show_status, ""), "upgrade": (replace_by, "FILE"), "backup": (backup, "FILE"),
    "restore": (restore, "FILE"), "load": (load, "FILE..."), "uninstall": (uninstall, "[--purge]"),
    "export": (export, ""), "fields": (print_fields, ""),
    "kubeconfig": (kubeconfig, "[--user NAME --group NAME] [--server URL] [--merge PATH]"),
    "reset": (reset, "")}

def usage_text():
    """What --help prints: the commands by their docstrings, the options by their table."""
    commands = [f"  k2d.py {name + ' ' + takes:<20} {command.__doc__.splitlines()[0]}"
                for name, (command, takes) in COMMANDS.items()]
    options = [f"  --{flag:<18} {variable:<19} {text}{f' ({default})' if default else ''}"
               for flag, variable, default, text in OPTIONS]
    return "\n".join(["k2d: the Kubernetes API on a container engine", "", *commands, "",
                      *options, "", f"Options are also read from {DEFAULTS_FILE}, as "
                      "K2D_PORT=7443. Exit codes: 0, or 1 and what to do."])

def compile_once(source, compiled):
    """Have the code of a file stand compiled, for this Python, whole or not at all (PEP 552)."""
    from importlib.util import MAGIC_NUMBER, source_hash
    import py_compile
    head = MAGIC_NUMBER + b"\1\0\0\0" + source_hash(read_bytes(source, 1 << 30))
    made = compiled + ".new"
    if os.path.exists(compiled) and read_bytes(compiled, len(head)) == head:
        return
    py_compile.compile(source, made, doraise=True, optimize=2,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    os.sync()
    os.replace(made, compiled)

def kept_options():
    """{variable: value} of the service's file of options, as far as we may read it."""
    if not os.access(DEFAULTS_FILE, os.R_OK):
        return {}
    lines = re.findall(r"(?m)^([A-Z0-9_]+)=(.*)$", read_text(DEFAULTS_FILE))
    return {name: value.strip("\"'") for name, value in lines}

def lean(argv):
    """Start again from compiled code, with a malloc that gives back what it does not need:
    compiling this file in the serving process would cost it 20 MB for life. The code rests in the
    data path: no other folder is written to."""
    settings = Settings(argv[2:], {**kept_options(), **os.environ})
    if os.geteuid():
        raise SystemExit("k2d: serve needs root, for the engine's socket and the NAT rules")
    compiled = settings.path("k2d.pyc")
    make_folder(settings.data_path)
    compile_once(os.path.abspath(__file__), compiled)
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536",
              "MALLOC_MMAP_THRESHOLD_": "65536"}
    os.execve(sys.executable, [sys.executable, compiled, *argv[1:]], {**os.environ, **malloc})

def main(argv):
    command = argv[1] if len(argv) > 1 else "--help"
    if command in ("--help", "-h", "help") or "--help" in argv:
        print(usage_text())
    elif command in ("version", "--version"):
        print(f"k2d {VERSION}, Kubernetes {SERVES}")
    elif command not in COMMANDS:
        raise SystemExit(f"k2d: {command}: no such command\n\n{usage_text()}")
    else:
        try:
            if command == "serve" and not argv[0].endswith(".pyc"):
                lean(argv)
            function, takes = COMMANDS[command]
            function(Settings(argv[2:], {**kept_options(), **os.environ}, takes))
        except (EngineError, OSError) as error:
            raise SystemExit(f"k2d: {error}")

if __name__ == "__main__":
    main(sys.argv)
