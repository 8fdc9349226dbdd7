#!/usr/bin/env python3
"""k2d: the Kubernetes API on one side, a Docker engine on the other, as a cluster of one node.

A request:  Hub (TLS, until the head is complete) -> Handler -> route() -> KINDS row -> admission -> Store, one
            transaction -> watchers; then reconcile() -> engine -> Store -> watchers.
Sections:   1 Settings  2 Kinds  3 Quantities, names, selectors  4 Errors  5 Bodies  6 Patches  7 Store and watch
            8 Engine client  9 Pod -> container  10 Container -> pod  11 Volumes  12 Network and names  13 Probes
            14 Pod worker  15 Scheduler  16 Usage  17 Controllers  18 Access  19 The API  20 Streams  21 Server
            22 Command line
            (search for "# ==" to walk through them)
Threads:    the hub owns every connection until a request is complete, and all watches, timers, DNS and the engine's
            events; one thread per request in progress, exec and port-forward too; up to four workers start and stop
            containers; one thread runs the controllers; probes, hooks and pulls have threads while they last. A
            connection has one owner at any time.
Promises:   what was answered 200 or 201 is on disk; a field that cannot be honoured is refused by name or answered with
            a Warning, never dropped; k2d is not in the data path, so kill it or upgrade it while everything runs.
Needs:      Linux, root, Python 3.9 or newer, the programs openssl and iptables; PyYAML only to read YAML bodies.
"""
import base64
import hashlib
import hmac
import heapq
import ipaddress
import json
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
from datetime import datetime, timezone
from functools import lru_cache
from http import HTTPStatus

# == 1. Settings =============================================================================
# What the command line or the environment decides, and the limits that hold for every client.
VERSION = "0.1.0"
SERVES = "v1.35.4"          # the Kubernetes whose answers we give; clients read it from /version
OPTIONS = [
    # flag                environment           default                        meaning
    ("port",              "K2D_PORT",           "6443",                        "https port of the API"),
    ("advertise-address", "K2D_ADVERTISE_ADDR", "",                            "address for clients (else the host's)"),
    ("data-path",         "K2D_DATA_PATH",      "/var/lib/k2d",                "the only folder k2d writes to"),
    ("secret",            "K2D_SECRET",         "",                            "admin token (else one is made)"),
    ("docker-host",       "DOCKER_HOST",        "unix:///var/run/docker.sock", "the engine's socket"),
    ("network",           "K2D_NETWORK",        "k2d",                         "name of the engine network and bridge"),
    ("pod-cidr",          "K2D_POD_CIDR",       "10.42.0.0/16",                "addresses of pods"),
    ("service-cidr",      "K2D_SERVICE_CIDR",   "10.43.0.0/16",                "addresses of Services"),
]
CLUSTER_DOMAIN = "cluster.local"
NODE_PORTS = range(30000, 32768)
BODY_BYTES = 3 << 20        # the API server's own limit
YAML_BYTES = 256 << 10      # PyYAML takes some 12 us and 450 bytes a byte
HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10           # from accept to a complete handshake, and from a request's first byte to its complete head
IO_SECONDS = 60             # for one read or write of a request's body or answer
CONNECTIONS = 512           # beyond it the longest idle connection is closed
REQUEST_THREADS = 64
WATCH_BYTES = 4 << 20       # unsent bytes at which a watch that does not drain is dropped
CONTINUE_S = 300            # how long a list may be continued as it was
RING_EVENTS, RING_BYTES = 1000, 1 << 18     # what a watch can resume from
EVENT_SECONDS, EVENTS = 3600, 500           # Events live in memory, for an hour
EVENT_BURST, EVENT_REFILL_S = 25, 300       # of one source about one object, as client-go's; then one in five minutes

class Settings:
    """The options as attributes: settings.port (int), settings.data_path, settings.pod_cidr (IPv4Network), ..."""
    def __init__(self, args, environ):
        args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]
        given = dict(zip(args[::2], args[1::2]))
        for flag, variable, default, _ in OPTIONS:
            setattr(self, flag.replace("-", "_"), given.pop("--" + flag, environ.get(variable) or default))
        if given or len(args) % 2:
            raise SystemExit(f"k2d: unknown or incomplete option {' '.join(given) or args[-1]}; see --help")
        try:
            self.port = int(self.port)
            self.pod_cidr, self.service_cidr = map(ipaddress.IPv4Network, (self.pod_cidr, self.service_cidr))
        except ValueError as error:
            raise SystemExit(f"k2d: {error}")
        if not re.fullmatch("[a-z][a-z0-9]{0,12}", self.network):
            raise SystemExit(f"k2d: --network {self.network}: at most 13 lower case letters and digits (a bridge)")
        if self.pod_cidr.prefixlen > 20 or self.service_cidr.prefixlen > 24:
            raise SystemExit("k2d: --pod-cidr wants a /20 or larger network, --service-cidr a /24 or larger")
        self.data_path = os.path.abspath(self.data_path)
        self.gateway = str(self.pod_cidr[1])                # the host, as pods see it
        self.engine_range = str(list(self.pod_cidr.subnets(new_prefix=24))[-1])   # what the engine may give to others
        self.kubernetes_ip, self.dns_ip, self.upstream_ip = (str(self.service_cidr[n]) for n in (1, 10, 11))
        self.node = re.sub("[^a-z0-9.-]", "-", socket.gethostname().lower()).strip("-.") or "node"
        self.memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # Who may not lower it (a rootless engine, one inside a container) cannot start what asks for a lower one.
        can_lower = int(re.search(r"CapEff:\s*(\w+)", read_text("/proc/self/status"))[1], 16) >> 24 & 1  # SYS_RESOURCE
        self.least_oom_score = -1000 if can_lower else int(read_text("/proc/self/oom_score_adj"))

    @property
    def host_ip(self):
        """The address other machines reach us at: the one the default route would use, else the bridge's."""
        if not self.advertise_address:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect(("192.0.2.1", 9))       # RFC 5737; a datagram socket sends nothing by connecting
                    self.advertise_address = probe.getsockname()[0]
                except OSError:
                    return self.gateway                     # no route yet: ask again next time
        return self.advertise_address

    def path(self, *parts):
        return os.path.join(self.data_path, *parts)

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}   # the kernel's word -> Go's

def log(message):
    """One line for the journal; never a secret, a token or a body."""
    print("k2d: " + message, file=sys.stderr, flush=True)

def run(*argv, stdin=b""):
    """Run a program of the host: (exit code, what it printed). The subprocess module would keep 0.4 MB resident."""
    given, taken = os.memfd_create("stdin"), os.memfd_create("output")
    try:
        os.pwrite(given, stdin, 0)
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=[
            (os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, taken, 1), (os.POSIX_SPAWN_DUP2, taken, 2)])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, os.pread(taken, os.fstat(taken).st_size, 0)
    except FileNotFoundError:
        return 127, f"{argv[0]}: program not found".encode()
    finally:
        os.close(given)
        os.close(taken)

def remove_tree(path):
    """Remove a folder and all below it, however deep a container has made it. Raises OSError."""
    code, output = run("rm", "-rf", "--one-file-system", "--", path)
    if code:
        raise OSError(output.decode("utf-8", "replace").strip())

def write_file(path, data, mode=0o600):
    """Replace a file as a whole and synced, so that a power cut leaves the old or the new one."""
    with open(path + ".new", "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)

TIME = re.compile(r"(\d{4})-([01]\d)-([0-3]\d)T([0-2]\d):([0-5]\d):([0-6]\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")

def now(fraction=""):
    """The present as RFC 3339, the form of metav1.Time; with fraction="micro" that of metav1.MicroTime."""
    seconds = time.time()
    micros = f".{int(seconds % 1 * 1e6):06d}" if fraction else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + micros + "Z"

def seconds_of(timestamp):
    """RFC 3339 with any fraction and offset -> Unix seconds as float; None for a missing or zero time."""
    found = TIME.fullmatch(timestamp or "")
    if not found or found[1] == "0001":
        return None
    zone = found[8]
    offset = 0 if zone == "Z" else int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[4:]) * 60)
    try:
        whole = datetime(*map(int, found.groups()[:6]), tzinfo=timezone.utc).timestamp()
        return whole + float(found[7] or 0) - offset
    except ValueError:                                          # the 31st of February
        return None

def dig(value, path, default=None):
    """value["a"]["b"]["c"] for the path "a.b.c", or a list of steps; the default where a step is missing or null."""
    for step in path.split(".") if isinstance(path, str) else path:
        value = value.get(step) if isinstance(value, dict) else None
    return default if value is None else value

def dumps(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")

# == 2. Kinds and schemas ====================================================================
# Words only. KINDS says which resources there are; SCHEMA says what their objects look like. Routing, discovery,
# storage and Table read the first; protobuf, validation, defaults, patches and OpenAPI read the second.
Kind = namedtuple("Kind", "name group version plural singular short namespaced verbs subresources marks kept id "
                          "schema crd")
# id      under which objects rest in the Store: the name, or plural.group of a custom resource
# schema  name of its message in SCHEMA; of a custom resource the JSON schema of this version
# crd     of a custom resource this version's entry in its definition, else None
ALL = "create delete deletecollection get list patch update watch"
# kept   disk: whole; spec: without its status, which we compute; memory: not at all; pod: see durable(); -: not stored,
#        only created; empty: clients look for these, but there are none here and none can be made; usage: measured
#        when asked for
# marks  all: category of `kubectl get all`; gen: metadata.generation counts; obj: a DELETE answers the object
KIND_TABLE = """
  group version            kind                     short    scope     kept    subresources           marks
  v1                       Binding                  -        Namespace -       -                      -
  v1                       ConfigMap                cm       Namespace disk    -                      -
  v1                       Endpoints                ep       Namespace disk    -                      -
  v1                       Event                    ev       Namespace memory  -                      -
  v1                       LimitRange               limits   Namespace disk    -                      -
  v1                       Namespace                ns       Cluster   disk    finalize,status        obj
  v1                       Node                     no       Cluster   spec    status                 -
  v1                       PersistentVolumeClaim    pvc      Namespace disk    status                 obj
  v1                       PersistentVolume         pv       Cluster   disk    status                 obj
  v1                       Pod                      po       Namespace pod     attach,binding,eviction,exec,log,\
ephemeralcontainers,portforward,proxy,status all,gen,obj
  v1                       PodTemplate              -        Namespace disk    -                      gen,obj
  v1                       ReplicationController    rc       Namespace spec    scale,status           all,gen
  v1                       ResourceQuota            quota    Namespace spec    status                 obj
  v1                       Secret                   -        Namespace disk    -                      -
  v1                       ServiceAccount           sa       Namespace disk    token                  obj
  v1                       Service                  svc      Namespace disk    proxy,status           all,obj
  apiregistration.k8s.io/v1 APIService              -        Cluster   empty   -                      api-extensions
  apps/v1                  ControllerRevision       -        Namespace disk    -                      -
  apps/v1                  DaemonSet                ds       Namespace disk    status                 all,gen
  apps/v1                  Deployment               deploy   Namespace spec    scale,status           all,gen
  apps/v1                  ReplicaSet               rs       Namespace spec    scale,status           all,gen
  apps/v1                  StatefulSet              sts      Namespace disk    scale,status           all,gen
  events.k8s.io/v1         Event                    ev       Namespace memory  -                      -
  authentication.k8s.io/v1 SelfSubjectReview        -        Cluster   -       -                      -
  authentication.k8s.io/v1 TokenReview              -        Cluster   -       -                      -
  authorization.k8s.io/v1  LocalSubjectAccessReview -        Namespace -       -                      -
  authorization.k8s.io/v1  SelfSubjectAccessReview  -        Cluster   -       -                      -
  authorization.k8s.io/v1  SelfSubjectRulesReview   -        Cluster   -       -                      -
  authorization.k8s.io/v1  SubjectAccessReview      -        Cluster   -       -                      -
  autoscaling/v2           HorizontalPodAutoscaler  hpa      Namespace disk    status                 all
  autoscaling/v1           HorizontalPodAutoscaler  hpa      Namespace disk    status                 all
  batch/v1                 CronJob                  cj       Namespace disk    status                 all,gen
  batch/v1                 Job                      -        Namespace disk    status                 all,gen
  certificates.k8s.io/v1   CertificateSigningRequest csr     Cluster   empty   -                      -
  networking.k8s.io/v1     IngressClass             -        Cluster   disk    -                      gen
  networking.k8s.io/v1     Ingress                  ing      Namespace disk    status                 gen
  networking.k8s.io/v1     NetworkPolicy            netpol   Namespace disk    -                      gen
  policy/v1                PodDisruptionBudget      pdb      Namespace spec    status                 gen
  rbac.authorization.k8s.io/v1  ClusterRoleBinding  -        Cluster   disk    -                      -
  rbac.authorization.k8s.io/v1  ClusterRole         -        Cluster   disk    -                      -
  rbac.authorization.k8s.io/v1  RoleBinding         -        Namespace disk    -                      -
  rbac.authorization.k8s.io/v1  Role                -        Namespace disk    -                      -
  storage.k8s.io/v1        CSINode                  -        Cluster   empty   -                      -
  storage.k8s.io/v1        StorageClass             sc       Cluster   disk    -                      obj
  admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration - Cluster empty -                    api-extensions
  apiextensions.k8s.io/v1  CustomResourceDefinition crd,crds Cluster   disk    status                 gen,api-extensions
  scheduling.k8s.io/v1     PriorityClass            pc       Cluster   disk    -                      gen
  coordination.k8s.io/v1   Lease                    -        Namespace memory  -                      -
  node.k8s.io/v1           RuntimeClass             -        Cluster   disk    -                      -
  discovery.k8s.io/v1      EndpointSlice            -        Namespace disk    -                      gen
  metrics.k8s.io/v1beta1   NodeMetrics              -        Cluster   usage   -                      -
  metrics.k8s.io/v1beta1   PodMetrics               -        Namespace usage   -                      -
"""
MESSAGE_OF = {("autoscaling/v1", "HorizontalPodAutoscaler"): "autoscaling.v1.HorizontalPodAutoscaler",
              ("events.k8s.io/v1", "Event"): "events.Event"}    # of the others: the name of the kind

def kind_of(line):
    """A Kind by its row of KIND_TABLE."""
    served, name, short, scope, kept, subresources, marks = line.split()
    group, _, version = served.rpartition("/")
    plural = re.sub("y$", "ie", re.sub("s$", "se", name.replace("Metrics", "").lower())) + "s"
    words = lambda text: tuple(filter("-".__ne__, text.split(",")))
    verbs = {"empty": "get list watch", "-": "create", "usage": "get list"}.get(kept, ALL)
    return Kind(name, group, version, "endpoints" if name == "Endpoints" else plural, name.lower(), words(short),
                scope == "Namespace", verbs.replace(" deletecollection", "") if name == "Namespace" else verbs,
                words(subresources), words(marks), kept, name, MESSAGE_OF.get((served, name), name), None)

KINDS = [kind_of(line) for line in KIND_TABLE.strip().split("\n")[1:]]     # custom resources come and go at its end
KIND = {kind.id: kind for kind in reversed(KINDS)}                         # the version that objects rest in
RESOURCES = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}

def group_version(kind):
    return f"{kind.group}/{kind.version}" if kind.group else kind.version

# SCHEMA: NAME [NAME ...]: TOKENS; and so on. A token per field:  flags number name :type /keys =default |rules
#   A message may stand behind its name where a field first needs it: TYPE(TOKENS). A kind of the usual form
#   (metadata, spec XSpec and, if there is one, status XStatus) is not written down.
#   flags   * printed even when empty; ~ a hint: accepted with a Warning; ! the object would be wrong without it: 422
#   number  in protobuf, where it is not one more than the last; no name: a struct that Go embeds, its fields stand here
#   type    string if absent; [] list, {} map by string, + always printed (a plain struct in Go), ? a pointer (its zero
#           is a value), & retainKeys (strategic merge), # one value to server-side apply
#   Raw     any JSON; so are the insides of what is refused, or of a status that is not ours. Double: a float64.
#           Schema*: what a JSON schema may hold instead of a schema. ExtraValue: a list of texts
#   /keys   a list merged by these keys, the first of them in strategic merge; / alone a set; ^ strategic merge only,
#           _ server-side apply only; /^ of a message: strategic merge replaces it
#   =       the default where the field is absent
#   |rules  req must be there; A,B one of these; 1..9 in this range; unique by the key of the list; @rule see NAME_RULES
#           what OpenAPI says beyond that: !A,B is not told, ?A,B only told; need, opt: whether clients must write it
# Field numbers and list types are those of k8s.io/api 0.35.
SCHEMA = """
ObjectMeta: name generateName namespace selfLink uid resourceVersion generation:int creationTimestamp:Time
  deletionTimestamp:Time? deletionGracePeriodSeconds:int? labels:{} annotations:{}
  ownerReferences:[]OwnerReference(*5apiVersion *1kind *3name *uid 6controller:bool?
  blockOwnerDeletion:bool?)#/uid finalizers:[]/ 17managedFields:[]ManagedFieldsEntry(manager operation apiVersion
  time:Time? 6fieldsType fieldsV1:Raw? subresource);
LabelSelector: matchLabels:{} matchExpressions:[]LabelSelectorRequirement;
LabelSelectorRequirement: *key|req|@labelkey *operator values:[];
Condition: *type *status observedGeneration:int *lastTransitionTime:Time|need *reason *message;
PodSpec: volumes:[]Volume&/name|unique 20initContainers:[]Container/name|unique
  *2containers:[]Container/name|req|unique 34ephemeralContainers:[]EphemeralContainer/name|unique
  3restartPolicy=Always|Always,OnFailure,Never terminationGracePeriodSeconds:int?=30|0..
  activeDeadlineSeconds:int?|1..2147483647 dnsPolicy=ClusterFirst|ClusterFirstWithHostNet,ClusterFirst,Default,None
  nodeSelector:{}# serviceAccountName|@subdomain serviceAccount 21automountServiceAccountToken:bool?
  10nodeName|@subdomain hostNetwork:bool hostPID:bool hostIPC:bool 27shareProcessNamespace:bool?
  14securityContext:PodSecurityContext={} imagePullSecrets:[]LocalObjectReference#/name hostname|@label
  subdomain|@label affinity:Affinity schedulerName=default-scheduler 22tolerations:[]Toleration
  hostAliases:[]HostAlias(*ip|@ip hostnames:[])/ip priorityClassName|@subdomain priority:int?
  dnsConfig:PodDNSConfig(nameservers:[] searches:[] options:[]PodDNSConfigOption(name value:?))
  28readinessGates:[]PodReadinessGate(*conditionType|@labelkey) runtimeClassName:?|@subdomain enableServiceLinks:bool?
  preemptionPolicy:?|PreemptLowerPriority,Never ~overhead:{}Quantity
  topologySpreadConstraints:[]TopologySpreadConstraint(*maxSkew:int *topologyKey
  *whenUnsatisfiable|DoNotSchedule,ScheduleAnyway labelSelector:LabelSelector# minDomains:int?
  nodeAffinityPolicy:?|Honor,Ignore nodeTaintsPolicy:?|Honor,Ignore matchLabelKeys:[])/topologyKey,whenUnsatisfiable
  35setHostnameAsFQDN:bool? os:PodOS(*name|req) !hostUsers:bool? schedulingGates:[]PodSchedulingGate(*name)/name
  !resourceClaims:[]PodResourceClaim(*name|req|@label 3resourceClaimName:? resourceClaimTemplateName:?)&/name|unique
  !resources:ResourceRequirements !hostnameOverride:? ~workloadRef:WorkloadReference(*name *podGroup
  podGroupReplicaKey);
Volume: *name|req|@label :VolumeSource;
VolumeSource: hostPath:HostPathVolumeSource emptyDir:EmptyDirVolumeSource(medium ~sizeLimit:Quantity?)
  !gcePersistentDisk:GCEPersistentDiskVolumeSource(*pdName fsType partition:int readOnly:bool)
  !awsElasticBlockStore:AWSElasticBlockStoreVolumeSource(*volumeID fsType partition:int readOnly:bool)
  !gitRepo:GitRepoVolumeSource(*repository revision directory) secret:SecretVolumeSource(secretName|req
  items:[]KeyToPath defaultMode:int?=420 optional:bool?) nfs:NFSVolumeSource !iscsi:ISCSIVolumeSource(*targetPortal *iqn
  *lun:int iscsiInterface=default fsType readOnly:bool portals:[] chapAuthDiscovery:bool 11chapAuthSession:bool
  10secretRef:LocalObjectReference# 12initiatorName:?) !glusterfs:GlusterfsVolumeSource(*endpoints *path readOnly:bool)
  persistentVolumeClaim:PersistentVolumeClaimVolumeSource(*claimName|req readOnly:bool)
  !rbd:RBDVolumeSource(*monitors:[] *image fsType pool=rbd user=admin keyring=/etc/ceph/keyring
  secretRef:LocalObjectReference# readOnly:bool) !flexVolume:FlexVolumeSource(*driver fsType
  secretRef:LocalObjectReference# readOnly:bool options:{}) !cinder:CinderVolumeSource(*volumeID fsType readOnly:bool
  secretRef:LocalObjectReference#) !cephfs:CephFSVolumeSource(*monitors:[] path user secretFile
  secretRef:LocalObjectReference# readOnly:bool) !flocker:FlockerVolumeSource(datasetName datasetUUID)
  downwardAPI:DownwardAPIVolumeSource(items:[]DownwardAPIVolumeFile defaultMode:int?=420)
  !fc:FCVolumeSource(targetWWNs:[] lun:int? fsType readOnly:bool wwids:[]) !azureFile:AzureFileVolumeSource(*secretName
  *shareName readOnly:bool) configMap:ConfigMapVolumeSource(:LocalObjectReference items:[]KeyToPath defaultMode:int?=420
  optional:bool?) !vsphereVolume:VsphereVirtualDiskVolumeSource(*volumePath fsType storagePolicyName storagePolicyID)
  !quobyte:QuobyteVolumeSource(*registry *volume readOnly:bool user group tenant)
  !azureDisk:AzureDiskVolumeSource(*diskName *diskURI cachingMode:?=ReadWrite|None,ReadOnly,ReadWrite fsType:?=ext4
  readOnly:bool?=false kind:?=Shared|Dedicated,Managed,Shared)
  !photonPersistentDisk:PhotonPersistentDiskVolumeSource(*pdID fsType)
  26projected:ProjectedVolumeSource(*sources:[]VolumeProjection(secret:SecretProjection
  downwardAPI:DownwardAPIProjection(items:[]DownwardAPIVolumeFile) configMap:ConfigMapProjection
  serviceAccountToken:ServiceAccountTokenProjection(audience expirationSeconds:int?=3600 *path|req)
  !clusterTrustBundle:ClusterTrustBundleProjection(name:? signerName:? labelSelector:LabelSelector# 5optional:bool?
  *4path|req) !podCertificate:PodCertificateProjection(signerName|need
  keyType|!RSA3072,RSA4096,ECDSAP256,ECDSAP384,ECDSAP521,ED25519|need maxExpirationSeconds:int? credentialBundlePath
  keyPath certificateChainPath userAnnotations:{}))|opt defaultMode:int?=420)
  !24portworxVolume:PortworxVolumeSource(*volumeID fsType readOnly:bool) !scaleIO:ScaleIOVolumeSource(*gateway *system
  *secretRef:LocalObjectReference# sslEnabled:bool protectionDomain storagePool storageMode=ThinProvisioned volumeName
  fsType=xfs readOnly:bool) !27storageos:StorageOSVolumeSource(volumeName volumeNamespace fsType readOnly:bool
  secretRef:LocalObjectReference#) !csi:CSIVolumeSource(*driver|req readOnly:bool? fsType:? volumeAttributes:{}
  nodePublishSecretRef:LocalObjectReference#)
  !ephemeral:EphemeralVolumeSource(volumeClaimTemplate:PersistentVolumeClaimTemplate(metadata:ObjectMeta+
  spec:PersistentVolumeClaimSpec+|need)|req) !image:ImageVolumeSource(reference pullPolicy|Always,IfNotPresent,Never);
LocalObjectReference: name;
HostPathVolumeSource: *path|req type:?=|,BlockDevice,CharDevice,Directory,DirectoryOrCreate,File,FileOrCreate,Socket;
KeyToPath: *key|req *path|req mode:int?; NFSVolumeSource: *server|req *path|req readOnly:bool;
ObjectFieldSelector: apiVersion=v1 *fieldPath|req;
DownwardAPIVolumeFile: *path|req fieldRef:ObjectFieldSelector# resourceFieldRef:ResourceFieldSelector# mode:int?;
ResourceFieldSelector: containerName *resource|req *divisor:Quantity;
SecretProjection ConfigMapProjection: :LocalObjectReference items:[]KeyToPath 4optional:bool?;
PersistentVolumeClaimSpec: accessModes:[] 4selector:LabelSelector#
  2resources:VolumeResourceRequirements(limits:{}Quantity requests:{}Quantity)+ volumeName
  5storageClassName:?|@subdomain volumeMode:?=Filesystem|Block,Filesystem dataSource:TypedLocalObjectReference#
  dataSourceRef:TypedObjectReference(*apiGroup:?|@subdomain *kind|req *name|req namespace:?)
  volumeAttributesClassName:?|@subdomain;
TypedLocalObjectReference: *apiGroup:?|@subdomain *kind|req *name|req;
Container: *name|req|@label image|req command:[] args:[] workingDir ports:[]ContainerPort(name|@port
  hostPort:int|1..65535 *containerPort:int|req|1..65535 protocol=TCP|SCTP,TCP,UDP hostIP|@ip)/containerPort,protocol
  19envFrom:[]EnvFromSource(prefix configMapRef:ConfigMapEnvSource secretRef:SecretEnvSource)
  7env:[]EnvVar(*name|req|@env value valueFrom:EnvVarSource(fieldRef:ObjectFieldSelector#
  resourceFieldRef:ResourceFieldSelector# configMapKeyRef:ConfigMapKeySelector# secretKeyRef:SecretKeySelector#
  !fileKeyRef:FileKeySelector(*volumeName|req *path|req *key|req optional:bool?=false)#))/name
  resources:ResourceRequirements+ ~23resizePolicy:[]ContainerResizePolicy(*resourceName *restartPolicy) restartPolicy:?
  !restartPolicyRules:[]ContainerRestartRule(action|need exitCodes:ContainerRestartRuleOnExitCodes(operator|need
  values:[]int/_)) 9volumeMounts:[]VolumeMount(*name|req readOnly:bool ~7recursiveReadOnly:? *3mountPath|req subPath
  mountPropagation:?|Bidirectional,HostToContainer,None subPathExpr)/mountPath !21volumeDevices:[]VolumeDevice(*name|req
  *devicePath|req)/devicePath 10livenessProbe:Probe readinessProbe:Probe 22startupProbe:Probe
  12lifecycle:Lifecycle(postStart:LifecycleHandler preStop:LifecycleHandler stopSignal:?)
  terminationMessagePath=/dev/termination-log 20terminationMessagePolicy=File|File,FallbackToLogsOnError
  14imagePullPolicy|Always,IfNotPresent,Never securityContext:SecurityContext stdin:bool stdinOnce:bool tty:bool;
ConfigMapEnvSource SecretEnvSource: :LocalObjectReference optional:bool?;
ConfigMapKeySelector SecretKeySelector: :LocalObjectReference *key|req optional:bool?; ExecAction: command:[]|req;
HTTPHeader: *name *value; Sysctl: *name|req|@sysctl *value;
ResourceRequirements: limits:{}Quantity requests:{}Quantity !claims:[]ResourceClaim(*name request)/name_;
TCPSocketAction: *port:IntOrString host;
Probe: :ProbeHandler initialDelaySeconds:int|0.. timeoutSeconds:int=1|0.. periodSeconds:int=10|0..
  successThreshold:int=1|0.. failureThreshold:int=3|0.. terminationGracePeriodSeconds:int?;
ProbeHandler: exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction grpc:GRPCAction(*port:int|1..65535
  *service:?=);
HTTPGetAction: path=/ *port:IntOrString host scheme=HTTP|HTTP,HTTPS httpHeaders:[]HTTPHeader;
LifecycleHandler: exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction sleep:SleepAction(*seconds:int);
SecurityContext: capabilities:Capabilities(add:[] drop:[]) privileged:bool? seLinuxOptions:SELinuxOptions
  ~10windowsOptions:WindowsSecurityContextOptions(gmsaCredentialSpecName:? gmsaCredentialSpec:? runAsUserName:?
  hostProcess:bool?) 4runAsUser:int?|0..2147483647 8runAsGroup:int?|0..2147483647 5runAsNonRoot:bool?
  readOnlyRootFilesystem:bool? allowPrivilegeEscalation:bool? 9procMount:?|Default,Unmasked
  11seccompProfile:SeccompProfile appArmorProfile:AppArmorProfile;
SELinuxOptions: user role type level; SeccompProfile: *type|Localhost,RuntimeDefault,Unconfined localhostProfile:?;
AppArmorProfile: *type|Localhost,RuntimeDefault,Unconfined localhostProfile:?;
EphemeralContainer: :Container targetContainerName; NodeSelector: *nodeSelectorTerms:[]NodeSelectorTerm;
PodSecurityContext: seLinuxOptions:SELinuxOptions ~8windowsOptions:WindowsSecurityContextOptions
  2runAsUser:int?|0..2147483647 6runAsGroup:int?|0..2147483647 3runAsNonRoot:bool? supplementalGroups:[]int
  ~12supplementalGroupsPolicy:?|Merge,Strict 5fsGroup:int?|0..2147483647 7sysctls:[]Sysctl
  9fsGroupChangePolicy:?|Always,OnRootMismatch seccompProfile:SeccompProfile appArmorProfile:AppArmorProfile
  ~13seLinuxChangePolicy:?|!Recursive;
NodeSelectorRequirement: *key|@labelkey *operator|?DoesNotExist,Exists,Gt,In,Lt,NotIn values:[];
Affinity: nodeAffinity:NodeAffinity(requiredDuringSchedulingIgnoredDuringExecution:NodeSelector#
  preferredDuringSchedulingIgnoredDuringExecution:[]PreferredSchedulingTerm(*weight:int
  preference:NodeSelectorTerm+#|need)) podAffinity:PodAffinity podAntiAffinity:PodAntiAffinity;
NodeSelectorTerm: matchExpressions:[]NodeSelectorRequirement matchFields:[]NodeSelectorRequirement;
PodAffinity PodAntiAffinity: requiredDuringSchedulingIgnoredDuringExecution:[]PodAffinityTerm
  preferredDuringSchedulingIgnoredDuringExecution:[]WeightedPodAffinityTerm(*weight:int
  podAffinityTerm:PodAffinityTerm+|need);
PodAffinityTerm: labelSelector:LabelSelector# namespaces:[] *topologyKey namespaceSelector:LabelSelector#
  matchLabelKeys:[] mismatchLabelKeys:[];
Toleration: key|@labelkey operator|Equal,Exists|?Equal,Exists,Gt,Lt value effect|NoSchedule,PreferNoSchedule,NoExecute
  tolerationSeconds:int?;
HostIP PodIP: *ip;
PodStatus: 17observedGeneration:int 1phase|?Failed,Pending,Running,Succeeded,Unknown conditions:[]PodCondition(*type
  7observedGeneration:int *2status *lastProbeTime:Time *lastTransitionTime:Time reason message)/type message reason
  11nominatedNodeName 5hostIP 16hostIPs:[]HostIP/ip^ 6podIP 12podIPs:[]PodIP/ip 7startTime:Time?
  10initContainerStatuses:[]ContainerStatus 8containerStatuses:[]ContainerStatus
  qosClass|?BestEffort,Burstable,Guaranteed 13ephemeralContainerStatuses:[]ContainerStatus resize
  resourceClaimStatuses:[]PodResourceClaimStatus(*name resourceClaimName:?)&/name
  18extendedResourceClaimStatus:PodExtendedResourceClaimStatus(*requestMappings:[]ContainerExtendedResourceRequest(
  *containerName *resourceName *requestName) *resourceClaimName) allocatedResources:{}Quantity
  resources:ResourceRequirements;
ContainerStatus: *name state:ContainerState+ lastState:ContainerState+ *ready:bool *restartCount:int *image *imageID
  containerID started:bool? allocatedResources:{}Quantity resources:ResourceRequirements
  volumeMounts:[]VolumeMountStatus(*name *mountPath readOnly:bool recursiveReadOnly:?)/mountPath
  user:ContainerUser(linux:LinuxContainerUser(*uid:int *gid:int supplementalGroups:[]int))
  allocatedResourcesStatus:[]ResourceStatus(*name resources:[]ResourceHealth(*resourceID health)/resourceID_)/name
  stopSignal:?;
ContainerState: waiting:ContainerStateWaiting(reason message) running:ContainerStateRunning(*startedAt:Time)
  terminated:ContainerStateTerminated(*exitCode:int signal:int reason message *startedAt:Time *finishedAt:Time
  containerID);
ServiceSpec: ports:[]ServicePort(name|@label protocol=TCP|SCTP,TCP,UDP 6appProtocol:?|@labelkey *3port:int|1..65535
  *targetPort:IntOrString|opt nodePort:int)/port,protocol selector:{}# clusterIP 18clusterIPs:[]
  4type=ClusterIP|ClusterIP,ExternalName,LoadBalancer,NodePort !externalIPs:[] 7sessionAffinity=None|ClientIP,None
  ~loadBalancerIP !loadBalancerSourceRanges:[] externalName externalTrafficPolicy|Cluster,Local ~healthCheckNodePort:int
  publishNotReadyAddresses:bool
  sessionAffinityConfig:SessionAffinityConfig(clientIP:ClientIPConfig(timeoutSeconds:int?)) 19ipFamilies:[]
  17ipFamilyPolicy:?|PreferDualStack,RequireDualStack,SingleStack 20allocateLoadBalancerNodePorts:bool?
  ~loadBalancerClass:? internalTrafficPolicy:?|Cluster,Local
  trafficDistribution:?|!PreferClose,PreferSameZone,PreferSameNode;
ServiceStatus: loadBalancer:LoadBalancerStatus(ingress:[]LoadBalancerIngress(ip hostname ipMode:? ports:[]PortStatus))+
  conditions:[]Condition/type;
PortStatus IngressPortStatus: *port:int *protocol|?SCTP,TCP,UDP error:?;
Endpoints: metadata:ObjectMeta+ subsets:[]EndpointSubset(addresses:[]EndpointAddress
  notReadyAddresses:[]EndpointAddress ports:[]EndpointPort(name|@label *port:int|1..65535 protocol=TCP|SCTP,TCP,UDP
  appProtocol:?|@labelkey));
EndpointAddress: *ip|req|@ip 3hostname|@label nodeName:?|@subdomain 2targetRef:ObjectReference#;
ObjectReference: kind namespace name uid apiVersion resourceVersion fieldPath;
ConfigMap: metadata:ObjectMeta+ 4immutable:bool? 2data:{} binaryData:{}bytes;
Secret: metadata:ObjectMeta+ 5immutable:bool? 2data:{}bytes 4stringData:{} 3type=Opaque;
ServiceAccount: metadata:ObjectMeta+ secrets:[]ObjectReference#/name imagePullSecrets:[]LocalObjectReference
  automountServiceAccountToken:bool?;
NamespaceSpec: finalizers:[];
NamespaceStatus: phase=Active|?Active,Terminating conditions:[]NamespaceCondition(*type *status
  *4lastTransitionTime:Time reason message)/type;
NodeSpec: podCIDR 7podCIDRs:[]/ 3providerID unschedulable:bool taints:[]Taint(*key|req|@labelkey value|@labelvalue
  *effect|req|NoSchedule,PreferNoSchedule,NoExecute timeAdded:Time?)
  configSource:NodeConfigSource(2configMap:ConfigMapNodeConfigSource(*namespace *name uid resourceVersion
  *kubeletConfigKey)) 2externalID;
NodeStatus: capacity:{}Quantity allocatable:{}Quantity phase|?Pending,Running,Terminated
  conditions:[]NodeCondition(*type *status *lastHeartbeatTime:Time *lastTransitionTime:Time reason message)/type
  addresses:[]NodeAddress(*type *address)/type
  daemonEndpoints:NodeDaemonEndpoints(kubeletEndpoint:DaemonEndpoint(*Port:int)+)+ nodeInfo:NodeSystemInfo(*machineID
  *systemUUID *bootID *kernelVersion *osImage *containerRuntimeVersion *kubeletVersion *kubeProxyVersion
  *operatingSystem *architecture swap:NodeSwapStatus(capacity:int?))+ images:[]ContainerImage(*names:[]|opt
  sizeBytes:int) volumesInUse:[] volumesAttached:[]AttachedVolume(*name *devicePath)
  config:NodeConfigStatus(assigned:NodeConfigSource active:NodeConfigSource lastKnownGood:NodeConfigSource error)
  runtimeHandlers:[]NodeRuntimeHandler(*name|opt features:NodeRuntimeHandlerFeatures(recursiveReadOnlyMounts:bool?
  userNamespaces:bool?)) features:NodeFeatures(supplementalGroupsPolicy:bool?) declaredFeatures:[];
EventSource: component host;
Event: metadata:ObjectMeta+|need involvedObject:ObjectReference+#|need reason message source:EventSource+
  *firstTimestamp:Time *lastTimestamp:Time count:int type *eventTime:MicroTime series:EventSeries(count:int
  *lastObservedTime:MicroTime) action related:ObjectReference# *reportingComponent|opt *reportingInstance|opt;
PersistentVolumeClaimStatus: phase=Pending|?Bound,Lost,Pending accessModes:[] capacity:{}Quantity
  conditions:[]PersistentVolumeClaimCondition/type allocatedResources:{}Quantity 7allocatedResourceStatuses:{}
  currentVolumeAttributesClassName:? modifyVolumeStatus:ModifyVolumeStatus(targetVolumeAttributesClassName
  *status|?InProgress,Infeasible,Pending);
PersistentVolumeClaimCondition JobCondition: *type *status *lastProbeTime:Time *lastTransitionTime:Time reason message;
SecretReference: name|req namespace|req;
PersistentVolumeSpec: capacity:{}Quantity|req :PersistentVolumeSource accessModes:[]|req claimRef:ObjectReference
  persistentVolumeReclaimPolicy=Retain|Delete,Recycle,Retain storageClassName|@subdomain mountOptions:[]
  volumeMode:?=Filesystem|Block,Filesystem nodeAffinity:VolumeNodeAffinity(required:NodeSelector#)
  volumeAttributesClassName:?|@subdomain;
PersistentVolumeSource: gcePersistentDisk:GCEPersistentDiskVolumeSource
  awsElasticBlockStore:AWSElasticBlockStoreVolumeSource hostPath:HostPathVolumeSource
  glusterfs:GlusterfsPersistentVolumeSource(*endpoints *path readOnly:bool endpointsNamespace:?) nfs:NFSVolumeSource
  rbd:RBDPersistentVolumeSource iscsi:ISCSIPersistentVolumeSource cinder:CinderPersistentVolumeSource
  cephfs:CephFSPersistentVolumeSource fc:FCVolumeSource flocker:FlockerVolumeSource
  flexVolume:FlexPersistentVolumeSource azureFile:AzureFilePersistentVolumeSource(*secretName *shareName readOnly:bool
  *secretNamespace:?) vsphereVolume:VsphereVirtualDiskVolumeSource quobyte:QuobyteVolumeSource
  azureDisk:AzureDiskVolumeSource photonPersistentDisk:PhotonPersistentDiskVolumeSource
  portworxVolume:PortworxVolumeSource scaleIO:ScaleIOPersistentVolumeSource local:LocalVolumeSource(*path|req fsType:?)
  storageos:StorageOSPersistentVolumeSource(volumeName volumeNamespace fsType readOnly:bool secretRef:ObjectReference#)
  csi:CSIPersistentVolumeSource(*driver|req *volumeHandle|req readOnly:bool fsType volumeAttributes:{}
  controllerPublishSecretRef:SecretReference# nodeStageSecretRef:SecretReference# nodePublishSecretRef:SecretReference#
  controllerExpandSecretRef:SecretReference# nodeExpandSecretRef:SecretReference#);
PersistentVolumeStatus: phase=Pending|?Available,Bound,Failed,Pending,Released message reason
  lastPhaseTransitionTime:Time?;
ReplicationControllerSpec: replicas:int?=1|0.. 4minReadySeconds:int|0.. 2selector:{}#|req template:PodTemplateSpec|req;
PodTemplateSpec: metadata:ObjectMeta+ spec:PodSpec+; PodTemplate: metadata:ObjectMeta+ template:PodTemplateSpec+|opt;
ReplicationControllerStatus: *replicas:int fullyLabeledReplicas:int 4readyReplicas:int availableReplicas:int
  3observedGeneration:int 6conditions:[]ReplicationControllerCondition/type;
LimitRangeSpec: *limits:[]LimitRangeItem(*type max:{}Quantity min:{}Quantity default:{}Quantity
  defaultRequest:{}Quantity maxLimitRequestRatio:{}Quantity);
ReplicationControllerCondition ReplicaSetCondition StatefulSetCondition DaemonSetCondition
  HorizontalPodAutoscalerCondition: *type *status *lastTransitionTime:Time reason message;
ResourceQuotaSpec: hard:{}Quantity scopes:[]
  scopeSelector:ScopeSelector(matchExpressions:[]ScopedResourceSelectorRequirement(
  *scopeName|?BestEffort,CrossNamespacePodAffinity,NotBestEffort,NotTerminating,PriorityClass,Terminating,
  VolumeAttributesClass *operator|?DoesNotExist,Exists,In,NotIn values:[]))#;
ResourceQuotaStatus: hard:{}Quantity used:{}Quantity; Binding: metadata:ObjectMeta+ target:ObjectReference+#|need;
DeploymentSpec: replicas:int?=1|0.. *selector:LabelSelector# template:PodTemplateSpec+|need
  strategy:DeploymentStrategy(type=RollingUpdate|?Recreate,RollingUpdate
  rollingUpdate:RollingUpdateDeployment(maxUnavailable:IntOrString?=25% maxSurge:IntOrString?=25%))+&
  minReadySeconds:int|0.. revisionHistoryLimit:int?=10|0.. paused:bool 9progressDeadlineSeconds:int?=600|0..;
DeploymentStatus: observedGeneration:int replicas:int updatedReplicas:int 7readyReplicas:int 4availableReplicas:int
  unavailableReplicas:int 9terminatingReplicas:int? 6conditions:[]DeploymentCondition(*type *status
  *6lastUpdateTime:Time *lastTransitionTime:Time 4reason message)/type 8collisionCount:int?;
ReplicaSetSpec: replicas:int?=1|0.. 4minReadySeconds:int|0.. *2selector:LabelSelector# template:PodTemplateSpec+|opt;
ReplicaSetStatus: *replicas:int fullyLabeledReplicas:int 4readyReplicas:int availableReplicas:int
  7terminatingReplicas:int? 3observedGeneration:int 6conditions:[]ReplicaSetCondition/type;
StatefulSetSpec: replicas:int?=1|0.. *selector:LabelSelector# template:PodTemplateSpec+|need
  volumeClaimTemplates:[]PersistentVolumeClaim *serviceName|@label|opt
  podManagementPolicy=OrderedReady|?OrderedReady,Parallel
  updateStrategy:StatefulSetUpdateStrategy(type|?OnDelete,RollingUpdate
  rollingUpdate:RollingUpdateStatefulSetStrategy(partition:int?=0|0.. maxUnavailable:IntOrString?))+
  revisionHistoryLimit:int?=10 minReadySeconds:int|0..
  persistentVolumeClaimRetentionPolicy:StatefulSetPersistentVolumeClaimRetentionPolicy(whenDeleted=Retain|!Retain,Delete
  whenScaled=Retain|!Retain,Delete)={} ordinals:StatefulSetOrdinals(*start:int|0..|opt);
ScaleSpec: replicas:int|0..;
StatefulSetStatus: observedGeneration:int *replicas:int readyReplicas:int currentReplicas:int updatedReplicas:int
  currentRevision updateRevision 9collisionCount:int? conditions:[]StatefulSetCondition/type *availableReplicas:int|opt;
DaemonSetSpec: *selector:LabelSelector# template:PodTemplateSpec+|need
  updateStrategy:DaemonSetUpdateStrategy(type=RollingUpdate|?OnDelete,RollingUpdate
  rollingUpdate:RollingUpdateDaemonSet(maxUnavailable:IntOrString?=1 maxSurge:IntOrString?=0))+ minReadySeconds:int|0..
  6revisionHistoryLimit:int?=10|0..;
ScaleStatus: *replicas:int selector;
DaemonSetStatus: *currentNumberScheduled:int *numberMisscheduled:int *desiredNumberScheduled:int *numberReady:int
  observedGeneration:int updatedNumberScheduled:int numberAvailable:int numberUnavailable:int collisionCount:int?
  conditions:[]DaemonSetCondition/type;
ControllerRevision: metadata:ObjectMeta+ *data:Raw# *revision:int|0..;
JobSpec: parallelism:int?|0.. completions:int?|0.. activeDeadlineSeconds:int?|0..
  11podFailurePolicy:PodFailurePolicy(*rules:[]PodFailurePolicyRule(*action|Count,FailIndex,FailJob,Ignore
  onExitCodes:PodFailurePolicyOnExitCodesRequirement(containerName:? *operator|In,NotIn *values:[]int/_)
  onPodConditions:[]PodFailurePolicyOnPodConditionsPattern(*type|@labelkey *status=True|!False,True,Unknown)))
  16successPolicy:SuccessPolicy(*rules:[]SuccessPolicyRule(succeededIndexes:? succeededCount:int?|0..))
  7backoffLimit:int?|0.. 12backoffLimitPerIndex:int?|0.. maxFailedIndexes:int?|0.. 4selector:LabelSelector#
  manualSelector:bool? template:PodTemplateSpec+|need 8ttlSecondsAfterFinished:int?|0..
  completionMode:?|NonIndexed,Indexed suspend:bool? 14podReplacementPolicy:?|Failed,TerminatingOrFailed managedBy:?;
JobStatus: conditions:[]JobCondition/type^ startTime:Time? completionTime:Time? active:int succeeded:int failed:int
  11terminating:int? 7completedIndexes 10failedIndexes:?
  8uncountedTerminatedPods:UncountedTerminatedPods(succeeded:[]/_ failed:[]/_) ready:int?;
JobTemplateSpec: metadata:ObjectMeta+ spec:JobSpec+;
CronJobSpec: *schedule|req 8timeZone:? 2startingDeadlineSeconds:int?|0.. concurrencyPolicy=Allow|Allow,Forbid,Replace
  suspend:bool?=false jobTemplate:JobTemplateSpec+|need successfulJobsHistoryLimit:int?=3|0..
  failedJobsHistoryLimit:int?=1|0..;
CronJobStatus: active:[]ObjectReference 4lastScheduleTime:Time? lastSuccessfulTime:Time?;
HorizontalPodAutoscalerSpec: scaleTargetRef:CrossVersionObjectReference+|need minReplicas:int?=1|1.. *maxReplicas:int
  metrics:[]MetricSpec behavior:HorizontalPodAutoscalerBehavior;
MetricIdentifier: *name selector:LabelSelector#; CrossVersionObjectReference: *kind|req *name|req apiVersion;
MetricSpec: *type|!ContainerResource,External,Object,Pods,Resource
  object:ObjectMetricSource(describedObject:CrossVersionObjectReference+|need target:MetricTarget+|need
  metric:MetricIdentifier+|need) pods:PodsMetricSource resource:ResourceMetricSource(*name target:MetricTarget+|need)
  7containerResource:ContainerResourceMetricSource(*name target:MetricTarget+|need *container|@label)
  5external:ExternalMetricSource;
MetricTarget: *type value:Quantity? averageValue:Quantity? averageUtilization:int?;
PodsMetricSource ExternalMetricSource: metric:MetricIdentifier+|need target:MetricTarget+|need;
HorizontalPodAutoscalerBehavior: scaleUp:HPAScalingRules={} scaleDown:HPAScalingRules={};
HPAScalingRules: 3stabilizationWindowSeconds:int? 1selectPolicy:?=Max|!Disabled,Max,Min
  policies:[]HPAScalingPolicy(*type|!Percent,Pods *value:int *periodSeconds:int) 4tolerance:Quantity?;
HorizontalPodAutoscalerStatus: observedGeneration:int? lastScaleTime:Time? currentReplicas:int *desiredReplicas:int
  *currentMetrics:[]MetricStatus|opt conditions:[]HorizontalPodAutoscalerCondition/type;
MetricStatus: *type object:ObjectMetricStatus(metric:MetricIdentifier+|need current:MetricValueStatus+|need
  describedObject:CrossVersionObjectReference+|need) pods:PodsMetricStatus resource:ResourceMetricStatus(*name
  current:MetricValueStatus+|need) 7containerResource:ContainerResourceMetricStatus(*name
  current:MetricValueStatus+|need *container) 5external:ExternalMetricStatus;
MetricValueStatus: value:Quantity? averageValue:Quantity? averageUtilization:int?;
PodsMetricStatus ExternalMetricStatus: metric:MetricIdentifier+|need current:MetricValueStatus+|need;
autoscaling.v1.HorizontalPodAutoscalerSpec: scaleTargetRef:CrossVersionObjectReference+#|need minReplicas:int?=1|1..
  *maxReplicas:int targetCPUUtilizationPercentage:int?;
autoscaling.v1.HorizontalPodAutoscalerStatus: observedGeneration:int? lastScaleTime:Time? *currentReplicas:int
  *desiredReplicas:int currentCPUUtilizationPercentage:int?;
IngressSpec: 4ingressClassName:?|@subdomain 1defaultBackend:IngressBackend tls:[]IngressTLS(hosts:[]
  secretName|@subdomain) rules:[]IngressRule(host
  :IngressRuleValue(http:HTTPIngressRuleValue(*paths:[]HTTPIngressPath(path
  *3pathType:?|Exact,ImplementationSpecific,Prefix|need 2backend:IngressBackend+|need)|req)));
IngressBackend: 4service:IngressServiceBackend(*name|req|@rfc1035 port:ServiceBackendPort(name|@port
  number:int|1..65535)+#) 3resource:TypedLocalObjectReference#;
IngressStatus: loadBalancer:IngressLoadBalancerStatus(ingress:[]IngressLoadBalancerIngress(ip|@ip hostname|@subdomain
  4ports:[]IngressPortStatus))+;
IngressClassSpec: controller|req parameters:IngressClassParametersReference(apiGroup:?|@subdomain *kind|req *name|req
  *scope:?=Cluster|!Cluster,Namespace namespace:?);
NetworkPolicySpec: podSelector:LabelSelector+# ingress:[]NetworkPolicyIngressRule(ports:[]NetworkPolicyPort
  from:[]NetworkPolicyPeer) egress:[]NetworkPolicyEgressRule(ports:[]NetworkPolicyPort to:[]NetworkPolicyPeer)
  policyTypes:[];
NetworkPolicyPort: protocol:?=TCP|TCP,UDP,SCTP port:IntOrString? endPort:int?;
NetworkPolicyPeer: podSelector:LabelSelector# namespaceSelector:LabelSelector# ipBlock:IPBlock(*cidr|req except:[]);
EndpointSlice: metadata:ObjectMeta+ *4addressType|req|FQDN,IPv4,IPv6 *2endpoints:[]Endpoint(*addresses:[]/_
  conditions:EndpointConditions(ready:bool? serving:bool? terminating:bool?)+ hostname:?|@label
  targetRef:ObjectReference# deprecatedTopology:{} nodeName:?|@subdomain zone:?
  hints:EndpointHints(forZones:[]ForZone(*name|@labelvalue) forNodes:[]ForNode(*name|@subdomain)))
  *ports:[]discovery.EndpointPort(name:?=|@label protocol:?=TCP|SCTP,TCP,UDP port:int? appProtocol:?|@labelkey)|opt;
PodDisruptionBudgetSpec: minAvailable:IntOrString? selector:LabelSelector#/^ maxUnavailable:IntOrString?
  unhealthyPodEvictionPolicy:?|AlwaysAllow,IfHealthyBudget;
PodDisruptionBudgetStatus: observedGeneration:int disruptedPods:{}Time *disruptionsAllowed:int *currentHealthy:int
  *desiredHealthy:int *expectedPods:int conditions:[]Condition/type;
Eviction: metadata:ObjectMeta+ deleteOptions:DeleteOptions(gracePeriodSeconds:int? preconditions:Preconditions(uid:?
  resourceVersion:?) orphanDependents:bool? propagationPolicy:? dryRun:[]
  ignoreStoreReadErrorWithClusterBreakingPotential:bool?);
Role: metadata:ObjectMeta+ *rules:[]PolicyRule|opt;
PolicyRule: *verbs:[] apiGroups:[] resources:[] resourceNames:[] nonResourceURLs:[];
ClusterRole: metadata:ObjectMeta+ *rules:[]PolicyRule|opt
  aggregationRule:AggregationRule(clusterRoleSelectors:[]LabelSelector);
RoleBinding ClusterRoleBinding: metadata:ObjectMeta+ subjects:[]Subject(*kind|!ServiceAccount,User,Group apiGroup
  *name|req namespace) roleRef:RoleRef(*apiGroup=rbac.authorization.k8s.io|rbac.authorization.k8s.io|need *kind
  *name|req)+#|need;
StorageClass: metadata:ObjectMeta+ *provisioner|req parameters:{}
  reclaimPolicy:?=Delete|Delete,Retain|?Delete,Recycle,Retain mountOptions:[] allowVolumeExpansion:bool?
  volumeBindingMode:?=Immediate|Immediate,WaitForFirstConsumer
  allowedTopologies:[]TopologySelectorTerm(matchLabelExpressions:[]TopologySelectorLabelRequirement(*key|@labelkey
  *values:[]|req));
PriorityClass: metadata:ObjectMeta+ *value:int globalDefault:bool description
  preemptionPolicy:?=PreemptLowerPriority|PreemptLowerPriority,Never;
RuntimeClass: metadata:ObjectMeta+ *handler|@label overhead:Overhead(podFixed:{}Quantity)
  scheduling:Scheduling(nodeSelector:{}# tolerations:[]Toleration);
NodeMetrics: metadata:ObjectMeta+ *timestamp:Time *window *usage:{}Quantity;
PodMetrics: metadata:ObjectMeta+ *timestamp:Time *window *containers:[]ContainerMetrics(*name *usage:{}Quantity);
LeaseSpec: holderIdentity:? leaseDurationSeconds:int? acquireTime:MicroTime? renewTime:MicroTime?
  leaseTransitions:int?|0.. strategy:? preferredHolder:?;
events.Event: metadata:ObjectMeta+ *eventTime:MicroTime|req|need series:events.EventSeries(*count:int
  *lastObservedTime:MicroTime|need) reportingController reportingInstance action reason regarding:ObjectReference+#|opt
  related:ObjectReference# note type deprecatedSource:EventSource+ *deprecatedFirstTimestamp:Time
  *deprecatedLastTimestamp:Time deprecatedCount:int;
CustomResourceDefinitionSpec: *group|req|@subdomain 3names:CustomResourceDefinitionNames+|need
  *scope|req|!Cluster,Namespaced *7versions:[]CustomResourceDefinitionVersion
  9conversion:CustomResourceConversion(*strategy|!None,Webhook
  ~webhook:WebhookConversion(2clientConfig:WebhookClientConfig(3url:? 1service:ServiceReference(*namespace *name path:?
  port:int?=443) caBundle:bytes) *conversionReviewVersions:[])) preserveUnknownFields:bool;
CustomResourceDefinitionNames: *plural|@rfc1035 singular|@rfc1035 shortNames:[] *kind listKind categories:[];
CustomResourceDefinitionVersion: *name *served:bool *storage:bool 7deprecated:bool deprecationWarning:?
  4schema:CustomResourceValidation(openAPIV3Schema:JSONSchemaProps)
  subresources:CustomResourceSubresources(status:CustomResourceSubresourceStatus()
  scale:CustomResourceSubresourceScale(*specReplicasPath *statusReplicasPath labelSelectorPath:?))
  additionalPrinterColumns:[]CustomResourceColumnDefinition(*name|req *type format description priority:int *jsonPath)
  9selectableFields:[]SelectableField(*jsonPath);
JSONSchemaProps: id $schema $ref:? description type format title default:Raw? maximum:Double? exclusiveMaximum:bool
  minimum:Double? exclusiveMinimum:bool maxLength:int? minLength:int? pattern maxItems:int? minItems:int?
  uniqueItems:bool multipleOf:Double? enum:[]Raw maxProperties:int? minProperties:int? required:[] items:SchemaOrArray
  allOf:[]JSONSchemaProps oneOf:[]JSONSchemaProps anyOf:[]JSONSchemaProps not:JSONSchemaProps
  properties:{}JSONSchemaProps additionalProperties:SchemaOrBool patternProperties:{}JSONSchemaProps
  dependencies:{}SchemaOrStrings additionalItems:SchemaOrBool definitions:{}JSONSchemaProps
  externalDocs:ExternalDocumentation(description url) example:Raw? nullable:bool
  x-kubernetes-preserve-unknown-fields:bool? x-kubernetes-embedded-resource:bool x-kubernetes-int-or-string:bool
  x-kubernetes-list-map-keys:[] x-kubernetes-list-type:? x-kubernetes-map-type:?
  ~x-kubernetes-validations:[]ValidationRule(*rule message messageExpression
  reason:?|?FieldValueDuplicate,FieldValueForbidden,FieldValueInvalid,FieldValueRequired fieldPath
  optionalOldSelf:bool?)/rule;
CustomResourceDefinitionStatus: *conditions:[]CustomResourceDefinitionCondition(*type *status *lastTransitionTime:Time
  reason message observedGeneration:int)/type_|opt acceptedNames:CustomResourceDefinitionNames+|opt
  *storedVersions:[]|opt observedGeneration:int;
TokenReviewSpec: token audiences:[]; TokenReviewStatus: authenticated:bool user:UserInfo+ 4audiences:[] 3error;
UserInfo: username uid groups:[] extra:{}ExtraValue;
TokenRequestSpec: *audiences:[] *4expirationSeconds:int?=3600 *3boundObjectRef:BoundObjectReference(kind apiVersion
  name uid);
TokenRequestStatus: *token *expirationTimestamp:Time;
SelfSubjectReview: metadata:ObjectMeta+ status:SelfSubjectReviewStatus(userInfo:UserInfo+)+;
NonResourceAttributes: path verb;
SubjectAccessReviewSpec: resourceAttributes:ResourceAttributes nonResourceAttributes:NonResourceAttributes user
  groups:[] extra:{}ExtraValue uid;
ResourceAttributes: namespace verb group version resource subresource name
  fieldSelector:FieldSelectorAttributes(rawSelector requirements:[]FieldSelectorRequirement(*key *operator values:[]))
  labelSelector:LabelSelectorAttributes(rawSelector requirements:[]LabelSelectorRequirement);
SubjectAccessReviewStatus: *allowed:bool 4denied:bool 2reason evaluationError;
LocalSubjectAccessReview: metadata:ObjectMeta+ spec:SubjectAccessReviewSpec+|need status:SubjectAccessReviewStatus+;
SelfSubjectAccessReview: metadata:ObjectMeta+ spec:SelfSubjectAccessReviewSpec(resourceAttributes:ResourceAttributes
  nonResourceAttributes:NonResourceAttributes)+|need status:SubjectAccessReviewStatus+;
SelfSubjectRulesReview: metadata:ObjectMeta+ spec:SelfSubjectRulesReviewSpec(namespace)+|need
  status:SubjectRulesReviewStatus(*resourceRules:[]ResourceRule(*verbs:[] apiGroups:[] resources:[] resourceNames:[])
  *nonResourceRules:[]NonResourceRule(*verbs:[] nonResourceURLs:[]) *incomplete:bool evaluationError)+;
APIService CSINode CertificateSigningRequest ValidatingWebhookConfiguration: metadata:ObjectMeta+
"""

Field = namedtuple("Field", "number name kind type pointer plain retain atomic keys merges applies default always "
                            "flag rules")
TOKEN = re.compile(r"([*~!]*)(\d*)([\w$-]*):?(\[\]|\{\}|)([\w.]*)([?+&#]*)(/?)([A-Za-z,]*)([\^_]?)"
                   r"(?:=([^\s|]*))?((?:\|\S+)*)")
WORDS = {"{}": {}, "true": True, "false": False}        # defaults that are neither number nor text
SCALARS = {"string", "int", "bool", "bytes", "Time", "MicroTime", "Quantity", "IntOrString", "Raw", "Double",
           "ExtraValue", "SchemaOrArray", "SchemaOrBool", "SchemaOrStrings"}
MESSAGES, rest = {}, re.sub(r"([|,])\s+", r"\1", SCHEMA)       # name: tokens
while "(" in rest:
    MESSAGES.update(re.findall(r"([\w.]+)\(([^()]*)\)", rest))
    rest = re.sub(r"\([^()]*\)", "", rest)
for part in rest.split(";"):
    names, tokens = part.split(":", 1)
    MESSAGES.update(dict.fromkeys(names.split(), tokens))
for name in [name[:-4] for name in MESSAGES if name.endswith("Spec")]:
    status = f" 3status:{name}Status+" if name + "Status" in MESSAGES else ""
    need = "|need" * (name in ("CustomResourceDefinition", "SubjectAccessReview", "TokenReview"))
    MESSAGES.setdefault(name, f"1metadata:ObjectMeta+ 2spec:{name}Spec+{need}{status}")
for name in ("ISCSI", "RBD", "Flex", "Cinder", "CephFS", "ScaleIO"):    # their secret may be in any namespace
    source = MESSAGES[name + "VolumeSource"]
    MESSAGES[name + "PersistentVolumeSource"] = source.replace("LocalObjectReference", "SecretReference")

class Message:
    """The fields of one message: by_name (embedded structs resolved), by_number (as on the protobuf wire)."""
    def __init__(self, name):
        self.name, self.by_name, self.by_number, last = name, {}, {}, 0
        for token in MESSAGES[name].split():
            flags, number, label, kind, type_, mark, slash, keys, only, default, rules = TOKEN.fullmatch(token).groups()
            last = int(number or last + 1)
            field = self.by_number[last] = Field(
                last, label, kind, type_ or "string", *(sign in mark for sign in "?+&#"),
                tuple(filter(None, keys.split(","))), slash and only != "_", slash and only != "^",
                default and WORDS.get(default, int(default) if default.isdigit() else default),
                "*" in flags, flags.strip("*"), tuple(filter(None, rules.split("|"))))
            self.by_name.update({label: field} if label else message(field.type).by_name)

message = lru_cache(maxsize=None)(Message)      # by name; parsed at its first use and kept, any thread may ask

Findings = namedtuple("Findings", "unknown hints refused")      # what reading an object brought to light, as paths

class Mismatch(ValueError):
    """A value of the wrong type, worded as by Go's decoder and, where they differ, its converter and apply."""

JSON_TYPE = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
PYTHON_TYPE = {"string": str, "int": int, "bool": bool}
GO_KIND = {str: "string", bool: "bool", int: "int64", float: "float64", list: "slice", dict: "map"}
GO_TYPE = {"int": "int32", "bytes": "[]uint8", "IntOrString": "intstr.IntOrString"}
ZERO = {"string": "", "int": 0, "bool": False, "bytes": "", "IntOrString": 0, "Quantity": "0"}

def clean(type_, value, findings, path="", owner="", kind="", key=""):
    """The value as the API server would hold it: fields checked against SCHEMA, unknown ones and nulls dropped,
    quantities in canonical form. What was dropped or cannot be honoured goes to findings.
    path: where it stands, such as "spec.containers[0].name"; owner: the message it stands in. Raises Mismatch."""
    if kind == "[]" and isinstance(value, list):
        return [clean(type_, item, findings, f"{path}[{i}]", owner) for i, item in enumerate(value)]
    if kind == "{}" and isinstance(value, dict):
        return {key: ZERO[type_] if item is None else clean(type_, item, findings, path, owner, key="." + key)
                for key, item in sorted(value.items()) if item is not None or type_ in ZERO}
    if not kind and type_ in CHECKS:
        return CHECKS[type_](value)
    or_schema = not kind and type_.startswith("SchemaOr")
    if isinstance(value, dict) and (or_schema or not kind and type_ not in SCALARS):
        return clean_message(message("JSONSchemaProps" if or_schema else type_), value, findings, path)
    if or_schema:
        one = "JSONSchemaProps" if type_ == "SchemaOrArray" else "string"
        return [clean(one, item, findings, path) for item in value] if isinstance(value, list) else bool(value)
    if not kind and (type_ == "Raw" or type(value) is PYTHON_TYPE.get(type_)) and (
            type_ != "int" or -2 ** 63 <= value < 2 ** 63):
        return value
    bare = re.sub(r"\[\d+\]", "", path)
    go = kind.replace("{}", "map[string]") + (GO_TYPE.get(type_, type_) if type_ in SCALARS else "v1." + type_)
    found, source = JSON_TYPE.get(type(value), "null"), GO_KIND.get(type(value), "invalid")
    whole = {"[]": ("slice", "list"), "{}": ("map", "map")}.get(kind, type_ not in SCALARS and ("struct", "map"))
    if whole:
        restored = f"cannot restore {whole[0]} from{':' * (whole[0] == 'struct')} {source}"
        typed = f"{whole[1]}, got &{{{go_text(value)}}}"
    else:
        is_near = found == "number" and go in ("int32", "string") and (source, go) != ("float64", "string")
        restored = f"cannot convert {source} to {go}" if is_near else f"unrecognized type: {go}"
        typed = {"bool": f"boolean, got &{{{go_text(value)}}}", "int": f"numeric (int or float), got {source}"}.get(
            type_, f"string, got &value.valueUnstructured{{Value:{dumps(value).decode()}}}")
    raise Mismatch(f"json: cannot unmarshal {found} into Go struct field {owner}.{bare} of type {go}", restored,
                   f".{path}{key}: expected {typed}")

def go_text(value):
    """A value as Go's %v prints it."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_text(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(go_text, value)) + "]"
    return value if isinstance(value, str) else "<nil>" if value is None else dumps(value).decode()

def clean_message(fields, value, findings, path):
    """clean() for the fields of a Message; those that Go always prints are added."""
    out, where = {}, path
    for name, item in value.items():
        field, where = fields.by_name.get(name), f"{path}.{name}" if path else name
        if field is None and name in ("kind", "apiVersion") and (not path or "metadata" in fields.by_name):
            out[name] = item
        elif field is None:
            findings.unknown.append(where)
        elif item is not None:
            item = clean(field.type, item, findings, where, fields.name, field.kind)
            # Go's omitempty: a zero that is no pointer is not there
            if item or field.always or field.pointer or not field.kind and item != ZERO.get(field.type):
                out[name] = item if item or not field.kind or not field.always else None
                if field.flag:
                    (findings.hints if field.flag == "~" else findings.refused).append(where)
    for field in fields.by_name.values():
        if field.plain or field.always:
            out.setdefault(field.name, clean_message(message(field.type), {}, findings, where) if field.plain else
                           None if field.kind or field.pointer else ZERO.get(field.type))
    return out

def fill_defaults(type_, value):
    """Set the defaults of SCHEMA in place, in this message and those below it."""
    for field in message(type_).by_name.values():
        if field.default is not None and value.get(field.name) in (None, ""):    # Go's zero stands for absence
            value[field.name] = {} if field.default == {} else field.default
        found = value.get(field.name)
        if found is not None and field.type not in SCALARS:
            for item in found if field.kind == "[]" else found.values() if field.kind else (found,):
                fill_defaults(field.type, item)

# == 3. Quantities, names, selectors =========================================================
# Pure functions over single values; the wording of their refusals is that of k8s.io/apimachinery.
QUANTITY = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?")
# What a suffix multiplies by, in units of 10^-9; the smallest first.
DECIMAL = {suffix: 1000 ** i for i, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"))}
BINARY = {suffix: 10 ** 9 << 10 * i for i, suffix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}

def quantity_nanos(text):
    """A resource.Quantity in units of 10^-9, rounded up: "500m" -> 500_000_000. Raises Mismatch."""
    found = QUANTITY.fullmatch(str(text))
    if not found or not (found[2] or found[3]) or len(found[5] or "") > 3 or len(found[0]) > 64:
        raise Mismatch("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    sign, whole, fraction, suffix, exponent = (part or "" for part in found.groups())
    digits, power = int(whole + fraction), int(exponent or 0) - len(fraction)
    digits *= BINARY.get(suffix) or DECIMAL[suffix]
    nanos = digits * 10 ** power if power > 0 else -(-digits // 10 ** -power)
    return -nanos if sign == "-" else nanos

def quantity_value(text, unit=10 ** 9):
    """A quantity as a whole number of units, rounded up: bytes of memory, say."""
    return -(-quantity_nanos(text) // unit)

def quantity_text(nanos):
    """Units of 10^-9 in the spelling of canonical_quantity(), with a binary suffix for whole Ki and more."""
    kibi, rest = divmod(nanos, BINARY["Ki"])
    return f"{nanos}n" if nanos % 10 ** 6 else canonical_quantity(f"{nanos // 10 ** 6}m" if rest else f"{kibi}Ki")

def canonical_quantity(text):
    """The one spelling the API server answers: no fraction, the largest suffix; "0.5" -> "500m", "1024Mi" -> "1Gi"."""
    nanos, found = quantity_nanos(text), QUANTITY.fullmatch(str(text))
    if found[5] or not nanos:
        return found[0] if found[5] else "0"
    units = BINARY if found[4] in BINARY and nanos % 10 ** 9 == 0 else DECIMAL
    suffix = next(suffix for suffix in reversed(units) if nanos % units[suffix] == 0)
    return f"{nanos // units[suffix]}{suffix}"

def check_type(value, types, go):
    """The value, if it has one of the types. Raises Mismatch, worded as by Go's type of that name."""
    if type(value) not in types:
        raise Mismatch(f"json: cannot unmarshal {JSON_TYPE.get(type(value), 'null')} into Go value of type {go}")
    return value

def check_bytes(value):
    check_type(value, (str,), "[]uint8")
    try:
        base64.b64decode(value, validate=True)
        return value
    except ValueError:
        raise Mismatch(f"illegal base64 data at input byte {re.search('[^A-Za-z0-9+/=]|$', value).start()}")

def check_time(value):
    if not TIME.fullmatch(check_type(value, (str,), "string")):
        shown = dumps(value).decode()
        raise Mismatch(f'parsing time {shown} as "2006-01-02T15:04:05Z07:00": cannot parse {shown} as "2006"')
    return value

CHECKS = {"Quantity": canonical_quantity, "bytes": check_bytes, "Time": check_time, "MicroTime": check_time,
          "Double": lambda value: check_type(value, (int, float), "float64"),
          "ExtraValue": lambda value: [check_type(v, (str,), "string") for v in check_type(value, (list,), "[]string")],
          "IntOrString": lambda value: check_type(value, (int, str), "int32")}
LABEL, QUALIFIED = "[a-z0-9]([-a-z0-9]*[a-z0-9])?", "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
ENDS = "and must start and end with an alphanumeric character"
SYSCTL = r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
NAME_RULES = {  # rule -> (regular expression, longest, refusal, the examples it goes on with)
    "subdomain": (rf"{LABEL}(\.{LABEL})*", 253, "a lowercase RFC 1123 subdomain must consist of lower case "
                  "alphanumeric characters, '-' or '.', " + ENDS, "'example.com'"),
    "label": (LABEL, 63, "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
              + ENDS, "'my-name',  or '123-abc'"),
    "rfc1035": ("[a-z]([-a-z0-9]*[a-z0-9])?", 63, "a DNS-1035 label must consist of lower case alphanumeric characters "
                "or '-', start with an alphabetic character, and end with an alphanumeric character",
                "'my-name',  or 'abc-123'"),
    "key": ("[-._a-zA-Z0-9]+", 253, "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "'key.name',  or 'KEY_NAME',  or 'key-name'"),
    "labelvalue": (f"({QUALIFIED})?", 63, "a valid label must be an empty string or consist of alphanumeric "
                   "characters, '-', '_' or '.', " + ENDS, "'MyValue',  or 'my_value',  or '12345'"),
    "qualified": (QUALIFIED, 63, "name part must consist of alphanumeric characters, '-', '_' or '.', " + ENDS,
                  "'MyName',  or 'my.name',  or '123-abc'"),
    "port": ("(?=.*[a-z])[a-z0-9](-?[a-z0-9])*", 15, "must contain only alpha-numeric characters (a-z, 0-9), and "
             "hyphens (-), and at least one letter (a-z)", ""),
    "sysctl": (SYSCTL, 253, f"must have at most 253 characters and match regex ^{SYSCTL}$", ""),
    "env": ("[ -<>-~]+", 1 << 20,
            "a valid environment variable name must consist only of printable ASCII characters other than '='", ""),
}
KIND_NAMES = {"Namespace": "label", "Service": "rfc1035", **dict.fromkeys(      # the others: subdomain
    ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"), "path")}

def name_faults(rule, value):
    """What is wrong with a name, a sentence each. path: whatever can be a part of an URL's path."""
    if rule == "labelkey":
        return label_key_faults(value)
    if rule == "path":
        return [f"may not be '{value}'"] if value in (".", "..") else [
            f"may not contain '{c}'" for c in "/%" if c in value]
    pattern, longest, refusal, examples = NAME_RULES[rule]
    refusal += f" (e.g. {examples}, regex used for validation is '{pattern}')" if examples else ""
    too_long = f"must be no more than {longest} {'characters' if rule == 'key' else 'bytes'}"
    return [too_long] * (len(value) > longest) + [refusal] * (not re.fullmatch(pattern, value))

def label_key_faults(key):
    """What is wrong with a label key, which is NAME or PREFIX/NAME."""
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return [name_faults("qualified", "")[0].replace("name part", "a valid label key") +
                " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    faults = name_faults("subdomain", prefix) if prefix else ["must be non-empty"] * len(slash)
    return [f"prefix part {fault}" for fault in faults] + ["name part must be non-empty"] * (not name) + [
        re.sub("^must", "name part must", fault) for fault in name_faults("qualified", name)]

Requirement = namedtuple("Requirement", "key op values")         # op: one of SELECTOR_TEXT
OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
SELECTOR_TEXT = {"=": "{0}={1}", "in": "{0} in ({1})", "notin": "{0} notin ({1})", "exists": "{0}", "absent": "!{0}"}
SELECTOR_TERM = re.compile(r"\s*(?:!\s*(?P<absent>[^\s!=,()]+)|(?P<key>[^\s!=,()]+)\s*(?:(?P<op>==|=|!=)\s*"
                           r"(?P<value>[^\s!=,()]*)|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)")

def parse_selector(text):
    """A label selector of a query, "a=b,c!=d,e in (x,y),f,!g", as Requirements. Raises ApiError 400."""
    requirements, at, text = [], 0, " ".join(text.split())      # long runs of blanks would cost the pattern much
    while at < len(text):
        found = SELECTOR_TERM.match(text, at)
        if not found:
            words = re.match(r"\s*[^\s!=,()]+ ([^\s!=,()]+)", text[at:])
            odd = words and [words[1]] or re.search(r"[!=,()](?![!=,()])", text[at:]) or [text[at:].strip()]
            raise bad_request(f"unable to parse requirement: found '{odd[0]}', expected: " + (
                "in, notin, =, ==, !=, gt, lt" if words else "identifier"))
        key = found["absent"] or found["key"]
        values = {v.strip() for v in found["values"].split(",")} if found["set"] else {found["value"]}
        op = "absent" if found["absent"] else found["set"] or {"!=": "notin", None: "exists"}.get(found["op"], "in")
        faults = label_key_faults(key) + [fault for v in values if v for fault in name_faults("labelvalue", v)]
        if faults or found.end() == len(text) and text.endswith(","):
            raise bad_request(f'unable to parse requirement: <nil>: Invalid value: "{key}": {"".join(faults[:1])}')
        requirements.append(Requirement(key, op, values))
        at = found.end()
    return requirements

def is_plain(selector):
    return bool(selector) and all(isinstance(value, str) for value in selector.values())
def selector_of(selector):
    """A LabelSelector object, or the plain map of Services and ReplicationControllers, as Requirements."""
    if is_plain(selector):
        selector = {"matchLabels": selector}
    return [Requirement(key, "=", {value}) for key, value in dig(selector, "matchLabels", {}).items()] + [
        Requirement(term["key"], OPERATORS.get(term["operator"], "absent"), set(term.get("values") or ()))
        for term in dig(selector, "matchExpressions", ())]

def selects(requirements, labels):
    """Whether labels ({} or None for none) meet every requirement."""
    labels = labels or {}
    return all({"exists": key in labels, "absent": key not in labels, "notin": labels.get(key) not in values}.get(
        op, labels.get(key) in values) for key, op, values in requirements)

def selector_text(selector):
    """A selector as kubectl prints it, "a=b,c in (d)"; <none> if empty. A plain map is sorted as text, terms by key."""
    terms = [(key, SELECTOR_TEXT[op].format(key, ",".join(sorted(values))))
             for key, op, values in selector_of(selector)]
    return ",".join(text for _, text in sorted(terms, key=lambda term: term[is_plain(selector)])) or "<none>"

# What a field selector may name, besides metadata.name and metadata.namespace.
FIELD_LABELS = {
    "Pod": "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase "
           "status.podIP status.nominatedNodeName",
    "Event": " ".join(["reason reportingComponent source type",
                       *("involvedObject." + field for field in message("ObjectReference").by_name)]),
    "Secret": "type", "Namespace": "status.phase", "Node": "spec.unschedulable", "Service": "spec.clusterIP spec.type",
    "ReplicaSet": "status.replicas",
}

def parse_field_selector(kind, text):
    """"a.b=c,d!=e" as [(path, equal, value)]. Raises ApiError 400 for a field that the kind cannot select by."""
    known = ["metadata.name", *["metadata.namespace"] * kind.namespaced, *FIELD_LABELS.get(kind.id, "").split(),
             *(field["jsonPath"][1:] for field in dig(kind.crd, "selectableFields", ()))]
    terms = []
    for term in filter(None, text.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if not found:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        if found[1] not in known:
            raise bad_request(f"field label not supported: {found[1]}" if kind.crd or kind.id in FIELD_LABELS else
                              f'"{found[1]}" is not a known field selector: only "metadata.name", "metadata.namespace"')
        terms.append((found[1], found[2] != "!=", found[3]))
    return terms

def field_matches(terms, obj):
    def text(path):
        found = dig(obj, path)
        if path == "source":
            found = dig(found, "component") or obj.get("reportingComponent")
        absent = "false" if path in ("spec.hostNetwork", "spec.unschedulable") else ""
        return str(found).lower() if isinstance(found, bool) else str(found or absent)
    return all((text(path) == value) == equal for path, equal, value in terms)

def filled(**fields):
    """The fields that have a value, for a dict that leaves the others out."""
    return {key: value for key, value in fields.items() if value}

# == 4. Errors ===============================================================================
# Every refusal is an ApiError, raised where the fact is known; Handler.answer() alone turns it into bytes.
class ApiError(Exception):
    """A refusal the client should read, as a Kubernetes Status (API conventions, "Response Status Kind")."""
    def __init__(self, code, reason, message, details=None, retry_after=None):
        super().__init__(message)
        self.code = code
        if retry_after is not None:
            details = dict(details or {}, retryAfterSeconds=retry_after)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                       **filled(reason=reason), **({} if details is None else {"details": details}), "code": code}

def bad_request(message):
    return ApiError(400, "BadRequest", message)
def about(kind, name, word="plural"):
    """The details of a Status: which object it is about."""
    return filled(name=name, group=kind.group, kind=getattr(kind, word))
def resource_name(kind):
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural
def not_found(kind, name):
    return ApiError(404, "NotFound", f'{resource_name(kind)} "{name}" not found', about(kind, name))
def already_exists(kind, name):
    return ApiError(409, "AlreadyExists", f'{resource_name(kind)} "{name}" already exists', about(kind, name))
def conflict(kind, name,
             why="the object has been modified; please apply your changes to the latest version and try again"):
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {resource_name(kind)} "{name}": {why}',
                    about(kind, name))
def forbidden(kind, name, why, causes=None):
    return ApiError(403, "Forbidden", f'{resource_name(kind)} "{name}" is forbidden: {why}',
                    {**about(kind, name), **filled(causes=causes)})
def no_such_resource():
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})
def wrong_method():
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})

REFUSALS = ("Required value", "Unsupported value", "Duplicate value", "Forbidden", "Not found", "Too long", "Too many")

class Faults(list):
    """The causes of a 422, gathered field by field: faults.add(path, "Invalid value", found, why)."""
    def add(self, field, what, found=None, why=""):
        bare = what in ("Required value", "Forbidden", "Too long")
        text = what + ("" if bare else f": {dumps(found).decode()}") + (f": {why}" if why else "")
        word = what.replace(" value", "").title().replace(" ", "").replace("Unsupported", "NotSupported")
        self.append({"reason": "FieldValue" + word, "message": text, "field": field})

    def name(self, field, found, rule):
        if not found:
            self.add(field, "Required value")
        for fault in name_faults(rule, found) if found else ():
            self.add(field, "Invalid value", found, fault)

    def check(self, kind, name):
        """Raise ApiError 422 if anything was found. kind: a Kind, or for the options of a request their name."""
        if self:
            shown = f"{kind.name}.{kind.group}" if kind.group else kind.name
            texts = list(dict.fromkeys(f"{fault['field']}: {fault['message']}" for fault in self))
            text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
            raise ApiError(422, "Invalid", f'{shown} "{name}" is invalid: {text}',
                           dict(about(kind, name, "name"), causes=list(self)))

def check_options(kind_name, query, is_apply=False):
    """Refuse query options that the API server would refuse, in its words (kind_name: "CreateOptions", ...)."""
    faults, match = Faults(), query.get("resourceVersionMatch")
    for option, *values in (("dryRun", "All"), ("fieldValidation", "", "Ignore", "Strict", "Warn"),
                            ("propagationPolicy", "Foreground", "Background", "Orphan", "nil")):
        found = query.get(option)
        if found not in (None, *values) or found == "nil":          # Go's word for an absent one
            faults.add(option, "Unsupported value", [found] if option == "dryRun" else found,
                       "supported values: " + ", ".join(f'"{value}"' for value in values))
    if is_apply and not query.get("fieldManager"):
        faults.add("fieldManager", "Required value", why="is required for apply patch")
    if kind_name == "PatchOptions" and "force" in query and not is_apply:
        faults.add("force", "Forbidden", why="may not be specified for non-apply patch")
    if query.get("sendInitialEvents") and match != "NotOlderThan":
        faults.add("resourceVersionMatch", "Forbidden",
                   why="sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    elif match and "sendInitialEvents" not in query and not query.get("resourceVersion"):
        faults.add("resourceVersionMatch", "Forbidden",
                   why="resourceVersionMatch is forbidden unless resourceVersion is provided")
    faults.check(Kind(kind_name, "meta.k8s.io", *[""] * 12), "")

# == 5. Bodies ===============================================================================
# Bytes of a request -> dict. What comes out has been through clean(): whatever the encoding, the same object.
def parse_json(data, duplicates=None):
    """JSON as Go reads it: UTF-8, no NaN or Infinity; paths of doubled keys go to duplicates. Raises ValueError."""
    def no_constant(name):
        raise ValueError(f"invalid literal {name}")

    def read_pairs(pairs):
        seen, out = set(), dict(pairs)
        twice.extend((out, key) for key, _ in pairs if key in seen or seen.add(key))
        return out

    def find(value, path):                                  # only now is it known where the doubled keys stand
        duplicates.extend(f"{path}{name}" for where, name in twice if where is value)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            find(item, f"{path}{key}." if isinstance(value, dict) else f"{path[:-1]}[{key}].")

    text, twice = data if isinstance(data, str) else data.decode(), []
    try:
        out = json.loads(text, parse_constant=no_constant, object_pairs_hook=None if duplicates is None else read_pairs)
        if twice:
            find(out, "")
    except (ValueError, RecursionError) as error:
        is_cut = getattr(error, "pos", 0) >= len(text.rstrip())
        raise ValueError("unexpected end of JSON input" if is_cut else error)
    if "\\ud" in text.lower():                              # half a pair of surrogates is U+FFFD to Go
        halved = json.dumps(out, ensure_ascii=False).encode("utf-16", "surrogatepass")
        out = json.loads(halved.decode("utf-16", "replace"))
    return out

def parse_yaml(data, duplicates=None):
    """A YAML document that is an object; doubled keys go to duplicates, in words. Raises ApiError 400, 413, 415."""
    if len(data) > YAML_BYTES:
        raise ApiError(413, "RequestEntityTooLarge", f"YAML bodies may have {YAML_BYTES} bytes; send JSON")
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
                if key.value in seen and duplicates is not None:
                    duplicates.append(f'line {key.start_mark.line + 1}: key "{key.value}" already set in map')
                seen.add(key.value)
            return super().construct_mapping(node, deep)
        yaml_implicit_resolvers = {first: [each for each in found if each[0] != "tag:yaml.org,2002:timestamp"]
                                   for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    try:
        found = parse_json(json.dumps(yaml.load(data, Loader)))
        if not isinstance(found, dict):
            raise ValueError("the document is no object")
        return found
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}")

def parse_config(data, duplicates):
    """The configuration of an apply: YAML. Most clients send JSON, which is a part of it and needs no PyYAML."""
    try:
        found = parse_json(data, duplicates)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else parse_yaml(data, duplicates)

def varint(data, at):
    """(value, next position) of a base-128 varint. Raises IndexError where the data ends too soon."""
    value = 0
    for i in range(10):
        value |= (data[at + i] & 0x7F) << 7 * i
        if data[at + i] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise ValueError("varint too long")

def wire_fields(data):
    """The (field number, value) pairs of a protobuf message; value is int or bytes. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        wire = key & 7
        if wire > 2:                                            # Kubernetes has no field of another type
            raise ValueError(f"wire type {wire}")
        value, at = (8, at) if wire == 1 else varint(data, at)  # 1: a double
        if wire:
            value, at = data[at:at + value], at + value
        if at > len(data):
            raise ValueError("truncated message")
        yield key >> 3, value

def signed(value):
    return value - (1 << 64) if value >> 63 else value

def wire_time(data, fraction=""):
    """A Timestamp in RFC 3339; fraction is the format of its microseconds."""
    found = dict(wire_fields(data))
    seconds, nanos = signed(found.get(1, 0)), found.get(2, 0)
    if not found or not -62135596800 < seconds <= 253402300799:
        return None                                       # Go's zero time is null in JSON
    form = "{:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}" + fraction + "Z"
    return form.format(*time.gmtime(seconds)[:6], nanos // 1000)

def wire_int_or_string(data):
    found = dict(wire_fields(data))
    return found.get(3, b"").decode() if found.get(1) else signed(found.get(2, 0))

def wire_raw(data):
    """RawExtension and FieldsV1 hold JSON; what a refused field holds is not described, and need not be read."""
    try:
        return parse_json(dict(wire_fields(data)).get(1, b"null"))
    except (ValueError, IndexError, TypeError):
        return {"": "not read"}

def wire_schema(data, type_):
    """JSONSchemaPropsOrArray, OrBool and OrStringArray: a schema, or something else."""
    found, schema = list(wire_fields(data)), lambda data: from_protobuf(message("JSONSchemaProps"), data)
    first = dict(found)
    if type_ == "SchemaOrBool":
        return schema(first[2]) if 2 in first else bool(first.get(1))
    read = schema if type_ == "SchemaOrArray" else bytes.decode
    return schema(first[1]) if 1 in first else [read(value) for number, value in found if number == 2]

WIRE = {  # how a scalar stands on the wire -> its JSON value
    "string": bytes.decode, "int": signed, "bool": bool, "IntOrString": wire_int_or_string, "Raw": wire_raw,
    "Time": wire_time, "MicroTime": lambda data: wire_time(data, ".{:06d}"),
    "bytes": lambda value: base64.b64encode(value).decode(), "Double": lambda data: struct.unpack("<d", data)[0],
    "Quantity": lambda data: dict(wire_fields(data)).get(1, b"0").decode(),
    "ExtraValue": lambda data: [value.decode() for _, value in wire_fields(data)],
    **{name: lambda data, name=name: wire_schema(data, name) for name in SCALARS if name.startswith("SchemaOr")}}

def from_protobuf(fields, data):
    """The dict that the JSON of a protobuf message would be; fields is its Message. Raises ValueError, IndexError."""
    out, known = {}, fields.by_number
    for field, value in ((known[number], value) for number, value in wire_fields(data) if number in known):
        read = WIRE.get(field.type) or (lambda data: from_protobuf(message(field.type), data))
        if not field.name:
            out.update(read(value))
        elif field.kind == "{}":
            entry = dict(wire_fields(value))
            out.setdefault(field.name, {})[entry.get(1, b"").decode()] = read(entry.get(2, b""))
        elif field.kind:
            out.setdefault(field.name, []).append(read(value))
        else:
            out[field.name] = read(value)
    return out

def parse_protobuf(data, type_):
    """The envelope of Kubernetes: four bytes, then runtime.Unknown {1: {1: apiVersion, 2: kind}, 2: raw}."""
    try:
        if data[:4] != b"k8s\0":
            raise ValueError("no k8s prefix")
        envelope = dict(wire_fields(data[4:]))
        named = {number: value.decode() for number, value in wire_fields(envelope.get(1, b""))}
        meta = {key: named[number] for number, key in ((1, "apiVersion"), (2, "kind")) if named.get(number)}
        return dict(meta, **from_protobuf(message(type_), envelope.get(2, b"")))
    except (ValueError, IndexError, AttributeError, TypeError, struct.error, RecursionError) as error:
        raise bad_request(f"the protobuf body is no {type_}: {error}")

def parse_body(data, content_type, kind, duplicates=None):
    """A request's body as a dict, not yet cleaned. Raises ApiError 400, 415."""
    media = content_type.partition(";")[0].strip().lower() or "application/json"
    unknown = f"the object provided is unrecognized (must be of type {kind.name}): couldn't get version/kind;"
    if media == "application/vnd.kubernetes.protobuf" and not kind.crd:
        return parse_protobuf(data, kind.schema)
    if media in ("application/yaml", "text/yaml"):
        body = parse_yaml(data)
    elif media == "application/json":
        try:
            body = parse_json(data, duplicates)
        except ValueError as error:
            shown = data[:200].decode("utf-8", "replace") or "<empty>"
            raise bad_request(f"{unknown} json parse error: {error} ({shown})")
    else:
        raise ApiError(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media "
                       "types include: application/json, application/yaml" +
                       ("" if kind.crd else ", application/vnd.kubernetes.protobuf"))
    if not isinstance(body, dict):
        raise bad_request(f"{unknown} json: cannot unmarshal into Go value: the body is no object")
    return body

# == 6. Patches ==============================================================================
# Pure: (present object, patch) -> new object; the arguments are never changed.
def unprocessable():
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {})
def json_patch(current, operations):
    """Apply a JSON patch (RFC 6902). Raises ApiError 422 where an operation does not apply."""
    document, copied = json.loads(dumps(current)), 0

    def parent(pointer):
        *steps, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
        where = document
        for step in steps:
            where = where[int(step)] if isinstance(where, list) else where[step]
        if isinstance(where, list):
            last = len(where) if last == "-" else int(last)
            if not 0 <= last <= len(where):
                raise IndexError(pointer)
        return where, last

    try:
        for operation in operations:
            op = operation["op"]
            if op in ("move", "copy"):
                where, last = parent(operation["from"])
                value = where.pop(last) if op == "move" else json.loads(dumps(where[last]))
                copied += len(dumps(value)) if op == "copy" else 0
                if copied > BODY_BYTES:
                    raise unprocessable()
            elif op != "remove":
                value = operation["value"]
            where, last = parent(operation["path"])
            adds = op in ("add", "copy", "move") or op == "replace" and isinstance(where, dict)  # as Kubernetes
            found = None if adds else where[last]         # must be there: RFC 6902, 4.3
            if adds and isinstance(where, list):
                where.insert(last, value)
            elif adds or op == "replace":
                where[last] = value
            elif op == "remove":
                where.pop(last)
            elif op != "test" or json.dumps(found, sort_keys=True) != json.dumps(value, sort_keys=True):
                raise unprocessable()
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise unprocessable()
    return document

def merge_patch(current, patch):
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    out = dict(current) if isinstance(current, dict) else {}
    out.update((key, merge_patch(out.get(key), value)) for key, value in patch.items())
    return {key: value for key, value in out.items() if patch.get(key, 0) is not None}

DELETES, ORDERS = "$deleteFromPrimitiveList/", "$setElementOrder/"      # directives that a field's name follows

def strategic_merge(type_, current, patch):
    """Apply a strategic merge patch to a message, by SCHEMA's merge keys (apimachinery: strategicpatch.mergeMap)."""
    if not isinstance(patch, dict):
        raise bad_request(f"cannot restore slice from map: {type_} wants an object")
    directive = patch.get("$patch")
    if directive in ("delete", "replace"):
        return {} if directive == "delete" else without(patch, "$patch")
    if "$patch" in patch:
        raise bad_request(f"unknown patch type: {directive} in map: {dumps(patch).decode()}")
    fields, patch = message(type_).by_name if type_ in MESSAGES else {}, dict(patch)
    out = dict(current) if isinstance(current, dict) else {}
    if "$retainKeys" in patch:
        keep = patch.pop("$retainKeys")
        if not isinstance(keep, list) or any(value is not None and not key.startswith((DELETES, ORDERS)) and
                                             key not in keep for key, value in patch.items()):
            raise bad_request("invalid patch format of retainKeys")
        out = {key: value for key, value in out.items() if key in keep}
    for directive in [key for key in patch if key.startswith(ORDERS)]:
        order, name = patch.pop(directive), directive[len(ORDERS):]
        if not all(isinstance(each, list) for each in (order, out.get(name, []), patch.get(name, []))):
            raise bad_request(f"{directive} stands beside a list and is one")
        if name in out or name in patch:
            out[name] = merge_list(fields.get(name), out.get(name), patch.pop(name, None), order)
    for key, value in patch.items():
        field, old = fields.get(key), out.get(key)
        if key.startswith(DELETES):
            name = key[len(DELETES):]
            if isinstance(value, list) and isinstance(out.get(name), list):
                if isinstance((out[name] + value or [0])[0], dict):
                    raise bad_request("cannot merge lists without merge key")
                out[name] = [item for item in out[name] if item not in value]
        elif value is None or is_directive(value) and not isinstance(old, dict):
            out.pop(key, None)                            # null, or a directive about nothing
        elif isinstance(value, dict) and isinstance(old, dict):
            known = field and not field.kind and field.type in MESSAGES
            out[key] = value if field and field.merges else strategic_merge(field.type if known else "", old, value)
        elif isinstance(value, list) and isinstance(old, list):
            out[key] = merge_list(field, old, value) if field and field.merges else value
        else:
            out[key] = undirected(value)
    return out

def is_directive(value):
    return isinstance(value, dict) and "$patch" in value
def undirected(value):
    """A value that meets nothing to merge with: without nulls, and without what holds a directive."""
    if isinstance(value, dict):
        return {key: undirected(item) for key, item in value.items() if item is not None and not is_directive(item)}
    return [undirected(item) for item in value if not is_directive(item)] if isinstance(value, list) else value

def merge_list(field, current, value, order=None):
    """The new value of a list; order is its $setElementOrder or None, value None if the patch has only that."""
    merges, server = field and field.merges, current or []
    key = field.keys[0] if merges and field.keys else None
    def identity(item):
        if key and key not in check_type(item, (dict,), "map[string]interface {}"):
            raise bad_request(f"map: {dumps(item).decode()} does not contain declared merge key: {key}")
        return dumps(item[key] if key else item)
    if len({type(item) for item in [*server, *(value or ())]}) > 1 or order is not None and not server and not value:
        raise bad_request("list element types are not identical" if value else "no elements in any of the given slices")
    fresh = [item for item in value or () if not is_directive(item)]
    if order is not None:
        left = [identity(item) for item in order]
        for item in fresh if order else ():
            if identity(item) not in left:
                raise bad_request("The order in patch list doesn't match $setElementOrder list")
            left = left[left.index(identity(item)) + 1:]
    if value is None or not merges:
        merged = server if value is None else value
    elif current is None:
        merged = undirected(value)
    elif not key:
        if isinstance((server + value or [0])[0], dict):
            raise bad_request("cannot merge lists without merge key")
        merged = in_order({identity(item): item for item in [*server, *value]}.values(), value, server, identity)
    else:
        directives = [item for item in value if "$patch" in item]
        for item in directives:
            if item["$patch"] not in ("replace", "delete"):
                raise bad_request(f"unknown patch type: {item['$patch']} in map: {dumps(item).decode()}")
        gone = [identity(item) for item in directives if item["$patch"] == "delete"]
        replace = any(item["$patch"] == "replace" for item in directives)
        server = [] if replace else [item for item in server if identity(item) not in gone]
        merged = list(server)
        for item in fresh:
            at = next((i for i, old in enumerate(merged) if identity(old) == identity(item)), None)
            if at is None:
                merged.append(item)
            else:
                merged[at] = strategic_merge(field.type, merged[at], item)
        merged = in_order(merged, fresh, server, identity)
    return merged if order is None else in_order(merged, order, server, identity)

def in_order(items, order, server, identity):
    """The items of a merged list: those in order by it, the others after what they followed (mergeSortedSlice)."""
    rank, place = ({identity(item): -i for i, item in reversed(list(enumerate(each)))} for each in (order, server))
    named = sorted((item for item in items if identity(item) in rank), key=lambda item: -rank[identity(item)])
    others, out = [item for item in items if identity(item) not in rank], []
    while named and others:
        first, second = place.get(identity(others[0])), place.get(identity(named[0]))
        out.append((others if None not in (first, second) and first > second else named).pop(0))
    return out + named + others

# -- server-side apply: which manager owns which field (KEP-555, sigs.k8s.io/structured-merge-diff). A field set is a
# set of paths, a path a tuple of elements as fieldsV1 spells them: f:NAME, k:{KEYS} or v:VALUE of an item.
GRANULAR, MEMBER = object(), object()   # instead of a value: its parts are owned one by one; MEMBER: and it is itself
STRIPPED = {("f:apiVersion",), ("f:kind",), ("f:metadata",), *(("f:metadata", "f:" + name) for name in (
    "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion"))}

def place_of(schema):
    """Where a whole object stands: message name or JSON schema -> Field or JSON schema, as parts_of() wants it."""
    if isinstance(schema, dict):
        known = {**schema.get("properties", {}), "metadata": place_of("ObjectMeta")}
        return {**schema, "properties": known}
    return Field(0, "", "", schema, *[False] * 4, (), False, False, None, False, "", ())

def parts_of(place, value):
    """The parts of a map or list as [(path element, place, part, whether a field has that name)]; None for a value
    that is owned as a whole. place: a Field of SCHEMA, a JSON schema, or None where anything goes."""
    is_field, fields, rest = isinstance(place, Field), {}, None       # rest: the place of what has no name in fields
    if is_field and place.kind == "[]" or isinstance(place, dict) and isinstance(value, list):
        keys, one, is_whole = (place.keys, place._replace(kind=""), not place.applies) if is_field else (
            place.get("x-kubernetes-list-map-keys", ()), place.get("items"),
            place.get("x-kubernetes-list-type") not in ("map", "set"))
        return None if is_whole else [(element_of(keys, one, item), one, item, False) for item in value or ()]
    if isinstance(place, dict):
        fields, rest = place.get("properties", {}), place.get("additionalProperties")
        rest = rest if isinstance(rest, dict) else None
        is_whole = place.get("x-kubernetes-map-type") == "atomic" or not isinstance(value, dict)
    elif is_field and not place.kind and place.type not in SCALARS:
        fields, is_whole = message(place.type).by_name, place.atomic or isinstance(value, list)
    elif is_field and place.kind:
        rest, is_whole = place._replace(kind=""), place.atomic
    else:
        is_whole = is_field and (place.atomic or place.type != "Raw") or not isinstance(value, dict)
    return None if is_whole else [(f"f:{name}", fields.get(name, rest), part, name in fields)
                                  for name, part in (value or {}).items()]

def element_of(keys, place, item):
    """The path element of a list's item: by its keys (absent ones by their default), or by its value."""
    if not keys:
        return "v:" + json.dumps(item, sort_keys=True)
    fields = message(place.type).by_name if isinstance(place, Field) else place.get("properties", {})
    found = {}
    for key in keys:
        known = fields.get(key)
        default = known.get("default") if isinstance(known, dict) else known and known.default
        found[key] = dig(item, [key], default)
        if found[key] is None:
            raise bad_request(f"element has no key field {key}: {dumps(item).decode()[:200]}")
    return "k:" + json.dumps(found, sort_keys=True, separators=(",", ":"))

def walk(place, value, path=(), named=True, out=None):
    """{path: value of a leaf, or GRANULAR or MEMBER} of all that a value holds; () holds the paths of doubled items."""
    out, parts = {} if out is None else out, parts_of(place, value)
    if path in out and path[-1][0] != "f":
        out.setdefault((), []).append(path)
    if path:
        out[path] = value if parts is None else GRANULAR if named and (parts or isinstance(value, list)) else MEMBER
    for element, below, part, named in parts or ():
        walk(below, part, path + (element,), named, out)
    return out

def differences(before, after):
    """What changed from one walk() to another: (paths added or modified, paths removed)."""
    granular = (GRANULAR, MEMBER)
    for walked in (before, after):
        walked.pop((), None)
    return {path for path, value in after.items() if path not in before or (
        before[path] != value and not (value in granular and before[path] in granular))}, before.keys() - after.keys()

def to_fields_v1(paths):
    """A field set as FieldsV1: a tree in which {} marks the end of a path and "." a path that others go through."""
    tree = {}
    for path in sorted(paths):
        node = tree
        for i, element in enumerate(path):
            if path[:i] in paths:
                node["."] = {}
            node = node.setdefault(element, {})
    return tree

def from_fields_v1(tree, path=()):
    out = set()
    for element, below in tree.items():
        if element == "." or not below:
            out.add(path if element == "." else path + (element,))
        else:
            out |= from_fields_v1(below, path + (element,))
    return out

Manager = namedtuple("Manager", "name operation version subresource")

def read_managers(entries):
    """metadata.managedFields as {Manager: (field set, time)}."""
    return {Manager(e.get("manager", ""), e.get("operation", ""), e.get("apiVersion", ""), e.get("subresource", "")): (
        from_fields_v1(e.get("fieldsV1") or {}), e.get("time")) for e in entries or ()}

def write_managers(managers):
    """The other way, in the server's order: appliers first, then by time."""
    order = lambda item: (item[0].operation, item[1][1] or "", item[0].name, item[0].version, item[0].subresource)
    return [filled(manager=m.name, operation=m.operation, apiVersion=m.version, time=time_, fieldsType="FieldsV1",
                   fieldsV1=to_fields_v1(paths), subresource=m.subresource)
            for m, (paths, time_) in sorted(managers.items(), key=order)]

def in_scope(paths, manager, has_status):
    """The paths that a request to this subresource can change."""
    wrong = "f:spec" if manager.subresource == "status" else "f:status" if has_status else None
    return {path for path in paths if path[0] != wrong}

def updated_managers(place, before, after, managers, manager, has_status):
    """The managers after an update by one of them: it owns what it changed, nobody else does."""
    try:
        walks = walk(place, before), walk(place, after)
    except ApiError:                                        # a list item without its key is no reason to refuse
        return {}
    changed, removed = (in_scope(paths, manager, has_status) for paths in differences(*walks))
    out = {each: (paths - changed - removed, time_) for each, (paths, time_) in managers.items()}
    if changed - STRIPPED:
        out[manager] = out.get(manager, (set(),))[0] | changed - STRIPPED, now()
    return {each: entry for each, entry in out.items() if entry[0]}

def apply_merge(place, live, config):
    """What live becomes when config is applied: its leaves win, the rest of live stays."""
    parts = parts_of(place, config)
    if parts is not None and config is None:
        return live
    if parts is None or live is None or parts_of(place, live) is None:
        return config
    if isinstance(config, dict):
        below = {part[0][2:]: part[1] for part in parts}
        return {**live, **{name: apply_merge(below[name], live.get(name), part) for name, part in config.items()}}
    old, new = ({part[0]: part for part in each} for each in (parts_of(place, live), parts))
    left, right, order = list(old), list(new), []
    for shared in [element for element in new if element in old] + [None]:    # the order of mergingWalker
        while left and left[0] != shared:
            order += [left[0]] if left[0] not in new else []
            left.pop(0)
        while right and (not order or order[-1] != shared):
            order.append(right.pop(0))
        left = left[1:]
    return [apply_merge(new[e][1], old[e][2] if e in old else None, new[e][2]) if e in new else old[e][2]
            for e in order]

def remove_paths(place, value, tree):
    """The value without the paths of a FieldsV1 tree; None if nothing is left."""
    kept = []
    for element, below, part, _ in parts_of(place, value) or ():
        node = tree.get(element)
        if node is not None and node and "." not in node:
            part = remove_paths(below, part, node)
        if node is None or node and "." not in node and part is not None:
            kept.append((element[2:], part))
    return (dict(kept) if isinstance(value, dict) else [part for _, part in kept]) if kept else None

def apply_patch(place, live, config, managers, manager, force, has_status):
    """Server-side apply: (new object, managers). What the manager applied before and leaves out now goes, unless
    somebody else owns it. Raises ApiError 409 naming all conflicts."""
    merged, before = apply_merge(place, live, config), walk(place, live)
    last, found, given = managers.get(manager, (set(),))[0], walk(place, merged), walk(place, config)
    for path in given.pop((), ()):
        raise bad_request(f"failed to create typed patch object: {path_text(path[:-1])}: duplicate entries for key "
                          f"{path_text(path[-1:])}")
    found.pop((), None)
    wanted = {path for path, value in given.items() if value is not GRANULAR}
    managers = {**managers, manager: (in_scope(wanted, manager, has_status) - STRIPPED, now())}
    def with_parents(paths):
        return paths | {path[:i] for path in paths for i in range(1, len(path)) if found.get(path[:i]) is GRANULAR}
    owned = with_parents(set().union(*(paths for paths, _ in managers.values()), wanted))
    gone = {path for path in with_parents(last) if path in found and path not in owned}
    new = remove_paths(place, merged, to_fields_v1(gone)) if gone else merged
    changed, removed = (in_scope(paths, manager, has_status) for paths in differences(before, walk(place, new)))
    order = lambda path: [part for i, element in enumerate(path, 1) for part in (i < len(path), element)]
    mine = last_applied(place, live) if manager.name == "kubectl" else set()
    conflicts = {each: sorted(paths & changed - mine, key=order) for each, (paths, _) in managers.items()
                 if each != manager and paths & changed - mine}
    if conflicts and not force:
        raise apply_conflict(conflicts)
    managers = {each: (paths if each == manager else paths - changed - removed, time_)
                for each, (paths, time_) in managers.items()}
    return new, {each: entry for each, entry in managers.items() if entry[0]}

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

def last_applied(place, live):
    """The paths that client-side apply has set and that are as it left them."""
    try:
        config, found = json.loads(annotation(live, LAST_APPLIED) or "{}"), walk(place, live)
        return {path for path, value in walk(place, config).items() if found.get(path) == value
                } if config.get("apiVersion") == live["apiVersion"] else set()
    except (ValueError, AttributeError, TypeError, ApiError):       # anybody may write that annotation
        return set()

def path_text(path):
    """A path as people read it: .spec.containers[name="c"].image"""
    keys = lambda text: ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(text).items())
    return "".join({"f": "." + e[2:], "k": "", "v": f"[={e[2:]}]"}[e[0]] or f"[{keys(e[2:])}]" for e in path)

def apply_conflict(conflicts):
    """The 409 for {Manager: paths} that the applied fields belong to."""
    words = lambda m: (json.dumps(m.name) + f" with subresource {json.dumps(m.subresource)}" * bool(m.subresource) +
                       f" using {m.version}" * (m.operation == "Update"))
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {words(manager)}", "field": path_text(path)}
              for manager in sorted(conflicts) for path in conflicts[manager]]
    texts = ["\n".join([f"conflicts with {words(manager)}:", *(f"- {path_text(path)}" for path in conflicts[manager])])
             for manager in sorted(conflicts)]
    text = (f"1 conflict: {causes[0]['message']}: {causes[0]['field']}" if len(causes) == 1 else
            f"{len(causes)} conflicts: " + "\n".join(texts))
    return ApiError(409, "Conflict", "Apply failed with " + text, {"causes": causes})

# == 7. Store and watch ======================================================================
# Objects rest in memory as compact JSON; what must survive a power cut is in SQLite too, synced before the answer.
# The Store knows nothing of Kubernetes but metadata, and nothing of sockets: it tells its listeners what changed.
FOREIGN = "k2d.io/container"    # annotation: this pod, or the Service of its published ports, is a container that
#                                 somebody else started; holds its name. As a label: the first digits of its id
MIRROR = "kubernetes.io/config.mirror"      # annotation of pods that the API did not make: `kubectl drain` skips them
COMPUTED = ("endpoints.kubernetes.io/managed-by", "endpointslice.kubernetes.io/managed-by")    # labels: we derived it

Row = namedtuple("Row", "raw version labels kept")      # kept: hash of what is on disk of it, None if nothing is
Change = namedtuple("Change", "version kind type key raw labels old")   # type: a watch's; old: the Row before or None

def durable(kind, obj):
    """The part of an object that goes to disk, None if no part does. What k2d computes again at each start does not."""
    if kind.kept == "memory" or any(label in (obj["metadata"].get("labels") or ()) for label in COMPUTED):
        return None
    status = obj.get("status", {})
    if kind.kept == "disk" or kind.kept == "pod" and status.get("phase") in ("Succeeded", "Failed"):
        return obj
    keep = {key: status[key] for key in ("podIP", "podIPs", "startTime") if key in status} if kind.kept == "pod" else {}
    return dict(obj, status=keep)

class Store:
    """Objects by kind, (namespace, name); transactions; versions; the ring of recent changes. Any thread may call any
    method. A transaction belongs to one thread at a time; readers never wait for it, nor for the disk."""
    def __init__(self, path):
        self.rows = {kind.id: {} for kind in KINDS}         # those of custom resources come with their first object
        self.writing = threading.RLock()    # held for a whole transaction, disk included
        self.view = threading.Lock()        # held while rows, version and ring change together; never across I/O
        self.writer, self.pending, self.listeners = None, {}, []
        self.ring, self.ring_bytes, self.watches = deque(), 0, set()
        self.db = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
        os.chmod(path, 0o600)
        try:
            self.db.executescript(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
                "PRAGMA cache_size=-256; CREATE TABLE IF NOT EXISTS objects (kind TEXT, namespace TEXT, name TEXT, "
                "object TEXT, PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;")
            start = int(self.fact("starts") or 0) + 1
            self.set_fact("starts", str(start))
        except sqlite3.OperationalError as error:
            raise SystemExit(f"k2d: {path}: {error}; does another k2d use this data path?")
        self.version = self.floor = start << 32           # monotonic without a clock; what is older than floor is gone
        self.buried = {name[5:] for name, in self.db.execute("SELECT name FROM facts WHERE name LIKE 'gone/%'")}
        for kind, namespace, name, text in self.db.execute("SELECT kind, namespace, name, object FROM objects"):
            obj = json.loads(text)
            meta, kept = obj["metadata"], hash(self.unversioned(dumps(obj)))
            if kind in KIND and KIND[kind].kept != "disk":    # its answer holds recomputed status: a fresh version
                self.version += 1
                meta["resourceVersion"] = str(self.version)
            row = Row(dumps(obj), int(meta["resourceVersion"]), meta.get("labels"), kept)
            self.rows.setdefault(kind, {})[namespace, name] = row

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

    def keys(self, kind, namespace=None):
        """Sorted keys of a kind, or of its objects in one namespace."""
        keys = set(self.rows.get(kind, ()))
        if self.writer == threading.get_ident():
            changed = {key: row for (other, key), row in self.pending.items() if other == kind}
            keys = keys - changed.keys() | {key for key, row in changed.items() if row}
        return sorted(key for key in keys if namespace is None or key[0] == namespace)

    def list(self, kind, namespace=None, selector=None, holding=b""):
        """Objects as dicts; selector: Requirements on labels; holding: bytes that must occur, which spares a parse."""
        for key in self.keys(kind, namespace):
            row = self.row(kind, key)
            if row and holding in row.raw and (selector is None or selects(selector, row.labels)):
                yield json.loads(row.raw)

    def snapshot(self, kind, namespace, watch=None, at=0):
        """(version, [(key, Row)]) at one moment: the present, or the version at, as far as the ring goes back. A watch
        given is registered at that same moment. Raises ApiError 410."""
        with self.view:
            rows, version = self.rows.get(kind, {}), at or self.version
            if at and at < self.floor:
                raise ApiError(410, "Expired", "The resourceVersion for the provided list is too old.")
            if version < self.version:
                rows = {**rows, **{change.key: change.old for change in reversed(self.ring)
                                   if change.version > version and change.kind.id == kind}}
            rows = [(key, row) for key, row in rows.items() if row and (namespace is None or key[0] == namespace)]
            if watch:
                self.watches.add(watch)
        return version, sorted(rows)

    def since(self, version, watch):
        """Register a watch; returns (present version, the changes after version). Raises ApiError 410."""
        with self.view:
            if version < self.floor:
                raise ApiError(410, "Expired", f"too old resource version: {version} ({self.version})")
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

    def unwatch(self, watch):
        with self.view:
            self.watches.discard(watch)

    @contextmanager
    def transaction(self):
        """All puts and removes inside become visible, and durable, together or not at all. Nests within one thread."""
        with self.writing:
            if self.writer is not None:
                yield self
                return
            self.writer, self.pending, self.changes, self.statements = threading.get_ident(), {}, [], []
            self.burials, self.next_version = set(), self.version
            try:
                yield self
                if self.changes:
                    self.commit()
            finally:
                self.writer, self.pending = None, {}

    def put(self, kind, obj, keep=False):
        """Create or replace an object inside a transaction; returns it with its version, the same if nothing changed.
        keep: store it even though it is derived (what clients write to the pod of a foreign container)."""
        key = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        old = self.row(kind.id, key)
        obj["metadata"]["resourceVersion"] = str(old.version if old else 0)
        meta = obj["metadata"] = {name: obj["metadata"][name] for name in message("ObjectMeta").by_name
                                  if obj["metadata"].get(name) not in (None, {}, [])}
        if old and dumps(obj) == old.raw and not (keep and old.kept is None):
            return obj
        self.next_version += 1
        meta["resourceVersion"] = str(self.next_version)
        raw, kept = dumps(obj), None
        derived = FOREIGN in (meta.get("annotations") or ())
        stored = durable(kind, obj) if not derived or keep or old and old.kept is not None else None
        if stored is not None:
            text = raw if stored is obj else dumps(stored)
            kept = hash(self.unversioned(text))
            if not old or old.kept != kept:
                self.statements.append(("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)",
                                        (kind.id, *key, text.decode())))
        row = self.pending[kind.id, key] = Row(raw, self.next_version, meta.get("labels"), kept)
        self.changes.append(Change(row.version, kind, "MODIFIED" if old else "ADDED", key, raw, row.labels, old))
        return obj

    def remove(self, kind, obj):
        """Remove an object inside a transaction; returns it as its watchers see it last."""
        key = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        old = self.row(kind.id, key)
        if old:
            self.next_version += 1
            obj["metadata"]["resourceVersion"] = str(self.next_version)
            if old.kept is not None:
                self.statements.append(("DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?",
                                        (kind.id, *key)))
            self.pending[kind.id, key] = None
            self.changes.append(Change(self.next_version, kind, "DELETED", key, dumps(obj), old.labels, old))
        return obj

    def bury(self, uid):
        """Remember, in this transaction, that a pod removed by force may have left containers behind."""
        self.statements.append(("INSERT OR REPLACE INTO facts VALUES (?, '')", ("gone/" + uid,)))
        self.burials.add(uid)

    def unbury(self, uid):
        with self.writing:
            self.db.execute("DELETE FROM facts WHERE name = ?", ("gone/" + uid,))
            self.buried.discard(uid)

    def commit(self):
        if self.statements:
            try:
                self.db.execute("BEGIN")
                for statement, values in self.statements:
                    self.db.execute(statement, values)
                self.db.execute("COMMIT")
            except sqlite3.Error as error:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise ApiError(500, "InternalError", f"the data path cannot be written: {error}")
        with self.view:
            for (kind, key), row in self.pending.items():
                if row:
                    self.rows.setdefault(kind, {})[key] = row
                else:
                    self.rows[kind].pop(key, None)
            self.version = self.next_version
            self.buried |= self.burials
            self.ring.extend(self.changes)
            self.ring_bytes += sum(len(change.raw) for change in self.changes)
            while len(self.ring) > RING_EVENTS or self.ring_bytes > RING_BYTES:
                gone = self.ring.popleft()
                self.floor, self.ring_bytes = gone.version, self.ring_bytes - len(gone.raw)
            kinds = {change.kind.id for change in self.changes}
            watches = [watch for watch in self.watches if watch.kind.id in kinds]
        for listener in self.listeners:
            listener(self.changes, watches)

    def close(self):
        with self.writing:
            self.db.close()

class Watch:
    """One watch: what it selects and how it wants its events. Encodes; sends nothing."""
    def __init__(self, kind, namespace, name, selector, fields, form, bookmarks):
        self.kind, self.namespace, self.name, self.selector, self.fields = kind, namespace, name, selector, fields
        self.form, self.bookmarks, self.version = form, bookmarks, 0
        self.out, self.out_bytes, self.sent = [], 0, 0      # the hub's: chunks not yet sent, the version last told
        self.connection, self.ended = None, False

    def matches(self, key, raw, labels):
        return ((self.namespace is None or key[0] == self.namespace) and (self.name is None or key[1] == self.name) and
                (not self.selector or selects(self.selector, labels)) and
                (not self.fields or field_matches(self.fields, json.loads(raw))))

    def event(self, change, memo):
        """The chunk that tells of a change, or None. memo, shared by a change's watches, saves encoding it twice."""
        old = bool(change.old) and self.matches(change.key, change.old.raw, change.old.labels)
        new = change.type != "DELETED" and self.matches(change.key, change.raw, change.labels)
        if not old and not new:
            return None
        type_ = "DELETED" if not new else "MODIFIED" if old else "ADDED"
        key = type_, self.form, self.kind.version
        if key not in memo:
            raw = change.raw
            if type_ == "DELETED" and change.type != "DELETED":     # it left the selection: as it was, at this version
                obj = json.loads(change.old.raw)
                obj["metadata"]["resourceVersion"] = str(change.version)
                raw = dumps(obj)
            memo[key] = self.encode(type_, shown(self.kind, raw, self.form))
        self.form = self.form._replace(columns=False)               # the first event of a watch alone tells them
        return memo[key]

    def encode(self, type_, raw):
        return chunk(b'{"type":"%s","object":%s}\n' % (type_.encode(), raw))

    def bookmark(self, version, initial=False):
        notes = {"k8s.io/initial-events-end": "true"} if initial else {}
        return self.encode("BOOKMARK", dumps({
            "kind": self.kind.name, "apiVersion": group_version(self.kind),
            "metadata": {"resourceVersion": str(version), **filled(annotations=notes)}}))

def chunk(data):
    """One chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)

# == 8. Engine client ========================================================================
# HTTP to Docker or Podman over its socket, a connection a call. Engine API 1.40 to 1.52. Not by http.client, which
# would bring the email package along: with http.server, 3.4 MB resident of the 25 that we may use.
class EngineError(Exception):
    """The engine answered with an error; str() is its message."""
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status

class EngineGone(EngineError):
    """The engine could not be reached, or hung up."""

@contextmanager
def reaching_engine():
    """Around what talks to the engine: a socket that fails, or an answer that is none, is EngineGone."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise EngineGone(0, f"the container engine does not answer: {error}")

class Engine:
    """Calls to the engine at DOCKER_HOST; every method may be called from any thread and blocks its caller."""
    def __init__(self, host):
        scheme, _, rest = host.partition("://")
        if scheme not in ("unix", "tcp") or not rest:
            raise SystemExit(f"k2d: DOCKER_HOST {host}: want unix:///path or tcp://host:port")
        self.address = rest if scheme == "unix" else (rest.rpartition(":")[0], int(rest.rpartition(":")[2].strip("/")))
        self.prefix = ""                                    # "/v1.41" once the engine has said what it speaks

    def negotiate(self):
        """Learn the API version; the engine's own if ours is newer. Engines before 19.03 (1.40) are refused."""
        self.prefix = ""                                    # an engine that comes back may be an older one
        sock, head, _ = self.stream("GET", "/_ping", timeout=10)
        sock.close()
        found = re.search(rb"(?im)^api-version:\s*(\d+)\.(\d+)", head)
        version = min((int(found[1]), int(found[2])) if found else (1, 40), (1, 52))
        if version < (1, 40):
            raise EngineError(400, "the engine speaks {}.{}, k2d needs 1.40: Docker 19.03, Podman 4.3".format(*version))
        self.prefix = "/v{}.{}".format(*version)

    @reaching_engine()
    def stream(self, method, path, body=None, timeout=None, headers=()):
        """(socket, head, first bytes of the body) of an answer that may go on: by HTTP/1.0, so that it is not chunked
        and ends with the connection. A body of bytes is a tar archive. Raises EngineError, EngineGone."""
        data = b"" if body is None else body if isinstance(body, bytes) else dumps(body)
        lines = [f"{method} {self.prefix}{path} HTTP/1.0", "Host: localhost", f"Content-Length: {len(data)}", *headers,
                 "Content-Type: application/" + ("x-tar" if data is body else "json")]
        sock, got = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET), b""
        try:
            sock.settimeout(timeout)
            sock.connect(self.address)
            sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            while b"\r\n\r\n" not in got:
                more = sock.recv(65536)
                if not more:
                    raise OSError("hung up before it answered")
                got += more
            head, _, rest = got.partition(b"\r\n\r\n")
            status = int(head.split(None, 2)[1])
            if status >= 400:
                text = (rest + drain(sock)).decode("utf-8", "replace").strip()
                raise EngineError(status, json.loads(text)["message"] if text[:1] == "{" else text)
            return sock, head, rest
        except BaseException:
            sock.close()
            raise

    @reaching_engine()
    def call(self, method, path, body=None, expect=()):
        """The decoded body of a call that answers at once; None if it has none, or a status that the caller expects.
        Raises EngineError, EngineGone."""
        try:
            sock, _, rest = self.stream(method, path, body, timeout=60)
        except EngineError as error:
            if error.status in expect:
                return None
            raise
        with sock:
            data = rest + drain(sock)
        return json.loads(data) if data[:1] in (b"{", b"[") else None

    def pull(self, image, login=None, tell=None):
        """Pull an image, blocking until it is there. login: {"username": ..., "password": ...} for its registry; tell:
        see make_image(). Raises EngineError with the registry's words."""
        headers = [f"X-Registry-Auth: {base64.urlsafe_b64encode(dumps(login)).decode()}"] if login else ()
        self.make_image(dict(zip(("fromImage", "tag"), split_image(image))), None, headers, tell)

    def ensure_sandbox(self):
        """Make the image of sandboxes, unless the engine has it. Raises EngineError, EngineGone."""
        if self.call("GET", f"/images/{SANDBOX_IMAGE}/json", expect=(404,)):
            return
        import io
        import tarfile
        arch = self.call("GET", "/version").get("Arch")
        if arch not in SANDBOX_CODE:
            raise EngineError(501, f"pods of several containers: no sandbox for the architecture {arch}")
        file, program, entry = io.BytesIO(), sandbox_program(*SANDBOX_CODE[arch]), tarfile.TarInfo("sandbox")
        entry.mode, entry.size = 0o755, len(program)
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(entry, io.BytesIO(program))
        repository, _, tag = SANDBOX_IMAGE.rpartition(":")
        self.make_image({"fromSrc": "-", "repo": repository, "tag": tag, "changes": 'ENTRYPOINT ["/sandbox"]'},
                        file.getvalue())

    @reaching_engine()
    def make_image(self, query, body=None, headers=(), tell=None):
        """Create an image by pull or import. tell(bytes there, bytes known of) is called now and then, if given."""
        path, layers = "/images/create?" + urllib.parse.urlencode(query), {}
        sock, _, text = self.stream("POST", path, body, 600, headers)
        with sock:
            while True:                                     # one JSON object a line; an error comes with status 200
                *lines, text = text.split(b"\n")
                for line in map(json.loads, filter(bytes.strip, lines)):
                    if line.get("error"):
                        raise EngineError(500, line["error"])
                    if line.get("status") == "Downloading" and dig(line, "progressDetail.total"):
                        layers[line["id"]] = line["progressDetail"]
                        if tell:
                            tell(*(sum(layer[key] for layer in layers.values()) for key in ("current", "total")))
                got = sock.recv(65536)
                if not got:
                    return
                text += got

def drain(sock):
    return b"".join(iter(lambda: sock.recv(65536), b""))

def split_image(image):
    """"host:5000/a/b:tag" -> ("host:5000/a/b", "tag"); a digest is a tag to the engine, and wins; no tag is latest."""
    image, at, digest = image.partition("@")
    name, colon, tag = image.rpartition(":")
    name, tag = (name, tag) if colon and "/" not in tag else (image, "latest")
    return name, digest if at else tag

def logins(image, secrets):
    """The logins for an image's registry, the best first, as the kubelet's keyring finds them. secrets: the data of
    Secrets of both types, each {key: bytes}."""
    from fnmatch import fnmatchcase
    name, known = split_image(image)[0], []                 # known: (HOST/PATH, login)
    host, slash, path = name.partition("/")
    if not slash or not re.search("[.:]|^localhost$", host):
        host, path = "docker.io", name if slash else f"library/{name}"
    for data in secrets:
        try:
            entries = json.loads(data.get(".dockercfg") or data.get(".dockerconfigjson", "{}"))
            for place, entry in (entries if ".dockercfg" in data else entries["auths"]).items():
                user, password = entry.get("username", ""), entry.get("password", "")
                if entry.get("auth"):
                    user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
                place = re.sub("^(?:https?://)?([^/]*)(?:/v[12](?=/))?", r"\1", place).rstrip("/")
                known.append((place, {"username": user, "password": password, "serveraddress": place}))
        except (ValueError, KeyError, AttributeError):      # what cannot be read opens nothing
            continue

    def fits(place):
        its_host, _, its_path = place.partition("/")
        parts, its_parts = re.split("[.:]", host), re.split("[.:]", its_host)
        return len(parts) == len(its_parts) and all(map(fnmatchcase, parts, its_parts)) and path.startswith(its_path)
    known.sort(key=lambda each: each[0], reverse=True)
    return [login for place, login in known if fits(place)] or [
        login for place, login in known if (host, place) == ("docker.io", "index.docker.io")]

SANDBOX = "POD"             # the name, among a pod's containers, of the one that only holds its namespaces
SANDBOX_IMAGE = "k2d.io/sandbox:1"
SANDBOX_CODE = {  # the engine's architecture: (bits, machine and flags of ELF, code)
    "amd64": (64, 62, 0, "6a0d586a115fbe7800400031d26a08415a0f056a22580f05ebf9"),
    "arm64": (64, 183, 0, "c81080d2200280d2010f80d20108a0f2020080d2030180d2010000d4280980d2000080d2010080d2030080d2"
                          "010000d4fbffff17"),
    "arm": (32, 40, 5 << 24, "ae70a0e31100a0e30115a0e3541081e20020a0e30830a0e3000000ef1d70a0e3000000effcffffea"),
}

def sandbox_program(bits, machine, flags, code):
    """An ELF program that holds a pod's namespaces: rt_sigaction(SIGCHLD, SIG_IGN), so that it never keeps a zombie
    where it is everybody's process 1, then pause() for ever (ppoll() where there is no pause)."""
    word, head, base = ("Q", 120, 0x400000) if bits == 64 else ("I", 84, 0x400000)
    size = head + 32 + len(code) // 2                       # the headers; a struct sigaction of SIG_IGN; the code
    segment = [0, base, base, size, size]                   # read and execute, the whole file
    segment = [1, 5, *segment] if bits == 64 else [1, *segment, 5]
    return struct.pack(f"<4s4B8x2HI3{word}I6H", b"\x7fELF", bits // 32, 1, 1, 0, 2, machine, 1, base + head + 32,
                       64 if bits == 64 else 52, 0, flags, *((64, 56) if bits == 64 else (52, 32)), 1, 0, 0, 0) + \
        struct.pack("<2I6Q" if bits == 64 else "<8I", *segment, 4096) + (1).to_bytes(32, "little") + bytes.fromhex(code)

def log_frames(buffer, tty):
    """(frames, rest) of the bytes of a log or attach stream; a frame is (1 stdout | 2 stderr, bytes). A tty has no
    frames (Engine API, "Stream format": one byte stream, three zeros, four bytes of length, big endian)."""
    if tty:
        return ([(1, buffer)] if buffer else []), b""
    frames, at = [], 0
    while len(buffer) - at >= 8:
        stream, size = buffer[at], struct.unpack_from(">I", buffer, at + 4)[0]
        if len(buffer) - at - 8 < size:
            break
        frames.append((stream, buffer[at + 8:at + 8 + size]))
        at += 8 + size
    return frames, buffer[at:]

STAMP = re.compile(rb"\A\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d) ")

def log_text(sock, buffer, tty, stamped=False, waits=lambda: True):
    """The text of a log, piece by piece as the socket has it; waits() blocks until it has more, or ends it by False.
    stamped: every frame has its time; of a line too long for one frame the first alone keeps it."""
    is_line = True
    while True:
        frames, buffer = log_frames(buffer, tty)
        texts = [data for _, data in frames]
        for i, text in enumerate(texts if stamped and not tty else ()):
            texts[i] = text if is_line else STAMP.sub(b"", text)
            is_line = text.endswith(b"\n")
        yield b"".join(texts)
        got = waits() and sock.recv(65536)
        if not got:
            return
        buffer += got

# == 9. Pod -> container =====================================================================
# Kubernetes dicts in, engine dicts out; nothing sent, and nothing read but a seccomp profile and whether the host has
# AppArmor. Section 10 goes the other way. The spelling tells the side: camelCase keys are Kubernetes, PascalCase are
# the engine's.
POD_NAME, POD_NAMESPACE, POD_UID, CONTAINER_NAME = (    # the labels of our containers, those of the kubelet
    "io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid", "io.kubernetes.container.name")
RESTART = {"Always": "unless-stopped",      # "always" would undo a `docker stop` when the engine restarts
           "OnFailure": "on-failure", "Never": "no"}
FROM_API = {"configMap", "secret", "downwardAPI", "projected"}         # volumes that show what the API holds
PROPAGATION = {"HostToContainer": "rslave", "Bidirectional": "rshared"}
DOWNWARD = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
            "status.podIP", "status.podIPs")
SOURCES = {"configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap", "secretRef": "Secret", "secretKeyRef": "Secret"}

class ConfigError(Exception):
    """A container that cannot be created as its pod stands: (reason of its waiting state, message)."""
    def __init__(self, message, reason="CreateContainerConfigError"):
        super().__init__(message)
        self.reason = reason

def container_name(pod, name):
    return f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_{name}"
def expand(text, env):
    """Replace $(NAME) by its value, leave unknown ones, turn $$ into $ (Kubernetes: third_party/.../expansion)."""
    return re.sub(r"\$(\$|\(([^)]*)\))", lambda at: "$" if at[1] == "$" else str(env.get(at[2], at[0])), text)

def pod_field(pod, path, host_ip):
    """What a fieldRef names, as text. Raises ConfigError if the downward API does not know it."""
    found = re.fullmatch(r"metadata\.(labels|annotations)(\['(.+)'\])?", path)
    if found:
        entries = pod["metadata"].get(found[1], {})
        every = "\n".join(f"{key}={dumps(value).decode()}" for key, value in sorted(entries.items()))
        return entries.get(found[3], "") if found[2] else every
    if path in ("status.hostIP", "status.hostIPs"):
        return host_ip
    if path not in DOWNWARD:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return dig(pod, path.replace("podIPs", "podIP"), "")      # there is but one

def resource_field(pod, container, selector, allocatable):
    """What a resourceFieldRef names, as text: in units of its divisor, rounded up; a limit that is not set is what
    the node has. container: the one it stands in, or None in a volume. Raises ConfigError."""
    name, (kind, _, resource) = selector.get("containerName"), selector.get("resource", "").partition(".")
    if name:
        container = next((c for _, c in containers_of(pod["spec"]) if c["name"] == name), None)
    if not container:
        raise ConfigError(f"container {name} not found")
    usual = resource in ("cpu", "memory", "ephemeral-storage")
    if kind not in ("limits", "requests") or not (usual or resource.startswith("hugepages-")):
        raise ConfigError(f"unsupported container resource : {selector.get('resource')}")
    found = dig(container, ["resources", kind, resource], "0")
    if kind == "limits" and usual and not quantity_nanos(found):
        found = allocatable.get(resource, "0")
    unit = 10 ** 6 if resource == "cpu" else 10 ** 9            # thousandths of a cpu, bytes of the others
    divisor = quantity_value(selector.get("divisor") or "0", unit) or quantity_value("1", unit)
    return str(-(-quantity_value(found, unit) // divisor))

def service_environment(pod, services):
    """The variables that tell a pod of the Services of its namespace (and always of kubernetes), as the kubelet's
    envvars.FromServices. services: the Service objects of all namespaces."""
    own, links, env = pod["metadata"]["namespace"], pod["spec"].get("enableServiceLinks", True), {}
    own_last = sorted(filter(cluster_ip, services), key=lambda service: key_of(service)[0] == own)
    chosen = {key[1]: service for key, service in zip(map(key_of, own_last), own_last)
              if key == ("default", "kubernetes") or key[0] == own and links}
    spelled = lambda name: name.upper().replace("-", "_")
    for name, service in sorted(chosen.items()):
        ip, ports, prefix = cluster_ip(service), service["spec"]["ports"], spelled(name)
        env.update({f"{prefix}_SERVICE_HOST": ip, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])})
        for port in reversed(ports):                            # the plain NAME_PORT is that of the first
            number, protocol = str(port["port"]), port.get("protocol", "TCP")
            url, link = f"{protocol.lower()}://{ip}:{number}", f"{prefix}_PORT_{number}_{protocol}"
            env.update({f"{prefix}_PORT": url, link: url, link + "_PROTO": protocol.lower(), link + "_PORT": number,
                        link + "_ADDR": ip})
            env.update({f"{prefix}_SERVICE_PORT_{spelled(port['name'])}": number} if port.get("name") else {})
    return env

def environment(pod, container, lookup, host_ip, cluster, allocatable):
    """The container's environment as {"NAME": "value"}, references resolved, in the order Kubernetes sets them.

    lookup(kind name, name) -> the data of a ConfigMap or Secret of the pod's namespace as {key: bytes}, or None.
    cluster: the service variables; allocatable: {resource: quantity} of the node. Raises ConfigError where something
    that is not optional is missing."""
    env = dict(cluster)

    def find(field, reference):
        """All the data that a reference names, or the value of its key."""
        kind, name, key = SOURCES[field], reference.get("name", ""), reference.get("key")
        data, required = lookup(kind, name), not reference.get("optional")
        if data is None and required:
            raise ConfigError(f'{kind.lower()} "{name}" not found')
        text = {name: value.decode("utf-8", "replace") for name, value in (data or {}).items()}
        if key and key not in text and required:
            raise ConfigError(f"couldn't find key {key} in {kind} {pod['metadata']['namespace']}/{name}")
        return text.get(key) if key else text

    for source in container.get("envFrom") or ():
        for field in filter(SOURCES.get, source):
            env.update((source.get("prefix", "") + key, value) for key, value in find(field, source[field]).items())
    for entry in container.get("env") or ():
        value = None if entry.get("valueFrom") else expand(entry.get("value", ""), env)
        for field, source in (entry.get("valueFrom") or {}).items():        # one, by validation
            value = (pod_field(pod, source["fieldPath"], host_ip) if field == "fieldRef" else
                     resource_field(pod, container, source, allocatable) if field == "resourceFieldRef" else
                     find(field, source))
        if value is not None:
            env[entry["name"]] = value
    return env

def pod_hostname(pod):
    """(host name, its domain) of a pod; the domain is "" for a pod without a subdomain."""
    spec, (namespace, name) = pod["spec"], key_of(pod)
    subdomain = spec.get("subdomain")
    return ((spec.get("hostname") or name)[:63].rstrip("-."),
            f"{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}" if subdomain else "")

def kernel_hostname(pod):
    """What `hostname` says in a pod. Raises ConfigError for a setHostnameAsFQDN that Linux has no room for."""
    hostname, domain = pod_hostname(pod)
    fqdn = f"{hostname}.{domain}"
    if not domain or not pod["spec"].get("setHostnameAsFQDN"):
        return hostname
    if len(fqdn) > 64:
        raise ConfigError(f"failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long "
                          f"(64 characters is the max, {len(fqdn)} characters requested)", "FailedCreatePodSandBox")
    return fqdn

def uses_cluster_dns(spec):
    policy = spec.get("dnsPolicy")
    return policy == "ClusterFirstWithHostNet" or policy == "ClusterFirst" and not spec.get("hostNetwork")

def dns_config(pod, settings, host=""):
    """(nameservers, search domains, options) of a pod by dnsPolicy and dnsConfig, within the kubelet's limits.
    host: the text of the host's resolv.conf, for dnsPolicy Default."""
    spec, config, servers, searches, options = pod["spec"], pod["spec"].get("dnsConfig") or {}, [], [], []
    if uses_cluster_dns(spec):
        # The first refuses what is not ours; the second is asked then. Short forms are answered as they stand: the
        # ndots:5 of Kubernetes costs eight questions an outside name.
        servers, options = [settings.dns_ip, settings.upstream_ip], ["ndots:1"]
        searches = [f"{pod['metadata']['namespace']}.svc.{CLUSTER_DOMAIN}", "svc." + CLUSTER_DOMAIN, CLUSTER_DOMAIN]
    elif spec.get("dnsPolicy") != "None":
        said = {"nameserver": [], "search": [], "options": []}
        for word, *rest in filter(None, map(str.split, host.splitlines())):
            said[word] = said.get(word, []) + rest if word != "search" else rest
        servers, searches, options = said["nameserver"], said["search"], said["options"]
        if not spec.get("hostNetwork"):                         # the host's own loopback is out of a pod's reach
            servers = [s for s in servers if not s.startswith("127.")] or [settings.upstream_ip]
    named = {option.partition(":")[0]: option for option in options}
    named.update((o["name"], f"{o['name']}:{o['value']}" if o.get("value") else o["name"])
                 for o in config.get("options") or ())
    searches = [s for s in dict.fromkeys([*searches, *(config.get("searches") or ())]) if len(s) <= 253][:32]
    while len(" ".join(searches)) > 2048:
        searches.pop()
    return list(dict.fromkeys([*servers, *(config.get("nameservers") or ())]))[:3], searches, list(named.values())

SAFE_SYSCTLS = {"kernel.shm_rmid_forced", *("net.ipv4." + name for name in (     # the kubelet's
    "ip_local_port_range tcp_syncookies ping_group_range ip_unprivileged_port_start ip_local_reserved_ports "
    "tcp_keepalive_time tcp_fin_timeout tcp_keepalive_intvl tcp_keepalive_probes tcp_rmem tcp_wmem").split())}

def sysctls(spec):
    """The pod's sysctls as {name: value}; "net/ipv4/x" is another spelling of "net.ipv4.x"."""
    return {each["name"].replace("/", "."): each["value"]
            for each in dig(spec, "securityContext.sysctls", ())}

def forbidden_sysctls(spec):
    """Why the kubelet would refuse a pod's sysctls (reason SysctlForbidden), "" if it would not."""
    for name in sysctls(spec):
        space, field = ("net", "hostNetwork") if name.startswith("net.") else ("ipc", "hostIPC")
        why = (f"not allowed with host {space} enabled" if spec.get(field) else "") if name in SAFE_SYSCTLS else (
            "not allowlisted")
        if why:
            return f'forbidden sysctl: "{name}" {why}'
    return ""

def security_profiles(security, settings):
    """SecurityOpt of the engine's create call. Where no seccomp profile is asked for, the engine's default holds."""
    seccomp, apparmor = (security.get(name) or {"type": ""} for name in ("seccompProfile", "appArmorProfile"))
    out = ["no-new-privileges"] * (security.get("allowPrivilegeEscalation") is False)
    if seccomp["type"] == "Localhost":
        path = settings.path("seccomp", os.path.normpath("/" + seccomp.get("localhostProfile", ""))[1:])
        try:
            out.append("seccomp=" + read_text(path))
        except OSError as error:
            raise ConfigError(f'cannot load seccomp profile "{path}": {error.strerror.lower()}', "CreateContainerError")
    has_apparmor = first_line("/sys/module/apparmor/parameters/enabled") == "Y"
    if apparmor["type"] in ("Localhost", "RuntimeDefault") and not has_apparmor:
        raise ConfigError("Cannot enforce AppArmor: AppArmor is not enabled on the host")
    out += [f"{name}=unconfined" for name, profile in (("seccomp", seccomp), ("apparmor", apparmor))
            if profile["type"] == "Unconfined"]
    out += [f"apparmor={apparmor.get('localhostProfile')}"] * (apparmor["type"] == "Localhost")
    return out + [f"label={key}:{value}" for key, value in (security.get("seLinuxOptions") or {}).items() if value]

def security_context(pod, container):
    """A container's own setting wins over its pod's."""
    return {**dig(pod, "spec.securityContext", {}), **(container.get("securityContext") or {})}

def security_options(pod, container, settings):
    """User, and Privileged, CapAdd ... of the engine's create call."""
    both = security_context(pod, container)
    user, caps = str(dig(both, "runAsUser", "")), both.get("capabilities") or {}
    if both.get("runAsGroup") is not None:
        user = f"{user or 0}:{both['runAsGroup']}"
    groups = [*(both.get("supplementalGroups") or ()), both.get("fsGroup")]
    return user, {
        "Privileged": bool(both.get("privileged")), "ReadonlyRootfs": bool(both.get("readOnlyRootFilesystem")),
        "CapAdd": caps.get("add") or [], "CapDrop": caps.get("drop") or [],
        "GroupAdd": [str(group) for group in groups if group is not None],
        "SecurityOpt": security_profiles(both, settings),
        **({"MaskedPaths": [], "ReadonlyPaths": []} if both.get("procMount") == "Unmasked" else {})}

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
    """CpuShares, Memory ... of the engine's create call. Raises ConfigError for huge pages."""
    limits, requests = (dig(container, f"resources.{kind}", {}) for kind in ("limits", "requests"))
    huge = next((name for name in limits if name.startswith("hugepages-")), None)
    if huge:
        raise ConfigError(f"{huge}: the engine cannot limit huge pages")
    milli = lambda amounts: quantity_value(amounts.get("cpu", "0"), 10 ** 6)
    memory_bytes = quantity_value(limits.get("memory", "0"))                  # 0 is no limit, like an absent one
    return {
        "Memory": memory_bytes, "MemorySwap": memory_bytes,                   # the same: no swap, as with the kubelet
        # In 100 ms. Not NanoCpus: the engine refuses more of them than the machine has.
        "CpuQuota": max(1000, milli(limits) * 100) if milli(limits) else 0,
        "CpuShares": min(max(2, (milli(requests) or milli(limits)) * 1024 // 1000), 262144),  # its MilliCPUToShares
        "OomScoreAdj": oom_score(pod, container, settings)}

def subpath_of(mount, env):
    """The subPath of a volumeMount, "" for none. Raises ConfigError in the kubelet's words."""
    path = mount.get("subPath") or expand(mount.get("subPathExpr", ""), env)
    missing = [name for name in re.findall(r"\$\(([^()]*)\)", mount.get("subPathExpr", "")) if name not in env]
    if missing:
        raise ConfigError(f'missing value for "{missing[0]}"')
    if path[:1] == "/":
        raise ConfigError(f"error SubPath `{path}` must not be an absolute path")
    if ".." in path.split("/"):
        raise ConfigError(f"unable to provision SubPath `{path}`: must not contain '..'")
    return path

def to_docker_mounts(pod, container, env, sources):
    """HostConfig's Mounts and Binds of one container. sources: what prepare_volumes() and hold_subpaths() gave,
    {"VOLUME/SUBPATH": path on the host, or the fields of an engine's mount}; "etc-hosts", "resolv-conf" and
    "termination-log" are files, mounted where the container mounts nothing itself."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
    wanted, mounts, binds = [(mount, volumes[mount["name"]], f"{mount['name']}/{subpath_of(mount, env)}")
                             for mount in container.get("volumeMounts") or ()], [], []
    for name, path in (("etc-hosts", "/etc/hosts"), ("resolv-conf", "/etc/resolv.conf"),
                       ("termination-log", container.get("terminationMessagePath") or "/dev/termination-log")):
        if name in sources and path not in [mount["mountPath"] for mount, _, _ in wanted]:
            wanted.append(({"mountPath": path}, {}, name))
    for mount, volume, key in wanted:
        target, source = mount["mountPath"], sources[key]
        read_only = bool(mount.get("readOnly") or FROM_API & volume.keys() or
                         dig(volume, "persistentVolumeClaim.readOnly") or dig(volume, "nfs.readOnly"))
        propagation = PROPAGATION.get(mount.get("mountPropagation"))
        if dig(volume, "emptyDir.medium") == "Memory" and key[-1] == "/" and ":" not in target:
            # Gone after a reboot: a folder that the engine makes in /run is memory, too.
            binds.append(f"{source}:{target}:{'ro' if read_only else 'rw'}{',' + propagation if propagation else ''}")
        else:           # unlike Binds, Mounts fail where the source is missing, instead of making a folder
            mounts.append({**({"Type": "bind", "Source": source, **filled(BindOptions=filled(Propagation=propagation))}
                              if isinstance(source, str) else source), "Target": target, "ReadOnly": read_only})
    return {"Mounts": mounts, "Binds": binds}

def container_labels(pod, name):
    return dict(zip((POD_NAMESPACE, POD_NAME, POD_UID, CONTAINER_NAME), (*key_of(pod), pod["metadata"]["uid"], name)))

def needs_sandbox(spec):
    """Whether a pod's namespaces need a container of their own: where its containers share processes, more than one
    stays, or an init container may leave something behind in the network that the others must find."""
    init = spec.get("initContainers") or ()
    changing = lambda c: dig(c, "securityContext.privileged") or dig(c, "securityContext.capabilities.add")
    staying = len(spec["containers"]) + len(sidecars_of(spec))
    return bool(staying > 1 or spec.get("shareProcessNamespace") or any(map(changing, init)))

def own_namespaces(pod, settings):
    """The fields of the create call, and of its HostConfig, that belong to the pod as a whole: for its sandbox, or for
    the one container of a pod that has none."""
    spec = pod["spec"]
    network = "host" if spec.get("hostNetwork") else settings.network
    resolver = dns_config(pod, settings) if network != "host" and uses_cluster_dns(spec) else ([], [], [])
    return {
        "Hostname": "" if network == "host" else kernel_hostname(pod),
        "NetworkingConfig": {"EndpointsConfig": {} if network == "host" else
                             {network: {"IPAMConfig": {"IPv4Address": pod["status"]["podIP"]}}}}}, {
        "NetworkMode": network, "PidMode": "host" if spec.get("hostPID") else "",
        "IpcMode": "host" if spec.get("hostIPC") else "shareable", "Sysctls": sysctls(spec),
        **dict(zip(("Dns", "DnsSearch", "DnsOptions"), resolver))}

def to_docker_sandbox(pod, sources, settings):
    """The body of the create call for the container that holds the namespaces of a pod of several."""
    whole, host = own_namespaces(pod, settings)
    return {
        "Image": SANDBOX_IMAGE, "StopSignal": "SIGKILL", "Labels": container_labels(pod, SANDBOX), **whole,
        "HostConfig": {
            # After a restart of the engine its containers come back if they may, and it must be there for them.
            "RestartPolicy": {"Name": "no" if pod["spec"]["restartPolicy"] == "Never" else "unless-stopped"},
            "ReadonlyRootfs": True, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"], "CpuShares": 2,
            "OomScoreAdj": max(-998, settings.least_oom_score), **host}}

def to_docker_container(pod, container, env, sources, settings, join="", target="", init=False):
    """The body of the engine's create call for one container of a pod. env: {"NAME": "value"}, references resolved;
    sources: see to_docker_mounts(); join: the id of the sandbox whose namespaces it shares, "" if it has its own;
    target: the id of the container whose processes an ephemeral container sees."""
    spec, (user, security) = pod["spec"], security_options(pod, container, settings)
    ephemeral = container in (spec.get("ephemeralContainers") or ())
    restart = container.get("restartPolicy") or ("OnFailure" if init and spec["restartPolicy"] == "Always" else
                                                 spec["restartPolicy"])
    whole, host = own_namespaces(pod, settings)
    if join:
        share = f"container:{join}"
        whole, host = {}, {"NetworkMode": share, "IpcMode": "host" if spec.get("hostIPC") else share,
                           "PidMode": share if spec.get("shareProcessNamespace") else host["PidMode"]}
    if target:
        host["PidMode"] = f"container:{target}"
    return {
        "Image": container["image"],
        # With Entrypoint set, the engine ignores the image's Cmd: just what command without args means to Kubernetes.
        "Entrypoint": [expand(word, env) for word in container.get("command") or ()] or None,
        "Cmd": [expand(word, env) for word in container.get("args") or ()] or None,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "WorkingDir": container.get("workingDir", ""), "Labels": container_labels(pod, container["name"]),
        "Tty": bool(container.get("tty")), "OpenStdin": bool(container.get("stdin")),
        "StdinOnce": bool(container.get("stdinOnce")), "User": user,
        "Healthcheck": {"Test": ["NONE"]},                 # Kubernetes knows no HEALTHCHECK, and each one costs an exec
        **whole,
        "HostConfig": {
            # The engine restarts, even while k2d is down.
            "RestartPolicy": {"Name": "no" if ephemeral else RESTART[restart]},
            **host, **security, **resource_options(pod, container, settings),
            **to_docker_mounts(pod, container, env, sources)}}

# == 10. Container -> pod ====================================================================
# Pure: what the engine told -> statuses, phases, conditions; and whole pods for containers that somebody else started.
def engine_time(text):
    """The engine's "2026-01-02T03:04:05.678901234Z" cut to whole seconds; None for its zero time."""
    return None if not text or text.startswith("0001") else text[:19] + "Z"

INTERRUPTED = "ended by a restart of the engine or of its host"

class Found:
    """One container as its last inspect showed it: what we need of the engine's several kilobytes.

    before: the Found of the inspect before it, or None; exit_: (exit code, nanoseconds) of a run that ended since;
    message: what that run, or the last one, left as its termination message."""
    __slots__ = ("id image image_id container pid state exit_code error oom restarts counted started_at finished_at "
                 "run_began prior_began tty ip last message").split()

    def __init__(self, info, before=None, exit_=None, message=""):
        state, config = info["State"], info["Config"]
        self.id, self.image_id, self.tty = info["Id"], info["Image"], bool(config.get("Tty"))
        self.image, self.pid, self.message = config["Image"], state.get("Pid", 0), message
        self.container = dig(config, ["Labels", CONTAINER_NAME])
        self.state, self.exit_code = state.get("Status", "exited"), state.get("ExitCode", 0)
        self.error, self.oom = state.get("Error", ""), bool(state.get("OOMKilled"))
        self.started_at, self.finished_at = state.get("StartedAt", ""), state.get("FinishedAt", "")
        networks = dig(info, "NetworkSettings.Networks", {}).values()
        self.ip = next((n.get("IPAddress") or dig(n, "IPAMConfig.IPv4Address", "") for n in networks), "")
        # The engine counts its own restarts, and forgets them at `docker restart`; Kubernetes counts every new run.
        self.restarts = self.counted = info.get("RestartCount", 0)
        self.last, self.run_began, self.prior_began = None, "", ""
        if self.running and engine_time(self.finished_at):
            self.run_began = self.finished_at                # a run's log begins where the previous run ended
        if before and before.id == self.id:
            self.last, self.run_began = before.last, self.run_began or before.run_began
            self.prior_began = before.prior_began if self.run_began == before.run_began else before.run_began
            new_run = self.started_at != before.started_at and engine_time(before.started_at)
            by_hand = bool(new_run) and before.state != "restarting"
            self.restarts = before.restarts + max(self.counted - before.counted, by_hand)
            self.message = message or before.message * (not new_run)
            if before.state == "exited" and new_run:
                self.last = before.terminated()
        elif before:                                         # made anew in the other's place
            self.restarts = before.restarts + bool(engine_time(before.started_at))
            self.last = before.terminated() if before.state == "exited" else before.last
        if exit_ and before and before.running and (
                self.state == "restarting" or self.running and self.started_at != before.started_at):
            ended = exit_[1] and time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(exit_[1] / 1e9)) + "Z"
            before.message, before.oom = message, before.oom or self.oom
            self.last = before.terminated(exit_[0], ended or self.finished_at)
        elif self.running and self.restarts and not self.last:     # it ended while we were away: the kubelet's words
            self.last = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None,
                         "message": "The container could not be located when the pod was terminated",
                         "finishedAt": engine_time(self.finished_at)}

    @property
    def running(self):
        return self.state in ("running", "paused")

    def terminated(self, exit_code=None, finished_at=None):
        """state.terminated of the run that ended."""
        code = self.exit_code if exit_code is None else exit_code
        reason = "OOMKilled" if self.oom else "Completed" if code == 0 else "Error"
        out = {"exitCode": code, "reason": reason, "startedAt": engine_time(self.started_at),
               "finishedAt": engine_time(finished_at or self.finished_at), "containerID": "docker://" + self.id,
               **filled(message=self.message)}
        if self.error == INTERRUPTED:
            out.update(reason="ContainerStatusUnknown", message=self.error)
        elif self.error:
            out.update(reason="StartError", message=self.error, exitCode=128, finishedAt=out["finishedAt"] or now())
        return out

KUBELETS = "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"   # conditions

def is_sidecar(container):
    """Whether an init container goes on beside the others (KEP-753); said of regular containers it means nothing."""
    return container.get("restartPolicy") == "Always"
def containers_of(spec):
    """The containers of a pod spec with the paths to them, the init containers first."""
    return [(f".{field}[{i}]", container) for field in ("initContainers", "containers", "ephemeralContainers")
            for i, container in enumerate(spec.get(field) or ())]
def container_named(spec, name):
    """One of the containers of a pod spec, {} if there is none of that name."""
    return next((container for _, container in containers_of(spec) if container["name"] == name), {})
def sidecars_of(spec):
    return [c for c in spec.get("initContainers") or () if is_sidecar(c)]
def restarts(spec, container, exit_code):
    """Whether a container that ended with this code runs again."""
    policy = container.get("restartPolicy") or spec["restartPolicy"]
    return policy == "Always" or policy == "OnFailure" and exit_code != 0

def container_status(pod, container, found, problem, probed):
    """One of status.containerStatuses, initContainerStatuses or ephemeralContainerStatuses.

    found    a Found, or None
    problem  (reason, message) why it waits, or None
    probed   what the probes say: (has started, is ready)"""
    spec, started, ready = pod["spec"], *probed
    status = {"name": container["name"], "state": {}, "lastState": {}, "ready": False, "started": False,
              "restartCount": 0, "image": container.get("image", ""), "imageID": ""}
    if found:
        status.update(restartCount=found.restarts, imageID="docker://" + found.image_id,
                      containerID="docker://" + found.id)
        last, is_init = found.last, container in (spec.get("initContainers") or ())
        if found.state == "restarting":
            meta, last = pod["metadata"], last or found.terminated()
            problem = problem or ("CrashLoopBackOff", "back-off restarting failed container="
                                  f"{container['name']} pod={meta['name']}_{meta['namespace']}({meta['uid']})")
        status["lastState"] = filled(terminated=last)
        if found.running:
            status["state"] = {"running": {"startedAt": engine_time(found.started_at)}}
            started = started and (not is_init or is_sidecar(container))
            status.update(ready=started and ready and found.state == "running", started=started)
        elif (found.state in ("exited", "dead", "removing") and engine_time(found.started_at) or
              found.error and spec["restartPolicy"] == "Never"):
            status["state"] = {"terminated": found.terminated()}
            status["ready"] = is_init and not is_sidecar(container) and found.exit_code == 0
    if not status["state"]:
        reason, text = problem or ("PodInitializing" if spec.get("initContainers") else "ContainerCreating", "")
        status["state"] = {"waiting": {"reason": reason, **filled(message=text)}}
    return status

def pod_phase(spec, statuses, ended=False):
    """The kubelet's getPhase. statuses: {container name: status}; ended: nothing will be started any more."""
    def exit_code(container):
        """Of the run that ended last, None while the first one is still to come or the present one goes on."""
        status = statuses[container["name"]]
        state = status["lastState"] if "waiting" in status["state"] else status["state"]
        return dig(state, "terminated.exitCode")
    initial = [(c, exit_code(c)) for c in spec.get("initContainers") or () if not is_sidecar(c)]
    if any(code and not restarts(spec, c, code) for c, code in initial):
        return "Failed"
    codes, sidecars = [(c, exit_code(c)) for c in spec["containers"]], [statuses[c["name"]] for c in sidecars_of(spec)]
    is_running = lambda status: "running" in status["state"]
    begun = any(code is not None or is_running(statuses[c["name"]]) for c, code in codes)
    if any(code is None for _, code in initial) and not begun or any(
            "waiting" in s["state"] and not s["lastState"] or is_running(s) and not s["started"] for s in sidecars
            ) and not begun or any(code is None and not is_running(statuses[c["name"]]) for c, code in codes):
        return "Pending"
    if any(is_running(statuses[c["name"]]) for c, _ in codes) or any(map(is_running, sidecars)) or (
            not ended and any(restarts(spec, c, code) for c, code in codes)):
        return "Running"
    return "Failed" if any(code for _, code in codes) else "Succeeded"

def condition(conditions, type_, status, reason="", text="", **more):
    """A condition as it should be, keeping lastTransitionTime while its status stays; conditions: the present list."""
    old = next((c for c in conditions or () if c["type"] == type_), {})
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    return {"type": type_, **more, "status": status, "lastTransitionTime": since or now(),
            **filled(reason=reason, message=text)}

def pod_conditions(pod, phase, statuses, has_sandbox):
    """The conditions that the kubelet computes (kubelet/status/generate.go); those of others stay."""
    spec, old, generation = pod["spec"], dig(pod, "status.conditions", []), pod["metadata"].get("generation")
    listed = lambda names: f"[{' '.join(names)}]"
    begun = any(statuses[c["name"]]["started"] or "terminated" in {**statuses[c["name"]]["state"],
                **statuses[c["name"]]["lastState"]} for c in spec["containers"])
    waits = [] if begun or phase == "Succeeded" else [c["name"] for c in spec.get("initContainers") or () if not
                                                      statuses[c["name"]]["started" if is_sidecar(c) else "ready"]]
    initialized = "True", "PodCompleted" if phase == "Succeeded" else ""
    if waits:
        initialized = "False", "ContainersNotInitialized", f"containers with incomplete status: {listed(waits)}"
    unready = [c["name"] for c in (*sidecars_of(spec), *spec["containers"]) if not statuses[c["name"]]["ready"]]
    ready = ready_too = ("True",)
    if phase in ("Succeeded", "Failed"):
        ready = ready_too = "False", {"Succeeded": "PodCompleted", "Failed": "PodFailed"}[phase]
    elif unready:
        ready = ready_too = "False", "ContainersNotReady", f"containers with unready status: {listed(unready)}"
    else:
        gates = {gate["conditionType"]: next((c["status"] for c in old if c["type"] == gate["conditionType"]), None)
                 for gate in spec.get("readinessGates") or ()}
        closed = [f'corresponding condition of pod readiness gate "{gate}" does not exist.' if status is None else
                  f'the status of pod readiness gate "{gate}" is not "True", but {status}'
                  for gate, status in gates.items() if status != "True"]
        ready = ("False", "ReadinessGatesNotReady", ", ".join(closed)) if closed else ready
    return [c for c in old if c["type"] not in KUBELETS] + [
        condition(old, type_, *each, lastProbeTime=None, **filled(observedGeneration=generation))
        for type_, each in zip(KUBELETS, ((str(has_sandbox),), initialized, ready, ready_too, ("True",)))]

def pod_status(pod, found, problems, host_ip, probed=lambda name: (True, True), ended=False):
    """The status of a bound pod.

    found     {container name: Found}
    problems  {container name: (reason, message)} why it waits
    probed    container name -> (has started, is ready)
    ended     nothing of it will be started any more"""
    spec, old = pod["spec"], pod.get("status", {})
    statuses, out = {}, {}
    for field in "containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses":
        before = {status["name"]: status for status in old.get(field) or ()}
        out[field] = [container_status(pod, c, found.get(c["name"]), problems.get(c["name"]), probed(c["name"]))
                      for c in spec.get(field.replace("Statuses", "s")) or ()]
        for status in out[field]:                           # a container that is gone keeps what is known of it
            was = before.get(status["name"], {})
            if "containerID" not in status and "containerID" in was:
                status.update(pick(was, ("restartCount", "lastState")))
                if "terminated" in was["state"] and status["name"] not in problems:
                    status.update(was)
            statuses[status["name"]] = status
    phase = pod_phase(spec, statuses, ended)
    made = any("containerID" in status for status in statuses.values()) and phase not in ("Succeeded", "Failed")
    ip = host_ip if spec.get("hostNetwork") else old.get("podIP") or next((f.ip for f in found.values() if f.ip), "")
    out = {
        "observedGeneration": pod["metadata"].get("generation", 1), "phase": phase,
        "conditions": pod_conditions(pod, phase, statuses, made),
        **(pick(old, ("reason", "message")) if phase == old.get("phase") else {}),
        "hostIP": host_ip, "hostIPs": [{"ip": host_ip}], "podIP": ip, "podIPs": [{"ip": ip}] if ip else None,
        "startTime": old.get("startTime") or now(), **{field: out[field] or None for field in reversed(out)},
        "qosClass": qos_class(spec), **pick(old, ("nominatedNodeName", "resize"))}
    return {key: value for key, value in out.items() if value not in (None, "")}

def qos_class(spec):
    """Guaranteed, Burstable or BestEffort (Kubernetes: Pod Quality of Service Classes)."""
    pairs = [(dig(c, "resources.requests", {}), dig(c, "resources.limits", {}))
             for c in (*spec["containers"], *(spec.get("initContainers") or ()))]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    equal = all(limits.get(resource) and requests.get(resource, limits[resource]) == limits[resource]
                for requests, limits in pairs for resource in ("cpu", "memory"))
    return "Guaranteed" if equal else "Burstable"

def foreign_name(name, id_, taken):
    """A container's name as one for a pod: lower case, other characters "-"; if taken, with five letters of its id."""
    pod_name = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:57].strip("-") or "container"
    return f"{pod_name}-{id_[:5]}" if pod_name in taken else pod_name

def renamed(obj, old):
    """The metadata of what stands for a container: as clients left it, but for what names the container."""
    mine, theirs = ({field: o["metadata"].get(field) or {} for field in ("labels", "annotations")} for o in (obj, old))
    return {**old["metadata"], **{field: {**theirs[field], **pick(mine[field], (FOREIGN, MIRROR))} for field in mine}}

def from_docker_ports(info, pod, host_ip):
    """The Service of the ports that a container of plain `docker run` publishes to other machines, or None. Of type
    LoadBalancer, as the engine serves them at the node's address; its ports are those there, so that EXTERNAL-IP and
    PORT(S) of `kubectl get services` are where to go."""
    ports, meta = {}, pod["metadata"]
    published = dig(info, "NetworkSettings.Ports") or dig(info, "HostConfig.PortBindings", {})
    for port, places in sorted(published.items()):
        number, _, protocol = port.partition("/")
        for place in places or ():
            host, bound = place.get("HostIp") or "", int(place.get("HostPort") or 0)
            if bound and not host.startswith("127.") and host != "::1":
                ports[protocol, bound] = {"name": f"{protocol}-{bound}", "protocol": protocol.upper(), "port": bound,
                                          "targetPort": int(number)}
    owner = {"apiVersion": "v1", "kind": "Pod", **pick(meta, ("name", "uid"))}
    return {
        "kind": "Service", "apiVersion": "v1",
        "metadata": {**pick(meta, ("name", "namespace", "creationTimestamp")), "uid": new_uid(),
                     "annotations": pick(meta["annotations"], (FOREIGN,)), "ownerReferences": [owner]},
        "spec": {"type": "LoadBalancer", "ports": list(ports.values()), "selector": pick(meta["labels"], (FOREIGN,)),
                 "sessionAffinity": "None", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                 "allocateLoadBalancerNodePorts": False},
        "status": {"loadBalancer": {"ingress": [{"ip": host_ip, "ipMode": "VIP"}]}}} if ports else None

def from_docker_container(info, name, node):
    """The pod that a container of plain `docker run` is, named name, in namespace default; without status."""
    config, host, id_ = info["Config"], info["HostConfig"], info["Id"]
    named = {k: v for k, v in (config.get("Labels") or {}).items() if not label_key_faults(k)}
    labels = {k: v for k, v in named.items() if not name_faults("labelvalue", v)}
    ports = []
    for port in sorted(set(config.get("ExposedPorts") or ()) | set(host.get("PortBindings") or ())):
        number, _, protocol = port.partition("/")
        bound = (dig(host, ["PortBindings", port]) or [{}])[0].get("HostPort")
        ports.append({"containerPort": int(number), "protocol": (protocol or "tcp").upper(),
                      **filled(hostPort=int(bound or 0))})
    mounts = [mount for mount in info.get("Mounts") or () if mount.get("Source")]
    container = filled(name=name[:63], image=config["Image"], command=config.get("Entrypoint"), args=config.get("Cmd"),
                       workingDir=config.get("WorkingDir"), ports=ports,
                       env=[dict(zip(("name", "value"), pair.split("=", 1))) for pair in config.get("Env") or ()],
                       volumeMounts=[{"name": f"mount-{i}", "mountPath": mount["Destination"],
                                      **filled(readOnly=not mount.get("RW"))} for i, mount in enumerate(mounts)],
                       imagePullPolicy="IfNotPresent", stdin=config.get("OpenStdin"), tty=config.get("Tty"))
    limit = quantity_text(host["Memory"] * 10 ** 9) if host.get("Memory") else ""
    container["resources"] = {"limits": {"memory": limit}} if limit else {}
    policy = dig(host, "RestartPolicy.Name", "no")
    return {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "generation": 1, "labels": {**labels, FOREIGN: id_[:12]},
                     "uid": "-".join((id_[:8], id_[8:12], id_[12:16], id_[16:20], id_[20:32])),
                     "creationTimestamp": engine_time(info["Created"]),
                     "annotations": {FOREIGN: info["Name"].lstrip("/"), MIRROR: "docker", **without(named, *labels)}},
        "spec": {**filled(volumes=[{"name": f"mount-{i}", "hostPath": {"path": mount["Source"], "type": ""}}
                                   for i, mount in enumerate(mounts)]),
                 "containers": [container], "terminationGracePeriodSeconds": config.get("StopTimeout") or 10,
                 "restartPolicy": {"no": "Never", "": "Never", "on-failure": "OnFailure"}.get(policy, "Always"),
                 "dnsPolicy": "Default", "nodeName": node, **filled(hostNetwork=host.get("NetworkMode") == "host"),
                 "securityContext": {}, "schedulerName": "docker"},
        "status": {}}

# == 11. Volumes =============================================================================
# Each volume of a pod is a path of the host; most are folders under DATA/pods/UID/volumes. A container can plant
# symlinks in them, so k2d never follows one it did not make.
def pod_folder(settings, uid, *parts):
    return settings.path("pods", uid, *parts)

def data_of(obj):
    """The data of a ConfigMap or Secret as {key: bytes}; None for None."""
    if obj is None:
        return None
    text, coded = (None, "data") if obj["kind"] == "Secret" else ("data", "binaryData")
    return {**{key: value.encode() for key, value in dig(obj, [text], {}).items()},
            **{key: base64.b64decode(value) for key, value in obj.get(coded, {}).items()}}

def volume_files(kind, source, lookup):
    """The files of a configMap or secret volume: {relative path: (bytes, mode)}. Raises ConfigError."""
    name = source.get("name") or source.get("secretName", "")
    data, required, mode = lookup(kind, name), not source.get("optional"), source.get("defaultMode", 0o644)
    if data is None and required:
        raise ConfigError(f'{kind.lower()} "{name}" not found')
    data = data or {}
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    missing = [item["key"] for item in items if item["key"] not in data]
    if missing and required:
        raise ConfigError(f"references non-existent {kind.lower()} key: {missing[0]}")
    return {item["path"]: (data[item["key"]], item.get("mode", mode)) for item in items if item["key"] in data}

def projected_files(pod, volume, settings, lookup):
    """The files of a volume that shows what the API holds, for project_files(). Raises ConfigError."""
    files, mode = {}, next((each["defaultMode"] for each in volume.values() if "defaultMode" in each), 0o644)
    # A token is for the one user whom all containers run as; where they differ or do not say, for whoever reads it.
    users = {security_context(pod, c).get("runAsUser")
             for c in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ()))}
    owner = list(users - {None}) if len(users) == 1 else []
    private = owner or dig(pod, "spec.securityContext.fsGroup") is not None
    for each in dig(volume, "projected.sources", [volume]):     # a volume of one source looks like an entry
        for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if field in each:
                files.update(volume_files(kind, {"defaultMode": mode, **each[field]}, lookup))
        for item in dig(each, "downwardAPI.items", ()):
            selector, field = item.get("resourceFieldRef"), dig(item, "fieldRef.fieldPath", "")
            has = dig(lookup("Node", settings.node), "status.allocatable", {})
            text = resource_field(pod, None, selector, has) if selector else pod_field(pod, field, settings.host_ip)
            files[item["path"]] = text.encode(), item.get("mode", mode)
        token = each.get("serviceAccountToken")
        if token:
            files[token["path"]] = lookup("Token", (volume["name"], token)), 0o600 if private else mode, *owner
    return files

def project_files(folder, files, group=None):
    """Make a folder show exactly these files, {path: (bytes, mode[, owner])}, all at once for its readers, as the
    kubelet's AtomicWriter does: files live in a folder of their own, "..data" points to it, each name points through
    "..data". Unchanged files are left alone."""
    for path in files:
        if path.startswith(("/", "..")) or ".." in path.split("/"):
            raise ConfigError(f"invalid path {path}: must be relative and without '..'")
    os.makedirs(folder, 0o755, exist_ok=True)
    listed = [[path, base64.b64encode(data).decode(), *more, group] for path, (data, *more) in sorted(files.items())]
    target, present = "..k2d-" + hashlib.sha256(dumps(listed)).hexdigest()[:16], os.path.join(folder, "..data")
    before = os.readlink(present) if os.path.islink(present) else None
    if before == target:
        return
    remove_tree(os.path.join(folder, target))
    os.mkdir(os.path.join(folder, target), 0o755)
    for path, (data, mode, *owner) in files.items():
        full = os.path.join(folder, target, path)
        os.makedirs(os.path.dirname(full), 0o755, exist_ok=True)
        with open(full, "wb") as file:
            os.fchown(file.fileno(), *(owner or [-1]), -1 if group is None else group)
            os.fchmod(file.fileno(), mode if group is None else mode | 0o440)
            file.write(data)
    if os.path.lexists(present + "_tmp"):                    # left by a kill just here
        os.unlink(present + "_tmp")
    os.symlink(target, present + "_tmp")
    os.replace(present + "_tmp", present)
    names = {path.split("/")[0] for path in files}
    for name in names | set(os.listdir(folder)):
        full = os.path.join(folder, name)
        if name not in names and not name.startswith("..") and os.path.islink(full):
            os.unlink(full)
        elif name in names and not os.path.lexists(full):
            os.symlink(os.path.join("..data", name), full)
    if before:
        remove_tree(os.path.join(folder, before))

def set_group(folder, group, only_if_root_differs=False):
    """Give a folder and all below it to a group, as the kubelet's SetVolumeOwnership, through no symlink."""
    here = os.stat(folder)
    if only_if_root_differs and here.st_gid == group and here.st_mode & 0o2770 == 0o2770:
        return
    for _, _, names, parent in os.fwalk(folder):
        for name in (*names, "."):                              # the folder last: then a pass cut off begins anew
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
            except FileNotFoundError:                           # who else uses the volume has removed it
                continue
            mode, path = os.fstat(fd).st_mode, f"/proc/self/fd/{fd}"
            if not stat.S_ISLNK(mode):
                os.chown(path, -1, group)
                os.chmod(path, stat.S_IMODE(mode) | (0o2770 if stat.S_ISDIR(mode) else 0o660))
            os.close(fd)

# -- mounts of the host: they live in /run/k2d/UID, outlive k2d, and are gone after a reboot
def run_folder(uid, *parts):
    return os.path.join("/run/k2d", uid, *parts)

def host_root():
    """Where the host's files are seen as the engine sees them: k2d may live in a mount namespace of its own, such as
    that of a service, in which a mount would be invisible to containers."""
    try:
        return "" if os.stat("/proc/1/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino else "/proc/1/root"
    except PermissionError:                                     # process 1 is out of reach: no better place than here
        return ""

def mount_on_host(script, *args):
    """Run a shell script where mounts are seen by containers. Raises OSError with what it said."""
    code, said = run(*(["nsenter", "-t", "1", "-m", "--"] if host_root() else []), "sh", "-ec", script, "sh", *args)
    if code:
        raise OSError(said.decode("utf-8", "replace").strip())

MOUNT_MEMORY = 'mkdir -m 700 -p /run/k2d; mkdir -p "$1"; mount -t tmpfs -o "$2" k2d "$1"'
HOLD = ('umount -l "$2" || rmdir "$2" || rm -f "$2" || :; mkdir -m 700 -p /run/k2d; mkdir -p "${2%/*}"; '
        'if [ -d "$1" ]; then mkdir -p "$2"; else : >> "$2"; fi; mount --bind "$1" "$2"')
# What is held may lie on the same file system as /run: after an umount that failed, nothing may be removed in it.
RELEASE = ('cd "$1" || exit 0; for each in volumes/* held/*; do umount -l "$each" || :; done; '
           'for each in held/*; do rmdir "$each" || rm -f "$each"; done; rm -rf --one-file-system volumes; '
           'rmdir held "$1" || :')

def remove_volumes(settings, uid):
    """Remove a pod's volumes and all its other files. Raises OSError."""
    if os.path.isdir(host_root() + run_folder(uid)):
        mount_on_host(RELEASE, run_folder(uid))
    remove_tree(pod_folder(settings, uid))

def open_beneath(root, path):
    """A descriptor (O_PATH) of what stands at a path below root, reached through no symlink; what is missing is made a
    folder, with the mode of root. Raises OSError."""
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
            raise OSError(f"{step} is a symlink")
    return at

def hold_subpaths(pod, container, env, sources):
    """sources, and "VOLUME/SUBPATH" of each volumeMount with a subPath. Raises ConfigError.

    The engine resolves a path anew at each start of the container. So where containers can write, and put a symlink to
    somewhere else into the path, it is given a bind mount of what stood there when we looked, in a place of our own."""
    out, uid = dict(sources), pod["metadata"]["uid"]
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
    for i, mount in enumerate(container.get("volumeMounts") or ()):
        path, name = subpath_of(mount, env), mount["name"]
        root, target = sources[name + "//"], run_folder(uid, "held", f"{container['name']}.{i}")
        if path and not isinstance(root, str):                  # nfs: the server finds it
            device = root["VolumeOptions"]["DriverConfig"]["Options"]["device"]
            out[f"{name}/{path}"] = merge_patch(root, {"VolumeOptions": {"DriverConfig": {"Options": {
                "device": os.path.join(device, path)}}}})
        elif path:
            try:
                fd, where = open_beneath(root, path), os.path.join(root, path)
                try:
                    out[f"{name}/{path}"] = (where if FROM_API & volumes[name].keys() else
                                             hold(where, os.fstat(fd), target))
                finally:
                    os.close(fd)
            except OSError as error:    # no details for those who may read the pod: they would tell of the host's files
                log(f"subPath {path} of {' '.join(key_of(pod))}: {error}")
                raise ConfigError(
                    f'failed to prepare subPath for volumeMount "{name}" of container "{container["name"]}"')
    return out

def hold(path, wanted, target):
    """Have a bind mount of a path at target, and nothing else: wanted is the os.stat() of what must be there."""
    place = host_root() + target
    is_held = lambda: os.path.lexists(place) and os.path.samestat(os.lstat(place), wanted)
    if not is_held():
        mount_on_host(HOLD, path, target)
    if not is_held():                   # somebody was quick to put something else in its place
        mount_on_host('umount -l "$1"', target)
        raise OSError(f"{path} has changed while it was mounted")
    return target

# -- what each type of volume is made from
HOST_PATH_TYPES = {"Directory": stat.S_ISDIR, "File": stat.S_ISREG, "Socket": stat.S_ISSOCK,
                   "CharDevice": stat.S_ISCHR, "BlockDevice": stat.S_ISBLK}

def prepare_host_path(source):
    """Check or make what a hostPath volume names; returns the path. Raises ConfigError in the kubelet's words."""
    path, type_ = source["path"], source.get("type", "")
    if type_ in ("", "DirectoryOrCreate") and not os.path.lexists(path):
        os.makedirs(path, 0o755, exist_ok=True)
    elif type_ == "FileOrCreate" and not os.path.lexists(path):
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    wanted = type_.replace("OrCreate", "")
    if wanted and not (os.path.exists(path) and HOST_PATH_TYPES[wanted](os.stat(path).st_mode)):
        raise ConfigError(f"hostPath type check failed: {path} is not a {wanted.lower()}")
    return path

def prepare_files(pod, volume, settings, lookup):
    folder = pod_folder(settings, pod["metadata"]["uid"], "volumes", volume["name"])
    files = projected_files(pod, volume, settings, lookup)
    project_files(folder, files, dig(pod, "spec.securityContext.fsGroup"))
    return folder, os.path.join(folder, "..data")                   # the latter for a subPath: never past our symlinks

def prepare_empty_dir(pod, volume, settings, lookup):
    uid, group = pod["metadata"]["uid"], dig(pod, "spec.securityContext.fsGroup")
    mode, source = 0o777 if group is None else 0o2777, volume.get("emptyDir") or {}
    if source.get("medium") == "Memory":
        folder = run_folder(uid, "volumes", volume["name"])
        if not os.path.isdir(host_root() + folder):
            limits = [dig(c, "resources.limits.memory") for c in pod["spec"]["containers"]]
            sizes = [quantity_value(source.get("sizeLimit") or "0"), all(limits) and sum(map(quantity_value, limits))]
            size = min(filter(None, sizes), default="50%")      # what all may use together, where none is unlimited
            mount_on_host(MOUNT_MEMORY, folder, f"size={size},mode={mode:o},gid={group or 0}")
        return folder, folder
    folder = pod_folder(settings, uid, "volumes", volume["name"])
    if not os.path.isdir(folder):
        os.makedirs(folder + ".new", exist_ok=True)
        os.chown(folder + ".new", -1, -1 if group is None else group)
        os.chmod(folder + ".new", mode)                             # makedirs subtracts our umask
        os.rename(folder + ".new", folder)
    return folder, folder

def to_docker_nfs(source, options=()):
    """The fields of an engine's mount of an NFS export; its volume has no name and goes with the container."""
    told = ["addr=" + source["server"], *(options or ["nfsvers=4"]), *["ro"] * bool(source.get("readOnly"))]
    return {"Type": "volume", "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Name": "local", "Options": {
        "type": "nfs", "o": ",".join(told), "device": ":" + source["path"]}}}}

def claims_of(pod):
    """The names of the claims behind a pod's volumes."""
    return [each["persistentVolumeClaim"]["claimName"] for each in pod["spec"].get("volumes") or ()
            if "persistentVolumeClaim" in each]

def claim_trouble(pod, lookup):
    """Why a pod cannot be scheduled for want of its claims, in the scheduler's words; "" if it can."""
    for name in claims_of(pod):
        claim = lookup("PersistentVolumeClaim", name)
        phase = dig(claim, "status.phase")
        if not claim or is_deleting(claim):
            return f'persistentvolumeclaim "{name}" {"is being deleted" if claim else "not found"}'
        if phase == "Lost":
            volume = claim["spec"]["volumeName"]
            return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"'
        if phase != "Bound":
            return "pod has unbound immediate PersistentVolumeClaims"
    return ""

def prepare_claim(pod, volume, settings, lookup):
    name, group = volume["persistentVolumeClaim"]["claimName"], dig(pod, "spec.securityContext.fsGroup")
    claim = lookup("PersistentVolumeClaim", name)
    pv = lookup("PersistentVolume", dig(claim, "spec.volumeName", ""))
    if not pv or dig(claim, "status.phase") != "Bound":
        which, namespace = f"[{volume['name']}]", pod["metadata"]["namespace"]
        why = ("PVC is not bound" if claim else
               f'failed to fetch PVC from API server: persistentvolumeclaims "{name}" not found')
        raise ConfigError(f"Unable to attach or mount volumes: unmounted volumes={which}, unattached volumes={which}, "
                          f"failed to process volumes={which}: error processing PVC {namespace}/{name}: {why}",
                          "FailedMount")
    spec = pv["spec"]
    if "nfs" in spec:
        return (to_docker_nfs(spec["nfs"], spec.get("mountOptions")),) * 2
    if "hostPath" not in spec and "local" not in spec:
        raise ConfigError("no volume plugin matched: k2d mounts persistent volumes of types hostPath, local and nfs")
    path = prepare_host_path(spec.get("hostPath") or {"path": spec["local"]["path"], "type": "Directory"})
    if group is not None and (is_ours(pv) or "local" in spec):
        set_group(path, group, pod["spec"]["securityContext"].get("fsGroupChangePolicy") == "OnRootMismatch")
    by_name = {"Type": "volume", "Source": pv["metadata"]["name"], "VolumeOptions": {"NoCopy": True}}
    return by_name if is_ours(pv) else path, path               # by its name, the engine knows that it is in use

PROVISIONER, PROVISIONED_BY = "k2d.io/engine-volume", "pv.kubernetes.io/provisioned-by"

def is_ours(pv):
    """Whether a PersistentVolume is an engine volume that k2d has made, of the same name."""
    return annotation(pv, PROVISIONED_BY) == PROVISIONER

# Volume source -> what makes it: called with pod, volume, settings, lookup; returns what the engine mounts, and where
# subPaths begin.
VOLUME_SOURCES = {
    **dict.fromkeys(FROM_API, prepare_files), "emptyDir": prepare_empty_dir, "persistentVolumeClaim": prepare_claim,
    "hostPath": lambda pod, volume, *_: (prepare_host_path(volume["hostPath"]),) * 2,
    "nfs": lambda pod, volume, *_: (to_docker_nfs(volume["nfs"]),) * 2}

def prepare_volumes(pod, settings, lookup, types=VOLUME_SOURCES.keys()):
    """Bring a pod's volumes of these types up to date; returns {"VOLUME/": path on the host or fields of an engine's
    mount, "VOLUME//": where subPaths of it begin}. lookup(kind, name) -> what the pod's namespace holds, see
    Pods.lookup(). Raises ConfigError."""
    sources, problems = {}, []
    for volume in pod["spec"].get("volumes") or ():
        name = volume["name"]
        for type_ in types & volume.keys():
            try:
                sources[name + "/"], sources[name + "//"] = VOLUME_SOURCES[type_](pod, volume, settings, lookup)
            except (ConfigError, OSError, ValueError) as error:
                told = getattr(error, "reason", "") == "FailedMount"
                problems.append(f"{error}" if told else f'MountVolume.SetUp failed for volume "{name}" : {error}')
    if problems:                                                # the other volumes are up to date all the same
        raise ConfigError(problems[0], "ContainerCreating")
    return sources

# == 12. Network and names ===================================================================
# One flat bridge for all pods. Services are NAT rules of the kernel, names are lines in each pod's /etc/hosts: both
# work while k2d is down. DNS answers those who ask DNS alone, and what changes too often for a file.
ServicePort = namedtuple("ServicePort", "ip protocol port node_port endpoints affinity_s")    # endpoints: [(ip, port)]
HostPort = namedtuple("HostPort", "ip protocol port endpoint")                                # ip "" is every address
CHAINS = {"nat": ("SVC", "PORT", "MASQ"), "filter": ("FWD", "REJ")}
TO_HOST = "-m addrtype --dst-type LOCAL"

def key_of(obj):
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]

def annotation(obj, name):
    return dig(obj, ["metadata", "annotations", name])
def cluster_ip(service):
    """The address of a Service; None for a headless one, or an alias."""
    ip = service["spec"].get("clusterIP")
    return None if ip in ("", "None") else ip

def service_ports(service, endpoints):
    """The ServicePorts of a Service, by its Endpoints object (or None); [] for one without a cluster IP."""
    spec, ip, subsets = service["spec"], cluster_ip(service), (endpoints or {}).get("subsets") or ()
    affinity_s = (dig(spec, "sessionAffinityConfig.clientIP.timeoutSeconds", 10800)
                  if spec.get("sessionAffinity") == "ClientIP" else None)
    ready = lambda name: sorted((address["ip"], port["port"]) for subset in subsets
                                for port in subset.get("ports") or () if port.get("name", "") == name
                                for address in subset.get("addresses") or () if ":" not in address["ip"])    # no IPv6
    return [ServicePort(ip, port.get("protocol", "TCP").lower(), port["port"], port.get("nodePort"),
                        ready(port.get("name", "")), affinity_s) for port in (spec.get("ports") or () if ip else ())]

def is_address(text):
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False

def balance(match, endpoints, affinity_s, tag):
    """iptables rules that send what matches to one of the endpoints, each as likely as the others."""
    known, new = [], []
    for left, (ip, port) in zip(range(len(endpoints), 0, -1), endpoints):
        target, recent = f"-j DNAT --to-destination {ip}:{port}", f"-m recent --name {tag}-{ip}"
        chance = f" -m statistic --mode random --probability {1 / left:.8f}" if left > 1 else ""
        known.append(f"{match} {recent} --rcheck --seconds {affinity_s} --reap --rsource {target}")
        new.append(f"{match}{chance}{f' {recent} --set --rsource' if affinity_s else ''} {target}")
    return known + new if affinity_s else new

def nat_rules(settings, services, host_ports, bridge_netfilter):
    """The text for `iptables-restore --noflush`: our chains, whole, so that they are replaced at one moment.

    NAME-SVC   cluster addresses, asked by pods and by the host itself     NAME-PORT  node ports and host ports
    NAME-MASQ  where a reply would not come back by the way it was NATed   NAME-FWD   what the engine's rules would drop
    NAME-REJ   Service addresses and node ports without a ready endpoint: refused at once, not lost on the default route
    """
    p, bridge, pods = settings.network.upper(), settings.network, settings.pod_cidr
    svc, ports, refused, pod_ips = [], [], [], {h.endpoint[0] for h in host_ports}
    to_port = lambda s, port: f"-p {s.protocol} -m {s.protocol} --dport {port}"
    for s in services:
        match = f"-A {p}-SVC -d {s.ip}/32 {to_port(s, s.port)}"
        svc += balance(match, s.endpoints, s.affinity_s, f"{p}-{s.protocol}-{s.port}")
        if s.node_port:
            match = to_port(s, s.node_port)
            ports += balance(f"-A {p}-PORT {match}", s.endpoints, s.affinity_s, f"{p}-{s.protocol}-{s.node_port}")
            refused += [] if s.endpoints else [f"-A {p}-REJ {TO_HOST} {match} -j REJECT"]
        pod_ips.update(ip for ip, _ in s.endpoints if ip != settings.gateway and ipaddress.IPv4Address(ip) in pods)
    for h in host_ports:
        where = f"-d {h.ip}/32 " if h.ip not in ("", "0.0.0.0") else ""
        ports += balance(f"-A {p}-PORT {where}{to_port(h, h.port)}", [h.endpoint], None, "")
    # With br_netfilter a reply between two pods passes our NAT even inside the bridge; only a pod that reaches itself
    # needs another source. Without it such a reply would go straight to the other pod: every DNATed packet needs one.
    matches = ([f"-s {ip}/32 -d {ip}/32" for ip in sorted(pod_ips)] if bridge_netfilter else
               [f"-s {pods} -o {bridge} -m conntrack --ctstate DNAT"])
    nat = [*(f":{p}-{chain} - [0:0]" for chain in CHAINS["nat"]), *svc, *ports,
           *(f"-A {p}-MASQ {match} -j MASQUERADE" for match in (f"-s 127.0.0.0/8 -o {bridge}", *matches))]
    filters = [*(f":{p}-{chain} - [0:0]" for chain in CHAINS["filter"]),
               *(f"-A {p}-FWD {way} {bridge} -m conntrack --ctstate DNAT -j ACCEPT" for way in ("-o", "-i")),
               # route_localnet lets 127.0.0.1 be NATed to pods; nobody else may pretend to be it, or reach it
               f"-A {p}-REJ -i {bridge} -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
               # the ICMP of a plain REJECT does not reach a socket of the host itself by way of lo
               f"-A {p}-REJ -d {settings.service_cidr} -p tcp -j REJECT --reject-with tcp-reset",
               f"-A {p}-REJ -d {settings.service_cidr} -j REJECT", *refused]
    return "\n".join(["*nat", *nat, "COMMIT", "*filter", *filters, "COMMIT", ""])

def jumps(settings, has_docker_user):
    """(table, chain, arguments) of the rules by which the kernel's own chains come to ours."""
    p, to_service = settings.network.upper(), f"-d {settings.service_cidr}"
    return [("nat", "PREROUTING", f"-i {settings.network} {to_service} -j {p}-SVC"),
            ("nat", "PREROUTING", f"{TO_HOST} -j {p}-PORT"), ("nat", "OUTPUT", f"{to_service} -j {p}-SVC"),
            ("nat", "OUTPUT", f"{TO_HOST} -j {p}-PORT"), ("nat", "POSTROUTING", f"-j {p}-MASQ"),
            ("filter", "DOCKER-USER" if has_docker_user else "FORWARD", f"-j {p}-FWD"),
            *(("filter", chain, f"-j {p}-REJ") for chain in ("INPUT", "OUTPUT", "FORWARD"))]

def run_checked(*command, stdin=b""):
    """What a program of the host printed; OSError with its words if it fails."""
    code, output = run(*command, stdin=stdin)
    if code:
        raise OSError(f"{' '.join(command)}: {output.decode('utf-8', 'replace').strip()}")
    return output.decode()

def read_text(path):
    with open(path) as file:
        return file.read()
def write_text(path, text):
    with open(path, "w") as file:
        file.write(text)
def first_line(path):
    return read_text(path).split("\n")[0] if os.path.exists(path) else ""

class Network:
    """The bridge, its routes and NAT rules. Called by the controller thread, except where a method says otherwise."""
    def __init__(self, settings, engine, store):
        self.settings, self.engine, self.store = settings, engine, store
        self.applied, self.problem, self.dns_port = None, "", 0
        self.lock, self.last_ip = threading.Lock(), 0       # lock: held while addresses are chosen; never across I/O

    def bridge_netfilter(self):
        return first_line("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1"

    def check_overlap(self):
        """Refuse to start over a route of the host: its machines would become unreachable."""
        s = self.settings
        for line in read_text("/proc/net/route").splitlines()[1:]:
            interface, destination, *_, mask = line.split()[:8]
            bits = bin(int(mask, 16)).count("1")
            network = ipaddress.IPv4Network((struct.pack("<I", int(destination, 16)), bits), strict=False)
            for flag, ours in (("pod-cidr", s.pod_cidr), ("service-cidr", s.service_cidr)):
                if interface not in (s.network, "lo") and bits and ours.overlaps(network):
                    raise SystemExit(f"k2d: --{flag} {ours} overlaps with the route to {network} on {interface}; "
                                     "choose another range, such as 172.30.0.0/16")

    def ensure(self):
        """Make the engine's network, the routes and the jumps where they are missing. Raises EngineError."""
        s = self.settings
        found = self.engine.call("GET", "/networks/" + s.network, expect=(404,))
        subnets = [config.get("Subnet") for config in dig(found, "IPAM.Config", ())]
        if not found:
            self.engine.call("POST", "/networks/create", {
                "Name": s.network, "Driver": "bridge", "CheckDuplicate": True,
                "IPAM": {"Config": [{"Subnet": str(s.pod_cidr), "IPRange": s.engine_range, "Gateway": s.gateway}]},
                "Options": {"com.docker.network.bridge.name": s.network}})
        elif str(s.pod_cidr) not in subnets:
            raise EngineError(409, f"the engine's network {s.network} has {', '.join(subnets)}, not {s.pod_cidr}: "
                              "choose that by --pod-cidr, another --network, or remove it")
        try:
            write_text(f"/proc/sys/net/ipv4/conf/{s.network}/route_localnet", "1")
            run_checked("ip", "route", "replace", str(s.service_cidr), "dev", "lo", "src", s.gateway)
            if f":{s.network.upper()}-SVC" not in run_checked("iptables-save"):
                run_checked("iptables-restore", "-w", "--noflush", stdin=nat_rules(s, [], [], True).encode())
            self.applied = None                               # the controllers apply theirs after us, changed or not
            for table, chain, arguments in jumps(s, run("iptables", "-w", "-n", "-L", "DOCKER-USER")[0] == 0):
                if run("iptables", "-w", "-t", table, "-C", chain, *arguments.split())[0]:
                    run_checked("iptables", "-w", "-t", table, "-I", chain, *arguments.split())
            self.problem = ""
        except OSError as error:
            log(f"Services have no addresses, names give pod addresses: {error}")
            self.problem = str(error)

    def sync(self):
        """Bring the NAT rules in line with the present Services, endpoints and pods."""
        if self.problem:
            return
        s, services, host_ports = self.settings, [], []
        for service in self.store.list("Service"):
            services += service_ports(service, self.store.get("Endpoints", *key_of(service)))
        services.append(ServicePort(s.dns_ip, "udp", 53, None, [(s.gateway, self.dns_port)], None))
        for protocol in ("udp", "tcp"):
            services.append(ServicePort(s.upstream_ip, protocol, 53, None, upstream_resolver(), None))
        for pod in self.store.list("Pod", holding=b'"hostPort"'):
            if is_foreign(pod) or pod["spec"].get("hostNetwork"):
                continue                                      # the engine published those itself
            ip = dig(pod, "status.phase") == "Running" and dig(pod, "status.podIP")
            host_ports += [HostPort(port.get("hostIP", ""), port.get("protocol", "TCP").lower(), port["hostPort"],
                                    (ip, port["containerPort"])) for _, container in containers_of(pod["spec"])
                           for port in container.get("ports") or () if ip and port.get("hostPort")]
        text = nat_rules(s, services, sorted(host_ports), self.bridge_netfilter())
        if text != self.applied:
            run_checked("iptables-restore", "-w", "--noflush", stdin=text.encode())
            self.applied = text

    def set_hairpin(self):
        """Where br_netfilter is on, a pod that reaches itself by its own Service must get its frame back by the port it
        came from. Any thread."""
        ports = f"/sys/class/net/{self.settings.network}/brif"
        for port in os.listdir(ports) if self.bridge_netfilter() and os.path.isdir(ports) else ():
            with suppress(OSError):                   # the container went away meanwhile
                if read_text(f"{ports}/{port}/hairpin_mode")[:1] != "1":
                    write_text(f"{ports}/{port}/hairpin_mode", "1")

    def allocate(self):
        """A free pod address, in turn, so that a freed one rests. Any thread; the caller's transaction stores it."""
        s = self.settings
        rows = [self.store.row("Pod", key) for key in self.store.keys("Pod")]
        taken = {ip.decode() for row in rows if row for ip in re.findall(rb'"podIP":"([^"]+)"', row.raw)}
        size = s.pod_cidr.num_addresses - 256 - 2                 # without gateway, and the engine's own last /24
        with self.lock:
            if not self.last_ip:
                known = [int(ipaddress.ip_address(ip)) - int(s.pod_cidr[0]) for ip in taken if is_address(ip)]
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
            raise SystemExit(f"k2d: network {self.settings.network}: {error}; the data stays, so that reset can go on")

def host_resolv_conf():
    """The text of the host's resolv.conf; with systemd of the second, where the first names its stub alone."""
    texts = [*map(read_text, filter(os.path.exists, ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")))]
    return next((text for text in texts if re.search(r"(?m)^nameserver\s+(?!127\.)", text)), "".join(texts[-1:]))

def upstream_resolver():
    """[(address, 53)] of the host's own resolver, [] if it has none but on its loopback."""
    return [(ip, 53) for ip in re.findall(r"(?m)^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", host_resolv_conf())
            if not ip.startswith("127.")][:1]

# -- names in files: /etc/hosts of each pod, /etc/resolv.conf of those that do not use the engine's resolver
def hosts_text(pod, services):
    """What a pod's /etc/hosts says. services: [(name, namespace, address)] of all Services with an address."""
    spec, own, (hostname, domain) = pod["spec"], pod["metadata"]["namespace"], pod_hostname(pod)
    ip = dig(pod, "status.podIP", "127.0.1.1")
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback",
             "fe00::0\tip6-localnet", "fe00::0\tip6-mcastprefix", "fe00::1\tip6-allnodes", "fe00::2\tip6-allrouters",
             f"{ip}\t{hostname}.{domain}\t{hostname}" if domain else f"{ip}\t{hostname}"]
    if spec.get("hostNetwork"):
        lines = ["# Kubernetes-managed hosts file (host network).", read_text("/etc/hosts").rstrip("\n")]
    if spec.get("hostAliases"):
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join([alias["ip"], *(alias.get("hostnames") or ())]) for alias in spec["hostAliases"]]
    if uses_cluster_dns(spec):
        for name, namespace, address in services:
            short = f"{name}.{namespace}" + (f" {name}" if namespace == own else "")
            lines.append(f"{address}\t{name}.{namespace}.svc.{CLUSTER_DOMAIN} {name}.{namespace}.svc {short}")
    return "\n".join(lines) + "\n"

def resolv_conf(pod, settings, host=None):
    """What a pod's /etc/resolv.conf says; None where the engine writes it, from Dns, DnsSearch and DnsOptions. host:
    the text of the host's, if not to be read here."""
    if uses_cluster_dns(pod["spec"]) and not pod["spec"].get("hostNetwork"):
        return None
    servers, searches, options = dns_config(pod, settings, host_resolv_conf() if host is None else host)
    return "".join([*(f"nameserver {server}\n" for server in servers), *(
        f"{word} {' '.join(values)}\n" for word, values in (("search", searches), ("options", options)) if values)])

def write_in_place(path, text, create=0):
    """Change a file that is mounted into a container, which must stay the same inode: one write, padded with newlines
    so that it never shrinks and no reader sees half of it. create: os.O_CREAT, else it must be there."""
    descriptor = os.open(path, os.O_RDWR | create, 0o644)
    try:
        data, size = text.encode(), os.fstat(descriptor).st_size
        if os.pread(descriptor, size, 0).rstrip(b"\n") != data.rstrip(b"\n"):
            os.pwrite(descriptor, data.ljust(size, b"\n"), 0)
    finally:
        os.close(descriptor)

# -- names by DNS
DNS_TYPES = {"A": 1, "CNAME": 5, "PTR": 12, "AAAA": 28, "SRV": 33, "ANY": 255}
NO_ERROR, NAME_ERROR, REFUSED = 0, 3, 5     # RFC 1035, 4.1.1

def dns_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"

def answer_dns(data, resolve):
    """The answer to one query, or None if it is none. resolve(name, type) -> (rcode, [(name, type, rdata)])."""
    labels, at = [], 12
    try:
        id_, flags, questions, _, _, additional = struct.unpack_from("!6H", data)
        while data[at]:
            labels.append(data[at + 1:at + 1 + data[at]].decode("ascii"))
            at += 1 + data[at]
        type_, _ = struct.unpack_from("!2H", data, at + 1)
    except (struct.error, ValueError, IndexError):            # it ends too soon
        return None
    if questions != 1 or flags & 0x8000 or any(len(label) > 63 for label in labels):
        return None
    code, records = resolve(".".join(labels).lower(), type_)
    question, limit, answers, count = data[12:at + 5], 1232 if additional else 512, b"", 0      # additional: EDNS
    for owner, kind, rdata in random.sample(records, len(records)):
        more = dns_name(owner) + struct.pack("!HHIH", kind, 1, 5, len(rdata)) + rdata
        if 12 + len(question) + len(answers) + len(more) <= limit:      # of very many, a different choice each time
            answers, count = answers + more, count + 1
    return struct.pack("!6H", id_, 0x8400 | flags & 0x0100 | code, 1, count, 0, 0) + question + answers

class Names:
    """What names mean, by the store: for DNS and for the hosts files. Any thread."""
    def __init__(self, settings, store):
        self.settings, self.store = settings, store
        self.changed, self.known = 0, (None, [])              # counts changes of Services; what they were at a count

    def services(self):
        """[(name, namespace, address)] of all Services with an address."""
        if self.known[0] != self.changed:       # read before the store is: a change meanwhile makes us look again
            self.known = self.changed, [(s["metadata"]["name"], s["metadata"]["namespace"], cluster_ip(s))
                                        for s in self.store.list("Service") if cluster_ip(s)]
        return self.known[1]

    def write_hosts(self, pod):
        path = pod_folder(self.settings, pod["metadata"]["uid"], "etc-hosts")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_in_place(path, hosts_text(pod, self.services()), os.O_CREAT)
        return path

    def resolve(self, name, type_):
        """(rcode, records) for answer_dns; REFUSED makes the engine's resolver ask the host's."""
        if name.endswith(".in-addr.arpa"):
            return self.reverse(name)
        ours = name.endswith("." + CLUSTER_DOMAIN) or name == CLUSTER_DOMAIN
        parts = (name[:-len(CLUSTER_DOMAIN) - 1] if ours else name).split(".")
        if not ours and parts[-1] != "svc":
            parts.append("svc")                               # "web.default": a short form, see dns_options
        records = self.records(parts, name) if len(parts) > 2 else None
        if records is not None:
            return NO_ERROR, [r for r in records if r[1] in (type_, DNS_TYPES["CNAME"]) or type_ == DNS_TYPES["ANY"]]
        return REFUSED if not ours else NO_ERROR if parts in ([""], ["svc"], ["svc", "svc"]) else NAME_ERROR, []

    def records(self, parts, name):
        """The records of PARTS under the cluster's domain, None if there is no such name."""
        address = lambda owner, ip: (owner, DNS_TYPES["A"], socket.inet_aton(ip))
        *front, service_name, namespace, what = parts
        service = self.store.get("Service", namespace, service_name) if what == "svc" else None
        if not service:
            return None
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return None if front else [(name, DNS_TYPES["CNAME"], dns_name(spec["externalName"]))]
        subsets = dig(self.store.get("Endpoints", namespace, service_name), "subsets", ())
        headless, base = spec.get("clusterIP") == "None", f"{service_name}.{namespace}.svc.{CLUSTER_DOMAIN}"
        places = ["addresses"] + ["notReadyAddresses"] * bool(spec.get("publishNotReadyAddresses"))
        hosts = [(a.get("hostname") or a["ip"].replace(".", "-"), a["ip"], subset)
                 for subset in subsets for place in places for a in subset.get(place) or ()]
        if not front:
            return [address(name, ip) for _, ip, _ in hosts] if headless else [address(name, spec["clusterIP"])]
        if len(front) == 1:
            return [address(name, ip) for host, ip, _ in hosts if host == front[0]] or None
        targets = [(f"{host}.{base}", subset) for host, _, subset in hosts] if headless else [(base, spec)]
        return [(name, DNS_TYPES["SRV"], struct.pack("!HHH", 0, 100, port["port"]) + dns_name(target))
                for target, having in targets for port in having.get("ports") or ()
                if front == [f"_{port.get('name')}", f"_{port.get('protocol', 'TCP').lower()}"]] or None

    def reverse(self, name):
        ip, ranges = ".".join(name.split(".")[-3::-1]), (self.settings.pod_cidr, self.settings.service_cidr)
        ours = is_address(ip) and any(ipaddress.ip_address(ip) in network for network in ranges)
        owners = [f"{service}.{namespace}.svc.{CLUSTER_DOMAIN}"
                  for service, namespace, address in self.services() if address == ip]
        code = NO_ERROR if owners else NAME_ERROR if ours else REFUSED
        return code, [(name, DNS_TYPES["PTR"], dns_name(owner)) for owner in owners]

# == 13. Probes and hooks ====================================================================
# What asks a container how it is, and what tells it that it has started or must stop: run_handler() does one action and
# blocks, the Prober decides when and what follows. Rules and words are the kubelet's (pkg/kubelet/prober, pkg/probe).
PROBES = {"startup": None, "readiness": False, "liveness": True}    # kind -> what holds before it has a result
OUTPUT_BYTES = 10 << 10                 # read of an answer's body or a command's output
HANDLERS = "exec", "httpGet", "tcpSocket", "grpc", "sleep"
HEALTH = "UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"     # grpc.health.v1.HealthCheckResponse.ServingStatus
KUBE_AGENT = "kube-{}/" + SERVES[1:].rpartition(".")[0]

def run_handler(k2d, pod, container, found, handler, timeout_s, purpose="probe"):
    """One exec, httpGet, tcpSocket, grpc or sleep: (True, "" or a warning), (False, what failed), or (None, why it
    could not be tried). purpose: "probe", or "lifecycle" for a hook. timeout_s None: no limit. Blocks its caller."""
    deadline = timeout_s and time.monotonic() + timeout_s
    kind, action = next((kind, handler[kind]) for kind in HANDLERS if handler.get(kind))
    if kind == "sleep":
        time.sleep(min(action["seconds"], timeout_s or action["seconds"]))
        return True, ""
    if kind == "exec":
        env = {entry["name"]: entry.get("value", "") for entry in container.get("env") or ()}
        words = [expand(word, env) if purpose == "probe" else word for word in action["command"]]
        return run_exec(k2d.engine, found.id, words, deadline, timeout_s)
    named = {port.get("name"): port["containerPort"] for port in container.get("ports") or ()}
    host, port = action.get("host") or dig(pod, "status.podIP", ""), action["port"]
    port = named.get(port, port)
    if not str(port).isdigit():
        return None, f'strconv.Atoi: parsing "{port}": invalid syntax'
    if kind == "httpGet":
        ok, text = get_http(action, host, port, deadline, purpose)
        plain = purpose == "lifecycle" and text.endswith("HTTP response to HTTPS client")
        return get_http({**action, "scheme": "HTTP"}, host, port, deadline, purpose) if plain else (ok, text)
    if kind == "grpc":
        return check_grpc(host, port, action.get("service", ""), deadline, timeout_s)
    try:
        dial(host, port, deadline).close()
        return True, ""
    except OSError as error:
        return False, str(error)

def dial(host, port, deadline):
    """A connection. Raises OSError in Go's words."""
    try:
        return socket.create_connection((host, port), deadline and max(deadline - time.monotonic(), 0.001))
    except OSError as error:
        late = isinstance(error, socket.timeout)
        raise OSError(f"dial tcp {host}:{port}: " + ("i/o timeout" if late else f"connect: {error.strerror}".lower()))

def pieces(sock, deadline):
    """What a socket receives until its end. Raises OSError, and socket.timeout at a deadline that is not None."""
    while deadline is None or time.monotonic() < deadline:
        sock.settimeout(deadline and max(deadline - time.monotonic(), 0.001))
        got = sock.recv(65536)
        if not got:
            return
        yield got
    raise socket.timeout("timed out")

def run_exec(engine, id_, command, deadline, timeout_s):
    try:
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": command}
        path = "/exec/" + engine.call("POST", f"/containers/{id_}/exec", body)["Id"]
        sock, _, data = engine.stream("POST", path + "/start", {"Detach": False, "Tty": False}, timeout=60)
        with sock, reaching_engine(), suppress(socket.timeout):
            for more in pieces(sock, deadline):
                data += more if len(data) < 1 << 16 else b""            # a frame of it has at most 32 KiB
        info = engine.call("GET", path + "/json")
        while info["Running"] and not (deadline and time.monotonic() > deadline):       # it may outlive its output
            time.sleep(0.05)
            info = engine.call("GET", path + "/json")
    except EngineError as error:
        return None, str(error)
    if info["Running"]:
        with suppress(ProcessLookupError):
            if info.get("Pid"):
                os.kill(info["Pid"], signal.SIGKILL)                    # the engine has no call to end an exec
        return False, f'command timed out: "{" ".join(command)}" timed out after {timeout_s}s'
    frames = sorted(log_frames(data, False)[0], key=lambda frame: frame[0])
    text = b"".join(text for _, text in frames)[:OUTPUT_BYTES].decode("utf-8", "replace")
    if info["ExitCode"] in (126, 127) and text.startswith("OCI runtime exec failed"):
        return None, text                                               # there is no such command
    return info["ExitCode"] == 0, text if info["ExitCode"] else ""

unverified_tls = lru_cache(1)(ssl._create_unverified_context)           # PEP 476

def get_http(action, host, port, deadline, purpose):
    """An httpGet; redirects are followed within the host. To a hook every answer is a good one."""
    path = urllib.parse.quote(action.get("path", "/").partition("#")[0].lstrip("/"), "/%?&=:;,+@!$'()*~[]")
    first = url = f"{action.get('scheme', 'HTTP').lower()}://{host}:{port}/{path}"
    headers = [(entry["name"].title(), re.sub(r"[\r\n]", " ", entry.get("value", "")))
               for entry in action.get("httpHeaders") or ()]
    defaults = ("User-Agent", KUBE_AGENT.format(purpose)), ("Accept", "*/*")
    headers += [each for each in defaults if each[0] not in dict(headers)]
    for _ in range(10):
        try:
            status, location, body = exchange_http(url, headers, deadline)
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            if isinstance(error, socket.timeout):
                text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            elif getattr(error, "reason", "") == "WRONG_VERSION_NUMBER":
                text = "http: server gave HTTP response to HTTPS client"
            return False, f'Get "{first}": {text}'
        url = urllib.parse.urljoin(url, location)
        moved = status in (301, 302, 303, 307, 308) and location
        if not moved or urllib.parse.urlsplit(url).hostname != host.lower():
            break
        if urllib.parse.urlsplit(location).netloc:
            headers = [each for each in headers if each[0] != "Host"]
    else:
        return False, f'Get "{first}": stopped after 10 redirects'
    if purpose == "lifecycle" or 200 <= status < 300:
        return True, ""
    return (True, f"Probe terminated redirects, Response body: {body}") if 300 <= status < 400 else (
        False, f"HTTP probe failed with statuscode: {status}")

def exchange_http(url, headers, deadline):
    """GET url: (status, Location, beginning of the body). Raises OSError, or ValueError for what is no HTTP."""
    parts, got, rest = urllib.parse.urlsplit(url), b"", []
    secure = parts.scheme == "https"
    sock = dial(parts.hostname, parts.port or (443 if secure else 80), deadline)
    with unverified_tls().wrap_socket(sock, server_hostname=parts.hostname) if secure else sock as sock:
        lines = [f"GET {urllib.parse.urlunsplit(('', '', *parts[2:4], '')) or '/'} HTTP/1.1", "Connection: close",
                 *([] if "Host" in dict(headers) else [f"Host: {parts.netloc}"]),
                 *(f"{name}: {value}" for name, value in headers if value or name != "Accept")]
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        for more in pieces(sock, deadline):
            got += more
            head, *rest = HEAD_END.split(got, 1)
            length = re.search(rb"(?mi)^content-length:[ \t]*(\d+)", head)
            size = min(int(length[1]), OUTPUT_BYTES) if length else OUTPUT_BYTES
            if len(got) > 1 << 16 or rest and (len(rest[0]) >= size or rest[0].endswith(b"0\r\n\r\n")):
                break                                       # all of it, the last chunk, or enough
    status = re.match(rb"HTTP/1\.\d (\d{3})\b", got)
    if not status or not rest:
        raise ValueError(f"malformed HTTP response {got[:40]!r}" if got else "EOF")
    location = re.search(rb"(?mi)^location:[ \t]*(\S+)", head) or (b"", b"")
    return int(status[1]), location[1].decode("latin-1"), rest[0][:OUTPUT_BYTES].decode("utf-8", "replace")

def http2_frame(type_, flags, stream, data):
    """RFC 9113, 4.1; of its types we know 0 DATA, 1 HEADERS, 3 RST_STREAM, 4 SETTINGS, 7 GOAWAY."""
    return struct.pack("!IBI", len(data) << 8 | type_, flags, stream) + data

def grpc_request(authority, service):
    """All that a client sends to call Health/Check: its preface, SETTINGS, HEADERS without compression, DATA."""
    fields = {":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Check", ":authority": authority,
              "content-type": "application/grpc", "te": "trailers", "user-agent": KUBE_AGENT.format("probe")}
    block = b"".join(b"\0%c%b%c%b" % (len(k), k.encode(), len(v), v.encode()) for k, v in fields.items())
    size, text = len(service.encode()), service.encode()
    message = b"\x0a" + (b"%c" % size if size < 128 else b"%c%c" % (size & 127 | 128, size >> 7)) + text
    return (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(4, 0, 0, b"") + http2_frame(1, 4, 1, block) +
            http2_frame(0, 1, 1, struct.pack("!BI", 0, len(message)) + message))

def grpc_status(data):
    """The number of the status in all that a server has sent; -1 if its call ended without one, None if it goes on."""
    message, at = b"", 0
    while len(data) - at >= 9:
        head, flags, _ = struct.unpack_from("!IBI", data, at)
        type_, end = head & 0xff, at + 9 + (head >> 8)
        if len(data) < end:
            break
        message += data[at + 9:end] if type_ == 0 else b""
        if len(message) >= 5 and len(message) >= 5 + struct.unpack_from("!I", message, 1)[0]:
            return message[6] if message[5:6] == b"\x08" else 0             # its field 1, left out when it is 0
        if type_ in (3, 7) or type_ in (0, 1) and flags & 1:
            return -1
        at = end
    return None

def check_grpc(host, port, service, deadline, timeout_s):
    data, status, what = b"", None, f'failed to connect service at "{host}:{port}"'
    try:
        with dial(host, port, deadline) as sock:
            what = "health rpc probe failed"
            sock.sendall(grpc_request(f"{host}:{port}", service))
            for more in pieces(sock, deadline):
                sock.sendall(b"" if data else http2_frame(4, 1, 0, b""))        # first come its SETTINGS: noted
                data += more
                status = grpc_status(data)
                if status is not None:
                    break
    except socket.timeout:
        return False, f"timeout: health rpc did not complete within {timeout_s}s"
    except OSError as error:
        return False, f"error: {what}: {error.strerror or error}"
    if status in (None, -1):
        return False, "error: health rpc probe failed: no such service, or no grpc.health.v1.Health"
    name = HEALTH[status] if status < len(HEALTH) else str(status)
    return name == "SERVING", "" if name == "SERVING" else f'service unhealthy (responded with "{name}")'

class Probe:
    """One probe of one run of a container; step() is all that the thresholds mean, and pure."""
    __slots__ = "kind", "result", "guessed", "last", "count"

    def __init__(self, kind, guessed=False):
        self.kind, self.guessed, self.last, self.count = kind, guessed, None, 0
        self.result = guessed or PROBES[kind]               # None: not known yet

    def step(self, ok, spec):
        """Count one outcome; returns whether it changed what holds."""
        before = self.result
        if self.guessed and not ok:                         # the truth, for which a threshold would be too late
            self.result = PROBES[self.kind]
        self.count, self.last, self.guessed = self.count + 1 if ok == self.last else 1, ok, False
        if self.count >= spec["successThreshold" if ok else "failureThreshold"]:
            self.result = ok
        return self.result != before

Run = namedtuple("Run", "began probes")         # of a container: its startedAt, {kind: Probe}

class Prober:
    """Probes the containers that want it. One that has run since before we came is taken to be as ready as it can be
    until its first probe, which comes at once: a restart of k2d makes nothing unready."""
    def __init__(self, k2d):
        self.k2d, self.began, self.runs = k2d, time.time(), {}      # (uid, container name) -> Run, replaced whole
        self.queue = WorkQueue("probe", self.probe_once, 8, k2d.hub)

    def watch(self, pod, container, found):
        """From now on probe this run of a container, which is running; cheap if that is under way."""
        key, began = (pod["metadata"]["uid"], container["name"]), seconds_of(found.started_at) or 0
        probes = {kind: Probe(kind, began < self.began - 10) for kind in PROBES if container.get(kind + "Probe")}
        if not probes or key in self.runs and self.runs[key].began == found.started_at:
            return
        run = self.runs[key] = Run(found.started_at, probes)
        self.schedule(pod, container, run, [kind for kind in probes if kind == "startup" or "startup" not in probes])

    def schedule(self, pod, container, run, kinds):
        """Have the first probes come: for readiness as soon as it may, else at a tick of a clock that began with the
        pod, as the kubelet's."""
        for kind in kinds:
            spec, present = container[kind + "Probe"], time.time()
            wait = max(0, (seconds_of(run.began) or 0) + spec.get("initialDelaySeconds", 0) - present)
            if kind == "liveness" or kind == "startup" and not run.probes[kind].guessed:
                wait += ((seconds_of(pod["status"].get("startTime")) or 0) - present - wait) % spec["periodSeconds"]
            self.queue.add_after(wait, (pod["metadata"]["uid"], container["name"], kind, run.began))

    def forget(self, uid, name=None):
        """Stop probing a container, or all of a pod."""
        for key in [key for key in list(self.runs) if key[0] == uid and name in (None, key[1])]:
            self.runs.pop(key, None)

    def state(self, uid, name):
        """(started, ready) of a running container that watch() has seen."""
        probes = self.runs[uid, name].probes if (uid, name) in self.runs else {}
        started, ready = (kind not in probes or bool(probes[kind].result) for kind in ("startup", "readiness"))
        return started, started and ready

    def probe_once(self, key):
        """One probe that is due, and what follows from it. Ends the probing of what has gone."""
        (uid, name, kind, began), pods, begun, ok = key, self.k2d.pods, time.monotonic(), None
        run, pod, found = self.runs.get((uid, name)), pods.pod_of(uid), pods.found.get(uid, {}).get(name)
        if not pod or found and not found.running:
            return self.forget(uid, name)
        if not run or run.began != began or is_deleting(pod) and kind != "readiness":
            return
        container = next(container for _, container in containers_of(pod["spec"]) if container["name"] == name)
        spec, probe, text = container[kind + "Probe"], run.probes[kind], ""
        for _ in range(3 if found and found.state == "running" else 0):     # else it is paused, or being looked at
            ok, text = run_handler(self.k2d, pod, container, found, spec, spec["timeoutSeconds"])
            if ok is not None:
                break
        if self.runs.get((uid, name)) is not run:
            return                                          # meanwhile it has got another run, or none
        if text or ok is False:
            what = {True: "warning", False: "failed", None: "errored and resulted in unknown state"}[ok]
            self.k2d.event(pod, "Warning", "ProbeWarning" if ok else "Unhealthy",
                           f"{kind.capitalize()} probe {what}: {text}", name)
        if ok is not None and probe.step(ok, spec) and kind != "liveness":
            pods.queue.add(key_of(pod))
        if kind == "startup" and ok:                        # that is all it is for; the others begin
            self.schedule(pod, container, run, [each for each in run.probes if each != "startup"])
        elif kind != "readiness" and probe.result is False:         # no more probes until it has another run
            pods.restart(pod, container, found, kind, spec.get("terminationGracePeriodSeconds"))
        else:
            self.queue.add_after(begun + spec["periodSeconds"] - time.monotonic(), key)

# == 14. Pod worker ==========================================================================
# Makes the engine's containers what the pods say, and the pods' statuses what the engine says. Everything is decided
# from what is there: a pass can be cut off between any two engine calls, and the next one goes on.
class WorkQueue:
    """Keys to work on, each once however often it was added, by at most so many threads that live only while there is
    work. A key is worked on by one thread at a time. Failures come back after a growing pause."""
    def __init__(self, name, work, threads, hub):
        self.name, self.work, self.threads, self.hub = name, work, threads, hub
        self.lock = threading.Lock()               # guards what follows; never held while working
        self.waiting, self.busy, self.due, self.failures, self.alive, self.closed = {}, set(), {}, {}, 0, False

    def add(self, key):
        with self.lock:
            self.waiting[key] = None
        self.allow(0)

    def allow(self, more):
        """Let so many more threads work at a time; start one if there is something to do for it."""
        with self.lock:
            self.threads += more
            if self.alive < min(self.threads, len(self.waiting) + len(self.busy)) and not self.closed:
                try:
                    threading.Thread(target=self.loop, name=self.name, daemon=True).start()
                    self.alive += 1
                except RuntimeError:                # no thread to be had now
                    self.hub.after(1, self.allow, 0)

    def add_after(self, seconds, key):
        """Add a key later, unless it comes up sooner anyway."""
        due = time.monotonic() + max(0, seconds)
        with self.lock:
            if self.due.get(key, due + 1) <= due:
                return
            self.due[key] = due
        self.hub.after(max(0, seconds), self.add_due, key, due)

    def add_due(self, key, due):
        if self.due.get(key) == due:                # else a sooner one has come in between
            self.due.pop(key, None)
            self.add(key)

    def loop(self):
        while True:
            with self.lock:
                key = next((key for key in self.waiting if key not in self.busy), None)     # in the order they came
                if key is None or self.closed:
                    self.alive -= 1
                    return
                del self.waiting[key]
                self.busy.add(key)
            problem = ""
            try:
                self.work(key)
            except (EngineError, ApiError) as error:
                problem = str(error) or "failed"
            except Exception:                       # one object's failure must not stop the others; it is tried again
                import traceback
                problem = traceback.format_exc()
            failures = self.failures.pop(key, 0) + 1
            if problem:
                self.failures[key] = failures
                log(f"{' '.join(map(str, key))}: {problem}")
                self.add_after(min(0.5 * 2 ** min(failures, 8), 60), key)
            with self.lock:
                self.busy.discard(key)

    def close(self):
        """Take no more work and wait, not long, for what is under way."""
        self.closed = True
        deadline = time.monotonic() + 5
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.02)

BACKOFF_S, BACKOFF_MAX_S = 10, 300          # the kubelet's, for pulls and for starts that fail
AUTOMOUNT_S = 3607                          # the life of a token that no pod asked for (its number is its mark) ...
TOKEN_S = 365 * 86400                       # ... which the API server extends to this
IMAGE_EVENTS = {"ErrImageNeverPull": "ErrImageNeverPull", "InvalidImageName": "InspectFailed"}   # reason -> its Event
EVENT_ACTIONS = ("create", "start", "die", "destroy", "rename", "update", "pause", "unpause", "oom")
ENDED = 404, 409            # the engine's answers where a container is gone, has stopped, or is being removed already

HOOK_GRACE_S = 2            # what a preStop hook that uses up the grace may still take (kubelet: minimumGracePeriod)
MESSAGE_BYTES = 4096        # of a termination message

def is_over(spec, found):
    """Whether a pod's containers have done their work, or failed, for good: only sidecars are left to be stopped."""
    def over(container, failed=False):
        f = found.get(container["name"])
        return f and (f.state in ("exited", "dead") or f.error) and (f.exit_code or not failed) and (
            not restarts(spec, container, f.exit_code))
    return all(map(over, spec["containers"])) or any(
        over(c, True) for c in spec.get("initContainers") or () if not is_sidecar(c))

def is_deleting(obj):
    return bool(obj["metadata"].get("deletionTimestamp"))
def has_ended(pod):
    return dig(pod, "status.phase") in ("Succeeded", "Failed")

class Pods:
    """The worker: reconcile(key) is one pass over one pod, key (namespace, name); ("", id) is a container that nobody
    has looked at yet, ("!gone", uid) a pod that was deleted by force and whose containers may still be there."""
    def __init__(self, k2d):
        self.k2d, self.settings, self.engine, self.store = k2d, k2d.settings, k2d.engine, k2d.store
        self.event, self.queue = k2d.event, WorkQueue("pods", self.reconcile, 4, k2d.hub)
        self.prober = Prober(k2d)
        self.lock = threading.Lock()            # guards the dicts below; never held across I/O
        self.found = {}                         # uid -> {container: Found}
        self.keys = {}                          # uid -> pod key, of every stored pod
        self.foreign = {}                       # container id -> pod key, of containers that are not ours
        self.stale = {}                         # key -> ids to inspect before the next pass
        self.exits = {}                         # id -> (exit code, time) of a `die` not yet digested
        self.removing = set()                   # ids that we are removing ourselves
        # By (uid, container): (reason, text) why it waits | how often it failed | until when, monotonic, it waits
        self.problems, self.tries, self.not_before = {}, {}, {}
        self.gone = {}                          # (uid, container) -> Found that was removed, for the next one's count
        self.pulls = {}                         # (uid, container) -> "on its way", "pulled", or how it went wrong
        self.hooked = {}                        # (uid, container) -> the run, (id, its start), that had its postStart
        self.hooking = set()                    # ids of containers that a hook is at work for
        self.stopping = {}                      # id -> monotonic time when it was told to stop
        self.lost_at, self.engine_began = None, 0       # when the engine hung up; when it started; Unix seconds
        self.known = False                      # whether the engine has been listed: without it, absence means nothing
        self.digested, self.undigested = False, set()   # whether all of the first list was looked at; what was not yet

    # -- what the engine tells
    def on_event(self, line):
        """One event of the engine, as JSON. The hub's thread: only notes what to look at."""
        event = json.loads(line)
        id_, action = dig(event, "Actor.ID") or event.get("id"), event.get("Action", "")
        said = dig(event, "Actor.Attributes", {})
        with self.lock:
            ours = self.keys.get(said.get(POD_UID))
            if ours and action == "create":
                return
            key = ours or self.foreign.get(id_, ("", id_))
            if action == "die":
                code = said.get("exitCode") or said.get("containerExitCode") or 0
                self.exits[id_] = int(code), event.get("timeNano", 0)
            self.look_at(key, id_)
        self.queue.add(key)

    def look_at(self, key, id_):
        """Inspect a container before the next pass. The caller holds the lock."""
        self.stale.setdefault(key, set()).add(id_)

    def list_all(self):
        """Look at every container anew: at start, and after the event stream was cut."""
        listed = {info["Id"]: info for info in self.engine.call("GET", "/containers/json?all=1")}
        # Docker makes its bridge anew at each start, which nothing else tells; a Podman that restarts ends nothing.
        bridge = self.engine.call("GET", "/networks/bridge", expect=(404,))
        self.engine_began = seconds_of(dig(bridge, "Created")) or 0
        with self.lock:
            self.found = {uid: {name: f for name, f in containers.items() if f.id in listed}
                          for uid, containers in self.found.items()}
            for id_, info in listed.items():
                self.look_at(self.keys.get(dig(info, ["Labels", POD_UID])) or self.foreign.get(id_, ("", id_)), id_)
            present = {id_[:32] for id_ in listed}
            for id_, pod in self.foreign_pods().items():
                if id_ not in present:                        # removed while we could not hear of it
                    self.keys[pod["metadata"]["uid"]] = key_of(pod)
            self.foreign = {id_: key for id_, key in self.foreign.items() if id_ in listed}
            self.known = True
            self.undigested = {*self.keys.values(), *self.stale, *(("!gone", uid) for uid in self.store.buried.copy())}
            keys = sorted(self.undigested)
        for key in keys:
            self.queue.add(key)
        self.digest_done(None)

    def foreign_pods(self):
        """{the first 32 digits of a container's id, of which a foreign pod's uid is made: that pod}"""
        return {pod["metadata"]["uid"].replace("-", ""): pod
                for pod in self.store.list("Pod", "default", holding=FOREIGN.encode())}

    def inspect(self, id_):
        return self.engine.call("GET", f"/containers/{id_}/json", expect=(404,))

    def refresh(self, key):
        """Inspect what events named for this key; returns whether a container of ours vanished, not removed by us."""
        with self.lock:
            ids, vanished = self.stale.pop(key, set()), False
        try:
            for id_ in sorted(ids):
                vanished |= self.refresh_one(id_)
                ids.discard(id_)
        finally:                                           # the engine went away in the middle: still to be done
            with self.lock:
                for id_ in ids:
                    self.look_at(key, id_)
        return vanished

    def refresh_one(self, id_):
        info = self.inspect(id_)
        labels = dig(info, "Config.Labels", {})
        uid = labels.get(POD_UID)
        with self.lock:
            exit_ = self.exits.pop(id_, None)
            if info is None:
                ours = {(owner, name): containers.pop(name) for owner, containers in self.found.items()
                        for name, f in list(containers.items()) if f.id == id_}
                self.gone.update(ours)
                vanished = bool(ours) and id_ not in self.removing
                self.stopping.pop(id_, None)
                self.removing.discard(id_)
                self.foreign.pop(id_, None)
                return vanished
            at = uid, labels.get(CONTAINER_NAME)
            before = self.found.get(uid, {}).get(at[1]) or self.gone.pop(at, None)
        if uid in self.keys:
            ended = exit_ or not info["State"].get("Running") and (not before or before.running)
            init = dig(self.pod_of(uid), "spec.initContainers", ())
            done = any(c["name"] == at[1] and not is_sidecar(c) for c in init)      # which is no reason to run it again
            if ended and not exit_ and not done and self.is_interruption(info["State"]):
                info["State"].update(ExitCode=137, Error=INTERRUPTED)
            words = self.last_words(*at, info, before) if ended else ""
            self.note(uid, Found(info, before, exit_, words))
        elif id_ not in self.removing:
            self.adopt(info, exit_)
        return False

    def is_interruption(self, state):
        """Whether a run that ended well, unseen, did so because the engine or the machine went down: it is not done."""
        at, boot = seconds_of(state.get("FinishedAt")), int(re.search(r"btime (\d+)", read_text("/proc/stat"))[1])
        since = (self.lost_at or self.engine_began - 60) - 30
        return bool(at) and state.get("ExitCode") == 0 and (at < boot or since <= at < self.engine_began)

    def note(self, uid, found):
        with self.lock:
            if uid in self.keys:
                self.found.setdefault(uid, {})[found.container] = found
            if found.running:
                self.problems.pop((uid, found.container), None)
        pod = self.pod_of(uid) if found.state == "restarting" else None
        if pod:
            namespace, name = key_of(pod)
            self.event(pod, "Warning", "BackOff", f"Back-off restarting failed container {found.container} in pod "
                       f"{name}_{namespace}({uid})", found.container)
        if found.running:
            self.k2d.network.set_hairpin()

    def last_words(self, uid, name, info, before):
        """The termination message of a run that has ended: what it wrote to its file, by policy the end of its log."""
        path, pod = self.file_of(uid, name, "termination-log"), self.pod_of(uid)
        container = pod and container_named(pod["spec"], name)
        if not container or not os.path.exists(path):
            return ""
        with open(path, "rb+") as file:
            words = file.read(MESSAGE_BYTES)
            if info["State"].get("Running") or info["State"].get("Restarting"):
                file.truncate(0)                                # the next run's
        if not words and container.get("terminationMessagePolicy") == "FallbackToLogsOnError" and (
                info["State"].get("ExitCode") or info["State"].get("Running")):
            since = before.run_began if before else ""
            query = "stdout=1&stderr=1&tail=80" + (f"&since={exact_seconds(since).lstrip('0')}" if since else "")
            sock, _, rest = self.engine.stream("GET", f"/containers/{info['Id']}/logs?{query}", timeout=10)
            with sock:
                frames, _ = log_frames(rest + drain(sock), bool(info["Config"].get("Tty")))
            words = b"".join(data for _, data in frames)[-2048:]
        return words.decode("utf-8", "replace")

    def file_of(self, uid, name, what):
        return pod_folder(self.settings, uid, "containers", name, what)

    def pod_of(self, uid):
        pod = self.store.get("Pod", *self.keys.get(uid, ("", "")))
        return pod if pod and pod["metadata"]["uid"] == uid else None

    def adopt(self, info, exit_):
        """Show a container that is not ours as a pod of namespace default, or bring that pod up to date."""
        id_, real_name = info["Id"], info["Name"].lstrip("/")
        with self.store.transaction():
            old = self.foreign_pods().get(id_[:32])
            taken = {name for _, name in self.store.keys("Pod", "default")}
            name = old["metadata"]["name"] if old else foreign_name(real_name, id_, taken)
            pod = from_docker_container(info, name, self.settings.node)
            if old:                                          # what clients wrote to its metadata stays
                pod.update(metadata=renamed(pod, old), status=old.get("status", {}))
            uid, container = pod["metadata"]["uid"], pod["spec"]["containers"][0]["name"]
            latest = Found(info, self.found.get(uid, {}).get(container), exit_)
            latest.container = container
            with self.lock:
                self.foreign[id_] = self.keys[uid] = "default", name
                self.found[uid] = {container: latest}
            pod["status"] = self.status(pod)
            self.store.put(KIND["Pod"], pod)
            service = from_docker_ports(info, pod, self.settings.host_ip)
            other = self.store.get("Service", "default", name)
            if service and (not other or is_published(other)):          # else a client's own has the name
                service["metadata"] = renamed(service, other) if other else service["metadata"]
                self.k2d.api.allocate(service, other)
                self.store.put(KIND["Service"], service)

    def reconcile(self, key):
        if not self.known:
            return
        if key[0] == "!gone":
            self.remove_leftovers(key[1])
            return self.digest_done(key)
        vanished = self.refresh(key)
        pod = self.store.get("Pod", *key) if key[0] else None
        if pod and key in self.undigested:
            self.publish(key, pod["metadata"]["uid"])         # what is there, before the rest of a pass may take long
        self.digest_done(key)
        if not pod:
            return
        uid, foreign, node = pod["metadata"]["uid"], is_foreign(pod), pod["spec"].get("nodeName")
        if node not in (None, self.settings.node) and self.store.row("Node", ("", node)):
            return                                            # bound to a node that somebody else has made: not ours
        found = self.found.get(uid, {})
        gone = foreign and not found and not self.inspect(uid.replace("-", ""))
        removed = vanished and not is_deleting(pod) and not has_ended(pod)
        if gone or removed and not any(c["name"] in found for c in pod["spec"]["containers"]):
            for f in list(found.values()):                    # `docker rm`, seen live: as if the pod had been deleted
                self.remove_container(f.id)
            return self.forget(pod)
        if is_deleting(pod):
            self.terminate(pod, found)
        elif not foreign and pod["spec"].get("nodeName") == self.settings.node and not has_ended(pod):
            if self.is_overdue(pod, found):
                return
            if not is_over(pod["spec"], found):
                self.bring_up(pod, found)
            elif not self.stop(pod, found):                   # sidecars have ended too
                self.remove_sandbox(found)
        self.publish(key, uid)

    def digest_done(self, key):
        """A key of the first list has been looked at; after the last one, what is absent is known to be so."""
        with self.lock:
            self.undigested.discard(key)
            first = not self.undigested and not self.digested
            self.digested |= first
        if first:
            self.k2d.controllers.start()
            self.k2d.ready.set()

    def publish(self, key, uid, ended=False):
        """Write the status that follows from what was found and what went wrong."""
        with self.store.transaction():
            pod = self.store.get("Pod", *key)
            if not pod or pod["metadata"]["uid"] != uid or has_ended(pod) or not pod["spec"].get("nodeName"):
                return
            pod["status"] = self.status(pod, ended)
            self.store.put(KIND["Pod"], pod)

    def status(self, pod, ended=False):
        uid = pod["metadata"]["uid"]
        found = self.found.get(uid, {})
        problems = {name: problem for (owner, name), problem in self.problems.copy().items() if owner == uid}
        def probed(name):
            here = found.get(name)
            return (False, False) if here and here.id in self.hooking and here.id not in self.stopping else \
                self.prober.state(uid, name)
        return pod_status(pod, found, problems, self.settings.host_ip, probed, ended)

    # -- what the pods want
    def bring_up(self, pod, found):
        """Start what should run by now and does not."""
        spec, uid, join = pod["spec"], pod["metadata"]["uid"], ""
        if not dig(pod, "status.podIP"):
            return                                  # bound by its maker: the scheduler has yet to give it an address
        if any(name != SANDBOX for name in found):
            self.update_sources(pod)
        if needs_sandbox(spec):
            sandbox = found.get(SANDBOX)
            if not sandbox or not sandbox.running:
                return self.bring_up_one(pod, {"name": SANDBOX, "image": SANDBOX_IMAGE}, sandbox)
            join = sandbox.id
            for f in found.values():                # in the namespaces of a sandbox that is no more
                if f.running and exact_seconds(f.started_at) < exact_seconds(sandbox.started_at):
                    self.engine.call("POST", f"/containers/{f.id}/restart?t=1", expect=ENDED)
        begun = any(c["name"] in found for c in spec["containers"])
        for container in spec.get("initContainers") or ():
            here = found.get(container["name"])
            if begun and not is_sidecar(container) or here and here.state == "exited" and here.exit_code == 0 and (
                    not is_sidecar(container)):
                continue
            self.bring_up_one(pod, container, here, join)
            if not begun and not (is_sidecar(container) and here and here.running and
                                  here.id not in self.hooking and self.prober.state(uid, container["name"])[0]):
                return                              # the next in turn waits for this one
        for container in (*spec["containers"], *(spec.get("ephemeralContainers") or ())):
            here = found.get(container["name"])
            self.bring_up_one(pod, container, here, join)
            if dig(container, "lifecycle.postStart") and (
                    not here or here.state == "created" or here.id in self.hooking):
                return                              # the hook comes before the next container

    def bring_up_one(self, pod, container, here, join=""):
        """Create and start one container unless that is done, or has to wait."""
        uid, name = pod["metadata"]["uid"], container["name"]
        at = uid, name
        if here and here.image != container["image"]:
            return self.replace(pod, container, here)
        if here and here.running and name != SANDBOX:
            self.prober.watch(pod, container, here)
            self.after_start(pod, container, here)
        failed = here and here.state == "exited" and here.error and restarts(pod["spec"], container, 128)
        if here and here.state != "created" and not failed and not (name == SANDBOX and here.state == "exited"):
            return                                  # it runs, or the engine restarts it, or somebody stopped it
        wait, (reason, text) = self.not_before.get(at, 0) - time.monotonic(), self.problems.get(at, ("", ""))
        if wait > 0:
            self.queue.add_after(wait + 0.05, key_of(pod))
            if reason == "ErrImagePull":
                pause = f'Back-off pulling image "{container["image"]}"'
                self.problems[at] = "ImagePullBackOff", f"{pause}: {text}"
                self.event(pod, "Normal", "BackOff", pause, name)
                self.event(pod, "Warning", "Failed", "Error: ImagePullBackOff", name)
            return
        try:
            id_ = here.id if here else self.create(pod, container, join)
            if not id_:
                return                              # its image is being pulled
            if here and name != SANDBOX:
                self.mounts(pod, container)         # what is in /run is gone after a reboot
            if not self.pod_of(uid):                # deleted by force meanwhile
                return self.queue.add(("!gone", uid))
            with self.lock:                         # the next pass knows it, even if its events come later
                self.look_at(key_of(pod), id_)
            self.start(pod, container, id_)
            for state in (self.problems, self.tries, self.not_before):
                state.pop(at, None)
            if name == SANDBOX or dig(container, "lifecycle.postStart"):
                self.queue.add(key_of(pod))
        except ConfigError as error:
            self.fail(pod, container, error.reason, str(error))

    def replace(self, pod, container, found):
        """A container's image was changed in the pod: end it; the next pass makes it anew."""
        if found.id not in self.stopping:
            self.event(pod, "Normal", "Killing", f"Container {found.container} definition changed, will be restarted",
                       found.container)
        if not self.stop(pod, {found.container: found}):
            self.remove_container(found.id)

    # -- hooks, and the end of a run
    def after_start(self, pod, container, found):
        """Run the postStart hook of a run that has just begun; of one that we find at our start it has been run."""
        hook, at, run = dig(container, "lifecycle.postStart"), (pod["metadata"]["uid"], found.container), (
            found.id, found.started_at)
        if not hook or self.hooked.get(at) == run:
            return
        self.hooked[at] = run
        if self.digested:
            self.run_hook(pod, container, found, "postStart", None, lambda ok: ok or self.restart(
                pod, container, found, "FailedPostStartHook"))

    def run_hook(self, pod, container, found, which, timeout_s, then):
        """Run a lifecycle hook in a thread of its own, as it may take long, and then(whether it went well)."""
        def work():
            ok, text = run_handler(self.k2d, pod, container, found, container["lifecycle"][which], timeout_s,
                                   "lifecycle")
            if not ok:          # its words might hold a secret: they are not told
                kind = which[0].upper() + which[1:]
                self.event(pod, "Warning", f"Failed{kind}Hook", f"{kind}Hook failed", found.container)
            self.hooking.discard(found.id)
            then(ok)
            self.queue.add(key_of(pod))
        self.hooking.add(found.id)
        threading.Thread(target=work, name="hook", daemon=True).start()

    def restart(self, pod, container, found, why, grace_s=None):
        """End a run so that the engine begins the next by its policy, which a stop by its API would forbid; the engine
        takes a signal from outside for an exit of the container's own."""
        if why in ("liveness", "startup"):
            why = f"Container {found.container} failed {why} probe, will be restarted"
        self.event(pod, "Normal", "Killing", why, found.container)
        grace_s = pod["spec"].get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
        try:
            process = os.pidfd_open(found.pid)      # whoever gets its number later is not hit
        except OSError:                             # it has ended already
            return
        def send(number, then=lambda: None):
            try:
                signal.pidfd_send_signal(process, number)
            except ProcessLookupError:              # it has ended in time
                return then()
            then()
        def end(_=True):
            self.hooking.discard(found.id)
            send(getattr(signal, (dig(self.inspect(found.id), "Config.StopSignal") or "SIGTERM"), signal.SIGTERM))
            self.k2d.hub.after(grace_s, send, signal.SIGKILL, lambda: os.close(process))
        if dig(container, "lifecycle.preStop") and grace_s > 0:
            return self.run_hook(pod, container, found, "preStop", grace_s, end)
        end()

    def update_sources(self, pod):
        """Show a running pod the present ConfigMaps and Secrets; files whose source is gone stay as they are."""
        if any(FROM_API & volume.keys() for volume in pod["spec"].get("volumes") or ()):
            try:
                prepare_volumes(pod, self.settings, self.lookup(pod), FROM_API)
            except ConfigError as error:
                self.event(pod, "Warning", "FailedMount", str(error))

    def fail(self, pod, container, reason, text):
        """Note why a container does not run, tell it as an event, come back after a pause or when its cause changes."""
        at, name = (pod["metadata"]["uid"], container["name"]), container["name"]
        self.problems[at] = reason, "" if reason == "ContainerCreating" else text
        if name == SANDBOX or reason == "FailedCreatePodSandBox":
            self.problems.pop(at)
            self.event(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {text}")
        elif reason == "ContainerCreating":
            self.problems.pop(at)
            self.event(pod, "Warning", "FailedMount", text)
        else:
            if reason in IMAGE_EVENTS:
                self.event(pod, "Warning", IMAGE_EVENTS[reason], text, name)
            self.event(pod, "Warning", "Failed", f"Error: {reason if 'Image' in reason else text}", name)
        if reason in ("CreateContainerConfigError", "ContainerCreating") and "not found" in text:
            return                                              # the missing object's arrival wakes us
        tries = self.tries[at] = self.tries.get(at, 0) + 1
        pause = min(BACKOFF_S * 2 ** (tries - 1), BACKOFF_MAX_S)
        self.not_before[at] = time.monotonic() + pause
        self.queue.add_after(pause + 0.05, key_of(pod))
        if reason == "ErrImagePull":
            self.queue.add_after(2, key_of(pod))                # time to see the error before it becomes a back-off

    def retry(self, uid):
        """What a pod's containers waited for may have come."""
        self.drop(uid, self.not_before)

    @staticmethod
    def drop(uid, *states):
        """Forget what is known by (uid, container)."""
        for state in states:
            for at in [at for at in state.copy() if at[0] == uid]:
                state.pop(at, None)

    def lookup(self, pod):
        """The function (kind, name) -> what volumes and environment are made from: the data of a ConfigMap or Secret,
        a token of kind Token, another object as it is; None if there is none."""
        def find(kind, name):
            if kind == "Token":
                return self.token(pod, *name)
            obj = self.store.get(kind, pod["metadata"]["namespace"] if KIND[kind].namespaced else "", name)
            return data_of(obj) if kind in ("ConfigMap", "Secret") else obj
        return find

    def token(self, pod, volume, source):
        """The service account token of a pod's volume: the present one, while it is good for a fifth of its life."""
        meta, access, name = pod["metadata"], self.k2d.access, pod["spec"].get("serviceAccountName", "default")
        seconds, audience, now_s = source["expirationSeconds"], source.get("audience") or access.issuer, time.time()
        if seconds == AUTOMOUNT_S and audience == access.issuer:
            seconds = TOKEN_S
        try:
            with open(pod_folder(self.settings, meta["uid"], "volumes", volume, source["path"]), "rb") as file:
                present = file.read()
        except OSError:
            present = b""
        claims = access.read_token(present.decode("ascii", "replace")) or {"iat": 0, "exp": 0}
        renew = claims["iat"] + 0.8 * (claims["exp"] - claims["iat"])
        if renew <= now_s:
            account = self.store.get("ServiceAccount", meta["namespace"], name)
            if not account:
                raise ConfigError(f'serviceaccount "{name}" not found')
            bound = {"kind": "Pod", **pick(meta, ("name", "uid"))}
            present, renew = access.make_token(account, seconds, [audience], bound).encode(), now_s + 0.8 * seconds
        left = renew - now_s
        if self.queue.due.get(key_of(pod), float("inf")) > time.monotonic() + left + 2:      # else one is on its way
            self.queue.add_after(left + 1, key_of(pod))
        return present

    def allocatable(self):
        """What the node has for its pods, {resource: quantity}."""
        return dig(self.store.get("Node", "", self.settings.node), "status.allocatable", {})

    def files(self, pod, container):
        """The files that k2d itself mounts into a container: {what: path}."""
        uid, s = pod["metadata"]["uid"], self.settings
        files, resolv = {}, resolv_conf(pod, s)
        os.makedirs(pod_folder(s, uid), exist_ok=True)
        if not pod["spec"].get("hostNetwork"):
            files["etc-hosts"] = self.k2d.names.write_hosts(pod)
        if resolv:
            files["resolv-conf"] = pod_folder(s, uid, "resolv.conf")
            write_file(files["resolv-conf"], resolv.encode(), 0o644)
        if container.get("terminationMessagePath"):
            path = files["termination-log"] = self.file_of(uid, container["name"], "termination-log")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                os.fchmod(file.fileno(), 0o666)                 # whoever the container runs as
        return files

    def mounts(self, pod, container):
        """(environment, sources) of a container, with all that it mounts in its place. Raises ConfigError."""
        lookup, cluster = self.lookup(pod), service_environment(pod, self.store.list("Service"))
        sources = prepare_volumes(pod, self.settings, lookup)
        env = environment(pod, container, lookup, self.settings.host_ip, cluster, self.allocatable())
        return env, hold_subpaths(pod, container, env, sources)

    def create(self, pod, container, join=""):
        """Create the container of a pod, pulling its image if need be: its id. Raises ConfigError, EngineGone."""
        image, policy, s = container["image"], container.get("imagePullPolicy", "IfNotPresent"), self.settings
        spec, name, found = pod["spec"], container["name"], self.found.get(pod["metadata"]["uid"], {})
        tell = lambda *words: self.event(pod, *words, name)
        if name == SANDBOX:
            self.engine.ensure_sandbox()
            body, tell = to_docker_sandbox(pod, self.files(pod, container), s), lambda *words: None
        else:
            env, sources = self.mounts(pod, container)
            sources.update(self.files(pod, container))
            first, target = found.get(spec["containers"][0]["name"]), found.get(container.get("targetContainerName"))
            if "targetContainerName" in container and not join:
                join = first.id if first else ""
            body = to_docker_container(pod, container, env, sources, s, join, target.id if target else "",
                                       container in (spec.get("initContainers") or ()))
        runtime = self.store.get("RuntimeClass", "", spec.get("runtimeClassName", ""))
        if runtime:
            body["HostConfig"]["Runtime"] = runtime["handler"]
        at = pod["metadata"]["uid"], name
        pulled = self.pulls.get(at)
        if isinstance(pulled, ConfigError):
            raise self.pulls.pop(at)
        if pulled == "on its way":
            return None
        if policy == "Always" and not pulled:
            return self.start_pull(pod, container, tell)
        try:
            self.check_user(pod, container, body)
            path = "/containers/create?name=" + urllib.parse.quote(container_name(pod, container["name"]))
            id_ = self.engine.call("POST", path, body)["Id"]
        except EngineGone:
            raise
        except EngineError as error:
            if error.status == 404 and "image" in str(error).lower():
                if policy == "Never":
                    raise ConfigError(f'Container image "{image}" is not present with pull policy of Never',
                                      "ErrImageNeverPull")
                return self.start_pull(pod, container, tell)
            if error.status == 409:
                return self.same_name(pod, container)
            if "invalid reference format" in str(error):
                raise ConfigError(f'Failed to apply default image tag "{image}": couldn\'t parse image name '
                                  f'"{image}": invalid reference format', "InvalidImageName")
            raise ConfigError(str(error), "CreateContainerError")
        if not self.pulls.pop(at, None):
            tell("Normal", "Pulled", f'Container image "{image}" already present on machine')
        tell("Normal", "Created", "Container created")
        return id_

    def image(self, name):
        return self.engine.call("GET", f"/images/{urllib.parse.quote(name)}/json")

    def check_user(self, pod, container, body):
        """What only the image tells of the user: whether runAsNonRoot holds, and whom a runAsGroup without runAsUser is
        for (goes into the body of the create call). Raises ConfigError in the kubelet's words, EngineError."""
        both, meta = security_context(pod, container), pod["metadata"]
        uid, why = both.get("runAsUser"), ""
        if uid is None and (both.get("runAsNonRoot") or both.get("runAsGroup") is not None):
            user = (dig(self.image(container["image"]), "Config.User") or "0").partition(":")[0]
            body["User"] = f"{user}:{both['runAsGroup']}" if both.get("runAsGroup") is not None else body["User"]
            why = ("" if user.isdigit() and int(user) else "image will run as root" if user.isdigit() else
                   f"image has non-numeric user ({user}), cannot verify user is non-root")
        if both.get("runAsNonRoot") and (uid == 0 or why):
            why = f"container has runAsNonRoot and {why}" if why else "container's runAsUser breaks non-root policy"
            raise ConfigError(f'{why} (pod: "{meta["name"]}_{meta["namespace"]}({meta["uid"]})", container: '
                              f'{container["name"]})')

    def start_pull(self, pod, container, tell):
        """Pull an image in a thread of its own, so that it holds up nobody; it comes back to the pod by the queue."""
        self.pulls[pod["metadata"]["uid"], container["name"]] = "on its way"
        threading.Thread(target=self.pull, args=(pod, container, tell), name="pull", daemon=True).start()

    def pull(self, pod, container, tell):
        image, began, lookup, due = container["image"], time.monotonic(), self.lookup(pod), [10]
        secrets = {ref["name"]: lookup("Secret", ref["name"])
                   for ref in pod["spec"].get("imagePullSecrets") or () if ref.get("name")}
        missing = ", ".join(name for name, data in secrets.items() if data is None)

        def progress(there, known):
            if time.monotonic() - began > due[0]:               # seldom, and ever more so: events push out each other
                due[0] *= 2
                tell("Normal", "Pulling", f'Pulling image "{image}": {there >> 20} of {known >> 20} MiB')
        tell("Normal", "Pulling", f'Pulling image "{image}"')
        if missing:
            tell("Warning", "FailedToRetrieveImagePullSecret",
                 f"Unable to retrieve some image pull secrets ({missing}); attempting to pull the image may not "
                 "succeed.")
        try:
            self.pull_by_any(image, logins(image, filter(None, secrets.values())) or [None], progress)
            info, took = self.image(image), f"{time.monotonic() - began:.3g}s"
            tell("Normal", "Pulled", f'Successfully pulled image "{image}" in {took} ({took} including waiting). '
                 f"Image size: {info.get('Size', 0)} bytes.")
            result, ours = "pulled", self.engine.call("GET", "/version").get("Arch")
            if info.get("Architecture", ours) != ours:
                tell("Warning", "Failed", f'Image "{image}" is made for {info["Architecture"]}, this node is {ours}')
        except EngineError as error:
            tell("Warning", "Failed", f'Failed to pull image "{image}": {error}')
            result = ConfigError(str(error), "ErrImagePull")
        else:
            self.k2d.hub.guard(self.k2d.update_node, True)      # its images
        if self.pod_of(pod["metadata"]["uid"]):                 # else it was deleted meanwhile
            self.pulls[pod["metadata"]["uid"], container["name"]] = result
        self.queue.add(key_of(pod))

    def pull_by_any(self, image, candidates, progress):
        """Pull with the first of some logins that the registry takes. Raises EngineError of the last one."""
        for login in candidates:
            try:
                return self.engine.pull(image, login, progress)
            except EngineError as error:
                problem = error
        raise problem

    def same_name(self, pod, container):
        """The name is taken: by a container of this very pod (a pass was cut off), or by one that must go first."""
        name = container_name(pod, container["name"])
        info = self.inspect(name)
        uid = dig(info, ["Config", "Labels", POD_UID])
        if info and uid == pod["metadata"]["uid"]:
            return info["Id"]
        if uid and (uid in self.keys or uid in self.store.buried):
            self.queue.add_after(1, key_of(pod))
            raise ConfigError("the container of a deleted pod of this name is being removed", "ContainerCreating")
        raise ConfigError(f"the container name {name} is in use by a container that is not this pod's; "
                          "rename or remove it", "CreateContainerError")

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
            info = self.inspect(id_)
            if info:
                self.note(pod["metadata"]["uid"], Found(info))
            raise ConfigError(str(error), "RunContainerError")

    def move(self, pod, id_):
        """Give a pod another address: somebody else on its network has taken the first."""
        with self.store.transaction():
            present = self.pod_of(pod["metadata"]["uid"])
            if present:
                present["status"].pop("podIPs", None)
                present["status"]["podIP"] = self.k2d.network.allocate()
                self.store.put(KIND["Pod"], present)
        self.remove_container(id_)

    def remove_container(self, id_):
        with self.lock:
            self.removing.add(id_)
        self.engine.call("DELETE", f"/containers/{id_}?force=1&v=1", expect=ENDED)

    def is_overdue(self, pod, found):
        """Whether a pod has run for its activeDeadlineSeconds; then it is stopped, and fails."""
        limit = pod["spec"].get("activeDeadlineSeconds")
        if not limit:
            return False
        left = (seconds_of(dig(pod, "status.startTime")) or time.time()) + limit - time.time()
        if left > 0:
            self.queue.add_after(left + 0.05, key_of(pod))
            return False
        if not self.stop(pod, found, left + pod["spec"].get("terminationGracePeriodSeconds", 30)):
            self.remove_sandbox(found)
            with self.store.transaction():
                present = self.pod_of(pod["metadata"]["uid"])
                if present:
                    present["status"] = {**self.status(present, True), "phase": "Failed", "reason": "DeadlineExceeded",
                                         "message": "Pod was active on the node longer than the specified deadline"}
                    self.store.put(KIND["Pod"], present)
        return True

    def terminate(self, pod, found):
        """One step of a graceful deletion: ask to stop, wait for the exit or the end of the grace, kill, remove."""
        if not self.stop(pod, found, (seconds_of(pod["metadata"]["deletionTimestamp"]) or 0) - time.time()):
            self.publish(key_of(pod), pod["metadata"]["uid"], True)     # its watchers see how it ended
            for f in sorted(found.values(), key=lambda f: f.container == SANDBOX):
                self.remove_container(f.id)
            self.forget(pod)

    def remove_sandbox(self, found):
        if SANDBOX in found:
            self.remove_container(found[SANDBOX].id)

    def stop(self, pod, found, left=None):
        """One step of the end of a pod's containers: ask the regular ones, after them the sidecars, the last one first;
        kill what still runs when no seconds are left (None: of the pod's grace since the first was asked). Returns what
        is not down yet."""
        up = {name: f for name, f in found.items() if name != SANDBOX and (f.running or f.state == "restarting")}
        if left is None:
            began = min([self.stopping.get(f.id, time.monotonic()) for f in found.values()])
            left = began + pod["spec"].get("terminationGracePeriodSeconds", 30) - time.monotonic()
        last = [c["name"] for c in sidecars_of(pod["spec"])]
        turn = [f for name, f in up.items() if name not in last] or [up[name] for name in last[::-1] if name in up][:1]
        for f in turn if left > 0 else up.values():
            if f.id not in self.stopping:
                self.stopping[f.id] = time.monotonic()
                self.ask_to_stop(pod, f, left)
            elif left <= (-HOOK_GRACE_S if f.id in self.hooking else 0):
                self.signal(f, "KILL")
                continue
            self.queue.add_after(left + HOOK_GRACE_S * (f.id in self.hooking), key_of(pod))
        return up

    def ask_to_stop(self, pod, found, left):
        """Tell a container to end and not to come back: its preStop hook, then its stop signal."""
        # Podman 4.3 has no such call and answers 404.
        self.engine.call("POST", f"/containers/{found.id}/update", {"RestartPolicy": {"Name": "no"}}, ENDED)
        if found.state == "restarting":             # between two runs there is nobody to tell
            self.engine.call("POST", f"/containers/{found.id}/stop?t=0", expect=ENDED)
            with self.lock:
                self.look_at(key_of(pod), found.id)
            return self.queue.add(key_of(pod))
        self.event(pod, "Normal", "Killing", f"Stopping container {found.container}", found.container)
        container = container_named(pod["spec"], found.container)
        say = lambda ok: self.signal(found, dig(self.inspect(found.id), "Config.StopSignal") or "SIGTERM")
        if dig(container, "lifecycle.preStop") and left > 0:
            return self.run_hook(pod, container, found, "preStop", left, say)
        say(True)

    def signal(self, found, name):
        if found.state == "paused":
            self.engine.call("POST", f"/containers/{found.id}/unpause", expect=ENDED)
        self.engine.call("POST", f"/containers/{found.id}/kill?signal={name}", expect=ENDED)

    def forget(self, pod):
        """Remove a pod whose containers are gone; one with finalizers stays until they are taken off."""
        uid = pod["metadata"]["uid"]
        self.remove_files(uid)
        with self.store.transaction():
            present = self.pod_of(uid)
            if present and not present["metadata"].get("finalizers"):
                self.store.remove(KIND["Pod"], present)

    def remove_files(self, uid):
        try:
            remove_volumes(self.settings, uid)
        except OSError as error:                # a mount that is in use, say: no reason to keep the pod
            log(f"files of pod {uid}: {error}")

    def remove_leftovers(self, uid):
        """The containers and files of a pod that is no longer stored."""
        filters = urllib.parse.quote(json.dumps({"label": [f"{POD_UID}={uid}"]}))
        for info in self.engine.call("GET", "/containers/json?all=1&filters=" + filters):
            self.remove_container(info["Id"])
        self.remove_files(uid)
        with self.lock:
            self.found.pop(uid, None)
            self.keys.pop(uid, None)
        self.store.unbury(uid)

    def on_pod(self, change):
        """A pod was stored, changed or removed, mostly by others than this worker. Any thread, in the transaction."""
        uid, deleted = json.loads(change.raw)["metadata"]["uid"], change.type == "DELETED"
        gone = deleted and uid in self.store.buried
        with self.lock:
            if not deleted:
                self.keys[uid] = change.key
            else:                               # a buried pod's containers are still known by its uid
                self.prober.forget(uid)
                known = () if gone else (self.keys, self.found)
                for state in known:
                    state.pop(uid, None)
                self.drop(uid, self.problems, self.tries, self.not_before, self.pulls, self.hooked, self.gone)
                self.prober.forget(uid)
        if threading.current_thread().name != self.queue.name:
            self.queue.add(change.key)
        if gone:
            self.queue.add(("!gone", uid))

    def load(self):
        """Know the stored pods, and what a force-deleted one left behind, before the engine is listed."""
        self.keys = {uid: ("!gone", uid) for uid in self.store.buried}
        self.keys.update((pod["metadata"]["uid"], key_of(pod)) for pod in self.store.list("Pod") if not is_foreign(pod))
        folder = self.settings.path("pods")
        for uid in os.listdir(folder) if os.path.isdir(folder) else ():
            if uid not in self.keys:
                self.remove_files(uid)

# == 15. Scheduler ===========================================================================
# Pure: whether a pod may go to the node, by kube-scheduler's plugins, in their order and words. Containers of others
# count with their ports and labels, for these are in use; they have reserved nothing, and nobody may evict them.
View = namedtuple("View", "pods namespaces")            # the node's pods that have not ended, {namespace: labels}
CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}

def labels_of(obj):
    return dig(obj, "metadata.labels", {})
def priority_of(pod):
    return pod["spec"].get("priority") or 0
def required_terms(pod, which):
    found = dig(pod, f"spec.affinity.{which}.requiredDuringSchedulingIgnoredDuringExecution", ())
    return dig(found, "nodeSelectorTerms", ()) if which == "nodeAffinity" else found

def tolerance(pod, taint):
    """The toleration by which a pod bears a taint, or None."""
    return next((t for t in pod["spec"].get("tolerations") or () if t.get("effect") in (None, "", taint["effect"]) and
                 t.get("key") in (None, "", taint["key"]) and
                 (t.get("operator") == "Exists" or t.get("value", "") == taint.get("value", ""))), None)

def is_repelled(pod, node, effects=("NoSchedule", "NoExecute")):
    return any(t["effect"] in effects and not tolerance(pod, t) for t in node["spec"].get("taints") or ())

def meets(expression, labels):
    """Whether labels, or fields, meet a NodeSelectorRequirement."""
    if expression["operator"] not in ("Gt", "Lt"):
        return selects(selector_of({"matchExpressions": [expression]}), labels)
    pair = labels.get(expression["key"], ""), *expression["values"][:1]
    first, second = pair if expression["operator"] == "Gt" else pair[::-1]
    return all(re.fullmatch(r"-?\d+", each) for each in pair) and int(first) > int(second)

def is_wanted(pod, node):
    """Whether nodeSelector and one of the required terms mean a node; an empty term means none."""
    labels, fields = labels_of(node), {"metadata.name": node["metadata"]["name"]}
    tests = [[(e, labels) for e in term.get("matchExpressions") or ()] +
             [(e, fields) for e in term.get("matchFields") or ()] for term in required_terms(pod, "nodeAffinity")]
    return selects(selector_of(pod["spec"].get("nodeSelector")), labels) and (
        not tests or any(test and all(meets(*each) for each in test) for test in tests))

def host_ports(pod):
    """[(address, protocol, number)] of the ports that a pod takes of its node."""
    return [(p.get("hostIP") or "0.0.0.0", p.get("protocol", "TCP"), p["hostPort"])
            for c in (*sidecars_of(pod["spec"]), *pod["spec"]["containers"])
            for p in c.get("ports") or () if p.get("hostPort")]

def lacks_ports(pod, view):
    wanted = host_ports(pod)
    taken = [port for other in view.pods for port in host_ports(other)] if wanted else ()
    return any(a[1:] == b[1:] and (a[0] == b[0] or "0.0.0.0" in (a[0], b[0])) for a in wanted for b in taken)

def pod_requests(pod):
    """Counter {resource: units of 10^-9} of what a pod reserves (component-helpers/resource, PodRequests; KEP-753)."""
    spec, sidecars, peak = pod["spec"], Counter(), Counter()
    amounts = lambda resources: Counter({name: quantity_nanos(each) for name, each in (resources or {}).items()})
    asked = lambda container: amounts(dig(container, "resources.requests"))
    for container in spec.get("initContainers") or ():
        peak |= sidecars + asked(container)                 # what is needed while this one starts
        if is_sidecar(container):
            sidecars += asked(container)
    return (sum(map(asked, spec["containers"]), sidecars) | peak) + amounts(spec.get("overhead"))

def lacks_resources(pod, node, view):
    """[(resource, requested, used, capacity)] of what a node has too little of, CPUs in thousandths."""
    others, wanted = [p for p in view.pods if not is_foreign(p)], pod_requests(pod)
    wanted["pods"], used = 10 ** 9, sum(map(pod_requests, others), Counter(pods=len(others) * 10 ** 9))
    has = {name: quantity_nanos(amount) for name, amount in (node["status"].get("allocatable") or {}).items()}
    names = dict.fromkeys(("pods", "cpu", "memory", "ephemeral-storage", *sorted(wanted)))
    rows = [(name, *(-(-amounts.get(name, 0) // 10 ** (6 if name == "cpu" else 9)) for amounts in (wanted, used, has)))
            for name in names]
    return [row for row in rows if 0 < row[1] > row[3] - row[2]]

def is_selected(selector, pod):
    """Whether a LabelSelector, which selects nothing if it is absent, selects a pod."""
    return selector is not None and selects(selector_of(selector), labels_of(pod))

def spread_constraints(pod):
    return [c for c in pod["spec"].get("topologySpreadConstraints") or () if c["whenUnsatisfiable"] == "DoNotSchedule"]

def is_crowded(pod, view):
    """Whether pods would be spread unevenly: as the node is the only domain, just where there should be more."""
    alike = [p for p in view.pods if key_of(p)[0] == key_of(pod)[0] and not is_deleting(p)]
    return any(sum(is_selected(c.get("labelSelector") or None, p) for p in (*alike, pod)) > c["maxSkew"]
               for c in spread_constraints(pod) if (c.get("minDomains") or 1) > 1)

def means(term, owner, pod, view):
    """Whether a PodAffinityTerm of the pod owner means another pod."""
    namespace, names, selector = pod["metadata"]["namespace"], term.get("namespaces"), term.get("namespaceSelector")
    if not names and selector is None:
        names = [owner["metadata"]["namespace"]]
    return is_selected(term.get("labelSelector"), pod) and (namespace in (names or ()) or (
        selector is not None and selects(selector_of(selector), view.namespaces.get(namespace))))

def misses_company(pod, labels, view):
    terms = required_terms(pod, "podAffinity")      # of some that want each other, the first is company to itself
    company = any(all(means(term, pod, p, view) for term in terms) for p in (*view.pods, pod))
    return not company or any(term["topologyKey"] not in labels for term in terms)

def repels(owner, pod, labels, view):
    """Whether the anti-affinity of one pod keeps another from a node of these labels."""
    return any(term["topologyKey"] in labels and means(term, owner, pod, view)
               for term in required_terms(owner, "podAntiAffinity"))

PORTS, AFFINITY, SPREAD = ("node(s) didn't have free ports for the requested pod ports", "node(s) didn't match Pod's "
                           "node affinity/selector", "node(s) didn't match pod topology spread constraints")
def objections(pod, node, view):
    """What the plugins say, one after the other: (whether one objects, why, whether it helps if pods go)."""
    labels, lacking = labels_of(node), lacks_resources(pod, node, view)
    yield node["spec"].get("unschedulable") and not tolerance(pod, CORDONED), ["node(s) were unschedulable"], False
    yield is_repelled(pod, node), ["node(s) had untolerated taint(s)"], False
    yield not is_wanted(pod, node), [AFFINITY], False
    yield lacks_ports(pod, view), [PORTS], True
    yield (lacking, ["Too many pods" if name == "pods" else "Insufficient " + name for name, *_ in lacking],
           all(wanted <= has or name == "pods" for name, wanted, _, has in lacking))
    yield (any(c["topologyKey"] not in labels for c in spread_constraints(pod)),
           [SPREAD + " (missing required label)"], False)
    yield is_crowded(pod, view), [SPREAD], True
    yield misses_company(pod, labels, view), ["node(s) didn't match pod affinity rules"], False
    yield (any(repels(pod, p, labels, view) for p in view.pods),
           ["node(s) didn't match pod anti-affinity rules"], True)
    yield (any(repels(p, pod, labels, view) for p in view.pods),
           ["node(s) didn't satisfy existing pods anti-affinity rules"], True)

def misfit(pod, node, view):
    """(why a pod may not go to a node, as the first plugin says that objects; whether it helps if pods go)."""
    return next((row[1:] for row in objections(pod, node, view) if row[0]), ([], False))

def unavailable(reasons):
    """The reasons as kube-scheduler counts them, of the one node."""
    return f"0/1 nodes are available: {', '.join(sorted(f'1 {reason}' for reason in reasons))}."

def rejection(pod, node, view):
    """Why the kubelet rejects a pod that somebody bound to its node: (reason, message), or None."""
    for name, wanted, used, has in lacks_resources(pod, node, view):
        if "/" not in name or name in (node["status"].get("allocatable") or {}):
            return "OutOf" + name, (f"Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, "
                                    f"capacity: {has}")
    faults = [
        ("NodeAffinity", not is_wanted(pod, node), AFFINITY), ("NodePorts", lacks_ports(pod, view), PORTS),
        ("TaintToleration", is_repelled(pod, node, ["NoExecute"]), "node(s) had taints that the pod didn't tolerate")]
    return next(((plugin, f"Predicate {plugin} failed: {text}") for plugin, found, text in faults if found), None)

def choose_victims(pod, node, view, budgets):
    """(the less important pods to delete so that a pod fits, why that does not help); budgets are kept if they can."""
    lower = sorted((p for p in view.pods if not is_foreign(p) and priority_of(p) < priority_of(pod)),
                   key=lambda p: (-priority_of(p), dig(p, "status.startTime", "")))
    rest, victims, guarded = [p for p in view.pods if p not in lower], [], []
    reasons, _ = misfit(pod, node, view._replace(pods=rest))
    if reasons or not lower:
        return [], reasons if lower else ["No preemption victims found for incoming pod"]
    for budget in budgets:                                          # those beyond what it allows
        guarded += [p for p in lower if key_of(budget)[0] == key_of(p)[0] and is_selected(
            budget["spec"].get("selector") or None, p)][dig(budget, "status.disruptionsAllowed", 0):]
    for p in sorted(lower, key=lambda p: p not in guarded):         # as many stay as can, the more important first
        (victims if misfit(pod, node, view._replace(pods=[*rest, p]))[0] else rest).append(p)
    return victims, []

def set_condition(pod, *words):
    """Set one condition of a pod, as condition() makes it; the others stay."""
    old = dig(pod, "status.conditions", [])
    new = condition(old, *words, lastProbeTime=None, observedGeneration=pod["metadata"].get("generation", 1))
    pod["status"]["conditions"] = [c for c in old if c["type"] != new["type"]] + [new]

# == 16. Usage ===============================================================================
# metrics.k8s.io: what containers and the machine use. Measured when somebody asks; else nothing runs. A cgroup's files
# cost microseconds; the engine's stats, where those files are not in reach, a second or two.
WINDOW_S = 1, 30                # a rate is over so many seconds, at least and at most
Sample = namedtuple("Sample", "time cpu_nanos memory_bytes")        # memory: the working set

def cgroup_sample(id_, pid, root="/sys/fs/cgroup", proc="/proc"):
    """The Sample of a container by its process, None where that process or its cgroup cannot be seen from here."""
    number = lambda path, name="": int(re.search(rf"(?m)^{name} ?(\d+)$", read_text(path))[1])
    try:
        paths = {name: path for _, names, path in (line.split(":", 2) for line in read_text(
            f"{proc}/{pid}/cgroup").splitlines()) for name in names.split(",")}
        if "memory" in paths:                   # version 1: a hierarchy for each controller
            cpu, memory = (f"{root}/{name}{paths[name]}" for name in ("cpuacct", "memory"))
            nanos, words = number(f"{cpu}/cpuacct.usage"), ("memory.usage_in_bytes", "total_inactive_file")
        else:
            cpu = memory = root + paths[""]
            nanos, words = number(f"{cpu}/cpu.stat", "usage_usec") * 1000, ("memory.current", "inactive_file")
        used, idle = number(f"{memory}/{words[0]}"), number(f"{memory}/memory.stat", words[1])
        # Another id: a namesake, as the engine counts processes in a namespace of its own.
        return Sample(time.time(), nanos, max(0, used - idle)) if id_ in cpu else None
    except (OSError, LookupError, TypeError):
        return None

def machine_sample(stat, meminfo):
    """The Sample of the machine by /proc/stat (hundredths of seconds; idle and iowait come fourth and fifth) and
    /proc/meminfo."""
    ticks = [int(number) for number in stat.split("\n", 1)[0].split()[1:9]]
    total, free = (int(re.search(rf"{name}: +(\d+)", meminfo)[1]) << 10 for name in ("MemTotal", "MemAvailable"))
    return Sample(time.time(), (sum(ticks) - ticks[3] - ticks[4]) * 10 ** 7, total - free)

def stats_samples(stats):
    """The two Samples in the engine's stats of a container, None if it ended meanwhile."""
    memory, times = dig(stats, "memory_stats", {}), [seconds_of(dig(stats, x)) for x in ("preread", "read")]
    if not all(times) or "usage" not in memory:
        return None
    idle = dig(memory, "stats.total_inactive_file", dig(memory, "stats.inactive_file", 0))
    return [Sample(at, dig(stats, f"{part}.cpu_usage.total_usage", 0), max(0, memory["usage"] - idle))
            for at, part in zip(times, ("precpu_stats", "cpu_stats"))]

def usage_of(before, after):
    """usage of metrics.k8s.io between two Samples."""
    nanos = max(0, after.cpu_nanos - before.cpu_nanos) / max(after.time - before.time, 0.001)
    return {"cpu": quantity_text(round(nanos)), "memory": f"{after.memory_bytes >> 10}Ki"}

class Usage:
    """Measures for requests; keeps a sample of each thing measured, so that a question soon after need not wait."""
    def __init__(self, k2d):
        self.k2d, self.lock, self.before = k2d, threading.Lock(), {}    # lock: one measures at a time, the others gain

    @staticmethod
    def sample(key):
        return cgroup_sample(*key) if key else machine_sample(read_text("/proc/stat"), read_text("/proc/meminfo"))

    def measure(self, keys):
        """{key: (Sample, Sample)}; a key is (container's id, pid), of the machine ()."""
        with self.lock:
            begin, out = time.time(), {}
            known = {key: old for key, old in self.before.items() if 0 <= begin - old.time < WINDOW_S[1]}
            first = {key: known.get(key) or self.sample(key) for key in keys}
            asked = [threading.Thread(target=self.ask, args=(key, out)) for key in keys if not first[key]]
            for thread in asked:
                thread.start()
            time.sleep(max([0, *(old.time + WINDOW_S[0] - time.time() for old in first.values() if old)]))
            out.update((key, (old, self.sample(key))) for key, old in first.items() if old)
            self.before = {**known, **{key: old for key, old in first.items() if old}}
            for thread in asked:
                thread.join()
            return {key: pair for key, pair in out.items() if pair and pair[1]}

    def ask(self, key, into):
        """Where the cgroup is out of reach: the engine measures, for a second or two."""
        try:
            into[key] = stats_samples(self.k2d.engine.call("GET", f"/containers/{key[0]}/stats?stream=0", expect=ENDED))
        except EngineError as error:
            log(f"stats of {key[0][:12]}: {error}")

    @staticmethod
    def metrics(obj, pairs, **usage):
        """The NodeMetrics or PodMetrics of an object."""
        window = max(after.time - before.time for before, after in pairs)
        meta = {**pick(obj["metadata"], ("name", "namespace", "labels")), "creationTimestamp": now()}
        return {"kind": obj["kind"] + "Metrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": meta,
                "timestamp": now(), "window": f"{window:.3f}s", **usage}

    def nodes(self, nodes):
        own, pairs = self.k2d.settings.node, self.measure([()])
        return [self.metrics(node, pairs.values(), usage=usage_of(*pairs[()])) for node in nodes
                if node["metadata"]["name"] == own]         # of others, which somebody made, nothing is known

    def pods(self, pods):
        running = [(pod, [f for f in self.k2d.pods.found.get(pod["metadata"]["uid"], {}).values() if f.running and
                          f.container != "POD"]) for pod in pods if dig(pod, "status.phase") == "Running"]
        pairs = self.measure([(f.id, f.pid) for _, found in running for f in found])
        measured = [(pod, {f.container: pairs[f.id, f.pid] for f in found if (f.id, f.pid) in pairs})
                    for pod, found in running]
        return [self.metrics(pod, each.values(), containers=[
            {"name": name, "usage": usage_of(*pair)} for name, pair in each.items()]) for pod, each in measured if each]

# == 17. Controllers =========================================================================
# One plain method a kind: reads the store, decides, writes; a second pass finds nothing to do. One thread runs them
# all, from one queue; what they create goes through the same admission as a client's request.
WORKLOADS = "Deployment", "ReplicaSet", "ReplicationController"
BIND_COMPLETED, BOUND_BY = "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"
CRD_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
REVISION, HASH_LABEL = "deployment.kubernetes.io/revision", "pod-template-hash"
NAMESPACE_GRACE_S = 2       # the namespace controller's own is 5
SAFE_LETTERS = "bcdfghjklmnpqrstvwxz2456789"      # no vowels, so that no hash spells a word (k8s.io/apimachinery, rand)

def safe_hash(value, size=10):
    """A short name part that depends on a JSON value alone."""
    number = int.from_bytes(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:8], "big")
    return "".join(SAFE_LETTERS[number // len(SAFE_LETTERS) ** i % len(SAFE_LETTERS)] for i in range(size))

def kind_named(api_version, name):
    """The Kind of this group and name, as it is stored; None if there is none."""
    group = api_version.rpartition("/")[0]
    return next((KIND[kind.id] for kind in KINDS if kind.name == name and kind.group == group), None)

def controller_of(obj):
    return next((ref for ref in obj["metadata"].get("ownerReferences") or () if ref.get("controller")), None)
def owner_reference(owner):
    return {**pick(owner, ("apiVersion", "kind")), **pick(owner["metadata"], ("name", "uid")), "controller": True,
            "blockOwnerDeletion": True}
def replicas_of(obj):
    return obj["spec"].get("replicas", 1)
def storage_nanos(claim):
    return quantity_nanos(dig(claim, "spec.resources.requests.storage", "0"))
def is_for(pv, claim):
    ref = pv["spec"].get("claimRef") or {}              # a client may reserve it by name alone
    return (ref.get("namespace"), ref.get("name")) == key_of(claim) and (
        ref.get("uid") in (None, "", claim["metadata"]["uid"]))
def revision_of(rs):
    return int(rs["metadata"].get("annotations", {}).get(REVISION, 0))
def get_condition(obj, type_):
    return next((c for c in dig(obj, "status.conditions", ()) if c["type"] == type_), None)
def is_condition(obj, type_, status="True"):
    return dig(get_condition(obj, type_), "status") == status

def available_in(pod, min_ready_s):
    """Seconds until a ready pod counts as available: 0 if it does, None if it is not ready."""
    ready = get_condition(pod, "Ready") if is_condition(pod, "Ready") else None
    return ready and max(0, (seconds_of(ready["lastTransitionTime"]) or 0) + min_ready_s - time.time())

def resolve_count(value, total, up):
    """An IntOrString such as maxSurge, a number or "25%" of total, rounded up or down."""
    if isinstance(value, int):
        return value
    return (int(value.rstrip("%")) * total + (99 if up else 0)) // 100

class Controllers:
    """reconcile(key), key = (kind, namespace, name): a method called like a kind is a pass over one of its objects; or
    (name of another method, its arguments ...). All methods run in the queue's one thread, in one transaction, except
    observe(), which runs in the thread of whoever wrote, start(), and what does I/O: see reconcile()."""
    def __init__(self, k2d):
        self.k2d, self.settings, self.store, self.api = k2d, k2d.settings, k2d.store, k2d.api
        self.queue = WorkQueue("controllers", self.reconcile, 1, k2d.hub)
        self.selectors = {}                         # (namespace, name) -> Requirements of each Service with a selector
        self.started = False                        # whether start() has looked at all: NAT wants the whole picture
        self.waiting = 0                            # how many pods fit on no node: what changes may make room for them
        self.leaving = {}                           # uid -> since when, of pods that bear a taint for a while

    def reconcile(self, key):
        what, *args = key
        if what in ("nat", "hosts", "provision", "reclaim"):
            return getattr(self, what)(*args)
        with self.store.transaction():
            if what not in KIND:
                return getattr(self, what)(*args)
            obj = self.store.get(*key)
            if obj or what in ("Service", "CustomResourceDefinition"):          # these leave something behind
                getattr(self, what)(obj, *args)

    def add(self, *key):
        self.queue.add(key)

    def add_all(self, kind, namespace):
        for key in self.store.keys(kind, namespace):
            self.add(kind, *key)

    # -- what a change concerns
    def observe(self, changes, watches):
        for change in changes:
            kind, (namespace, name), raw, deleted = change.kind, change.key, change.raw, change.type == "DELETED"
            meta = json.loads(raw)["metadata"] if deleted or b'"ownerReferences"' in raw else {}
            for ref in meta.get("ownerReferences") or ():
                owner = kind_named(ref["apiVersion"], ref["kind"])
                if owner and ref.get("controller") and owner.id in WORKLOADS:
                    self.add(owner.id, namespace, ref["name"])
                if owner and deleted:
                    self.add("finalize", owner.id, namespace if owner.namespaced else "", ref["name"])
            if deleted:
                self.add("collect", meta["uid"])
            elif b'"deletionTimestamp"' in raw and b'"finalizers"' in raw:
                self.add("finalize", kind.id, namespace, name)
            if kind.namespaced:
                self.add_all("ResourceQuota", namespace)
                if deleted or name == "kube-root-ca.crt":
                    self.add("Namespace", "", namespace)        # which may wait for just this, or want it back
            if hasattr(self, kind.id):
                self.add(kind.id, namespace, name)
            (self.observe_pod if kind.id == "Pod" else self.observe_other)(change, deleted)

    def observe_pod(self, change, deleted):
        pod, namespace = json.loads(change.raw), change.key[0]
        self.k2d.pods.on_pod(change)
        if not deleted and b'"podIP":' not in change.raw or self.waiting and (
                change.type != "MODIFIED" or change.labels != change.old.labels or has_ended(pod) or
                b'"podIP":' not in change.old.raw):
            self.add("schedule")
        if self.leaving:
            self.add("Node", "", self.settings.node)
        if b'"hostPort"' in change.raw:
            self.add("nat")
        for claim in claims_of(pod):
            self.add("PersistentVolumeClaim", namespace, claim)
            self.add("finalize", "PersistentVolumeClaim", namespace, claim)
        for key, selector in list(self.selectors.items()):
            if key[0] == namespace and any(row and selects(selector, row.labels) for row in (change, change.old)):
                self.add("Service", *key)
        self.add_all("PodDisruptionBudget", namespace)
        if change.type == "ADDED" and not controller_of(pod):       # an orphan may be adopted
            self.add_all("ReplicaSet", namespace)
            self.add_all("ReplicationController", namespace)

    def observe_other(self, change, deleted):
        kind, (namespace, name) = change.kind.id, change.key
        spec = json.loads(change.raw)["spec"] if kind in ("Service", "PersistentVolumeClaim") else {}
        if kind == "Service":
            self.selectors.pop(change.key, None)
            if not deleted and spec.get("selector") and spec.get("type") != "ExternalName":
                self.selectors[change.key] = selector_of(spec["selector"])
            self.k2d.names.changed += 1
            self.add("hosts")
        if kind in ("Service", "Endpoints"):
            self.add("nat")
        if kind == "Node" or self.waiting and kind in ("PersistentVolumeClaim", "Namespace"):
            self.add("schedule")
        if kind in ("ConfigMap", "Secret", "ServiceAccount", "PersistentVolumeClaim"):
            for pod in self.store.list("Pod", namespace, holding=b'"%s"' % name.encode()):
                self.k2d.pods.retry(pod["metadata"]["uid"])
                self.k2d.pods.queue.add(key_of(pod))
        if kind == "PersistentVolumeClaim":
            self.add("PersistentVolume", "", spec.get("volumeName", ""))
        elif kind in ("PersistentVolume", "StorageClass"):
            self.add_all("PersistentVolumeClaim", None)
            self.add("finalize", kind, namespace, name)
        elif kind == "Event" and not deleted:
            self.queue.add_after(EVENT_SECONDS if len(self.store.rows["Event"]) < EVENTS + 50 else 0, ("expire",))

    def start(self):
        """After a start: look at everything once, as if it were new, for whatever was half done."""
        for kind in [kind for kind in KINDS if kind.id != "Event"]:
            for key in self.store.keys(kind.id):
                row = self.store.row(kind.id, key)
                if row:
                    self.observe([Change(row.version, kind, "ADDED", key, row.raw, row.labels, None)], ())
            for obj in self.store.list(kind.id, holding=b'"ownerReferences"'):
                for ref in obj["metadata"].get("ownerReferences") or ():
                    if not self.owner(ref, key_of(obj)[0]):
                        self.add("collect", ref["uid"])
        self.started = True
        self.add("nat")

    # -- scheduling on the one node
    def schedule(self):
        """Bind the pods that wait for a node, the most important first, or say why they do not fit. Those that their
        maker has bound the kubelet takes or rejects."""
        ours = self.settings.node
        node = self.store.get("Node", "", ours)
        pods = [pod for pod in self.store.list("Pod") if node and not has_ended(pod) and (
            pod["spec"].get("nodeName", ours) == ours)]
        settled = lambda pod: dig(pod, "status.podIP") or is_foreign(pod)
        view = View(list(filter(settled, pods)), {name: row.labels for (_, name), row in
                                                  self.store.rows["Namespace"].items()})
        waiting = [pod for pod in pods if not settled(pod) and not is_deleting(pod) and (
            pod["spec"].get("nodeName") or not pod["spec"].get("schedulingGates") and
            pod["spec"].get("schedulerName", "default-scheduler") == "default-scheduler")]
        waiting.sort(key=lambda pod: (not pod["spec"].get("nodeName"), -priority_of(pod),
                                      pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        self.waiting = sum(not self.place(pod, node, view) for pod in waiting)

    def place(self, pod, node, view):
        """Bind one pod to the node and give it its address; returns whether that is settled, one way or the other."""
        spec, is_bound, ours = pod["spec"], pod["spec"].get("nodeName"), self.settings.node
        sysctl = forbidden_sysctls(spec)
        refused = ("SysctlForbidden", sysctl) if sysctl else rejection(pod, node, view) if is_bound else None
        if not is_bound and self.is_unschedulable(pod, node, view):
            return False
        spec["nodeName"] = ours
        if refused:
            pod["status"] = {"phase": "Failed", "reason": refused[0], "message": "Pod was rejected: " + refused[1],
                             "startTime": now(), "qosClass": qos_class(spec)}
            self.k2d.event(pod, "Warning", *refused)
        else:
            if not spec.get("hostNetwork"):
                pod["status"]["podIP"] = self.k2d.network.allocate()
            pod["status"] = pod_status(pod, {}, {}, self.settings.host_ip)
            view.pods.append(pod)
        self.store.put(KIND["Pod"], pod)                        # which the pod worker hears of, like everybody
        if not is_bound:
            self.k2d.event(pod, "Normal", "Scheduled", f"Successfully assigned {'/'.join(key_of(pod))} to {ours}",
                           component="default-scheduler")
        if any(taint["effect"] == "NoExecute" for taint in node["spec"].get("taints") or ()):
            self.add("Node", "", ours)                          # which it may tolerate for a while only
        return True

    def is_unschedulable(self, pod, node, view):
        """Whether a pod has to wait: then it says why, and less important ones may have to make room."""
        ours, status, nominated = self.settings.node, pod["status"], pod["status"].pop("nominatedNodeName", None)
        fault = claim_trouble(pod, lambda kind, name: self.store.get(kind, key_of(pod)[0], name))
        reasons, helps = misfit(pod, node, view)
        if not fault and not reasons:
            return False
        tell = lambda of, *words: self.k2d.event(of, *words, component="default-scheduler")
        victims, hopeless = [], ["Preemption is not helpful for scheduling"]
        after = "not eligible due to preemptionPolicy=Never." * (pod["spec"].get("preemptionPolicy") == "Never")
        if helps and nominated and any(is_deleting(p) and is_condition(p, "DisruptionTarget") for p in view.pods):
            after = after or "not eligible due to a terminating pod on the nominated node."
        elif helps and not fault and not after:
            victims, hopeless = choose_victims(pod, node, view, list(self.store.list("PodDisruptionBudget")))
        for victim in [p for p in victims if not is_deleting(p)]:
            self.disrupt(victim, "PreemptionByScheduler", f"{pod['spec']['schedulerName']}: preempting to accommodate "
                         "a higher priority pod")
            tell(victim, "Normal", "Preempted", f"Preempted by pod {pod['metadata']['uid']} on node {ours}")
        if victims or nominated and after:                      # the room it waits for is not for those after it
            status["nominatedNodeName"] = ours
            view.pods.append(pod)
        text = f"0/1 nodes are available: {fault}." if fault else unavailable(reasons)
        if not victims:
            text += " no new claims to deallocate, preemption: " + (after or unavailable(hopeless))
        if dig(get_condition(pod, "PodScheduled"), "message") != text:
            tell(pod, "Warning", "FailedScheduling", text)
        set_condition(pod, "PodScheduled", "False", "Unschedulable", text)
        self.store.put(KIND["Pod"], pod)
        return True

    def disrupt(self, pod, reason, text):
        """Delete a pod that cannot help it; a condition says why."""
        set_condition(pod, "DisruptionTarget", "True", reason, text)
        self.api.delete_object(KIND["Pod"], pod, {})

    def Node(self, node, _, name):
        """Taint a cordoned node, offer its extended resources, evict what does not tolerate its NoExecute taints."""
        spec, status = node["spec"], node.get("status", {})
        taints = [t for t in spec.get("taints") or () if t["key"] != CORDONED["key"] or spec.get("unschedulable")]
        if spec.get("unschedulable") and CORDONED["key"] not in [t["key"] for t in taints]:
            taints.append({**CORDONED, "timeAdded": now()})
        node["spec"] = {**without(spec, "taints"), **filled(taints=taints)}
        extended = {key: amount for key, amount in (status.get("capacity") or {}).items() if "/" in key}
        if extended:
            status["allocatable"] = {**(status.get("allocatable") or {}), **extended}
        self.store.put(KIND["Node"], node)
        if name != self.settings.node:                          # one that somebody else has made: nothing runs there
            return
        evicting, before, self.leaving = [t for t in taints if t["effect"] == "NoExecute"], self.leaving, {}
        for pod in self.store.list("Pod", holding=b'"nodeName":"%s"' % name.encode()) if evicting or before else ():
            if is_deleting(pod) or is_foreign(pod):
                continue
            uid, used = pod["metadata"]["uid"], [tolerance(pod, taint) for taint in evicting]
            tell = lambda text: self.k2d.event(pod, "Normal", "TaintManagerEviction", f"{text} {'/'.join(key_of(pod))}",
                                               component="taint-eviction-controller")
            limits = [t["tolerationSeconds"] for t in used if t and t.get("tolerationSeconds") is not None]
            since = before.get(uid, time.monotonic())
            left = since + min(limits) - time.monotonic() if limits else 0
            if all(used) and left > 0:
                self.leaving[uid] = since
                self.queue.add_after(left + 0.05, ("Node", "", name))
            elif limits or not all(used):
                tell("Marking for deletion Pod")
                self.disrupt(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
            elif uid in before:
                tell("Cancelling deletion of Pod")

    # -- ReplicaSet, ReplicationController and Deployment
    def ReplicaSet(self, rs, namespace, name):
        spec, pods = rs["spec"], self.pods_of(rs)
        active = [pod for pod in pods if not is_deleting(pod)]
        failure = None if is_deleting(rs) else self.scale_pods(rs, active, replicas_of(rs))
        waits = [available_in(pod, spec.get("minReadySeconds", 0)) for pod in active]
        later = [wait + 0.05 for wait in waits if wait] + [10] * bool(failure)
        if later:
            self.queue.add_after(min(later), (rs["kind"], namespace, name))
        labels = [(each["metadata"].get("labels") or {}).items() for each in (spec["template"], *active)]
        counts = filled(fullyLabeledReplicas=sum(labels[0] <= each for each in labels[1:]),
                        readyReplicas=len(waits) - waits.count(None), availableReplicas=waits.count(0))
        failed = [condition(dig(rs, "status.conditions"), "ReplicaFailure", "True", "FailedCreate", failure)]
        rs["status"] = {"replicas": len(active), **counts, "terminatingReplicas": len(pods) - len(active),
                        "observedGeneration": rs["metadata"]["generation"], **filled(conditions=failure and failed)}
        self.store.put(KIND[rs["kind"]], rs)

    ReplicationController = ReplicaSet

    def pods_of(self, rs):
        """The pods of a ReplicaSet that have not ended; those without an owner that it selects become its own."""
        pods = list(self.store.list("Pod", rs["metadata"]["namespace"], selector_of(rs["spec"]["selector"])))
        for pod in pods:
            if not controller_of(pod) and not is_deleting(pod) and not is_deleting(rs) and not is_foreign(pod):
                pod["metadata"].setdefault("ownerReferences", []).append(owner_reference(rs))
                self.store.put(KIND["Pod"], pod)
        return [p for p in pods if dig(controller_of(p), "uid") == rs["metadata"]["uid"] and not has_ended(p)]

    def scale_pods(self, owner, pods, replicas):
        """Create or delete until there are so many; updates pods. Returns why a pod could not be made, or None."""
        meta, template, surplus = owner["metadata"], owner["spec"]["template"], len(pods) - replicas
        tell = lambda *words: self.k2d.event(owner, *words, component="replicaset-controller" if (
            owner["kind"] == "ReplicaSet") else "replication-controller")
        for _ in range(min(-surplus, 50)):          # what is made brings us back, for more: others may write between
            try:
                pods.append(self.api.create(KIND["Pod"], meta["namespace"], {
                    "metadata": {"generateName": meta["name"] + "-", "ownerReferences": [owner_reference(owner)],
                                 **pick(template["metadata"], ("labels", "annotations"))}, "spec": template["spec"]}))
            except ApiError as error:
                # without the random end of a name, as the API server says it: a text that stays does not wake us again
                text = re.sub(rf'"{meta["name"]}-[^"]*"', f'"{meta["name"]}-"', str(error))
                tell("Warning", "FailedCreate", f"Error creating: {text}")
                return text
            tell("Normal", "SuccessfulCreate", f"Created pod: {pods[-1]['metadata']['name']}")
        if surplus > 0:                             # the least useful first, the youngest among equals
            pods.sort(key=lambda pod: (
                bool(pod["spec"].get("nodeName")), dig(pod, "status.phase") == "Running", is_condition(pod, "Ready"),
                -(seconds_of(pod["metadata"]["creationTimestamp"]) or 0), pod["metadata"]["name"]))
            for pod in pods[:surplus]:
                self.api.delete_object(KIND["Pod"], pod, {})
                tell("Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
            del pods[:surplus]

    def Deployment(self, d, namespace, name):
        if is_deleting(d):
            return
        uid = d["metadata"]["uid"]
        sets = sorted((rs for rs in self.store.list("ReplicaSet", namespace, holding=uid.encode())
                       if dig(controller_of(rs), "uid") == uid), key=lambda rs: rs["metadata"]["creationTimestamp"])
        new = self.new_replicaset(d, sets)
        old = [rs for rs in sets if rs is not new]
        if new and not d["spec"].get("paused"):
            self.roll(d, new, old)
        elif len([rs for rs in sets if replicas_of(rs)]) < 2 and sets:          # paused in mid-rollout: as it stands
            self.set_replicas(d, max(sets, key=replicas_of), replicas_of(d))
        self.deployment_status(d, new, old)

    def new_replicaset(self, d, sets):
        """The ReplicaSet of the present template, made if there is none; revisions in order."""
        meta, spec, kind = d["metadata"], d["spec"], KIND["ReplicaSet"]
        def bare(template):
            labels = without(template["metadata"].get("labels") or {}, HASH_LABEL)
            return {**template, "metadata": {**template["metadata"], "labels": labels}}
        template, ready_s = bare(spec["template"]), spec.get("minReadySeconds", 0)
        last = max(map(revision_of, sets), default=0)
        new = next((rs for rs in sets if bare(rs["spec"]["template"]) == template), None)
        if not new and spec.get("paused"):
            return None
        if not new:
            hash_, labels = safe_hash([template, meta["uid"]]), template["metadata"]["labels"]
            labels[HASH_LABEL] = hash_
            selector = {**spec["selector"], "matchLabels": {**(spec["selector"].get("matchLabels") or {}),
                                                            HASH_LABEL: hash_}}
            notes = without(meta.get("annotations", {}), "kubectl.kubernetes.io/last-applied-configuration")
            new = self.api.create(kind, meta["namespace"], {
                "metadata": {"name": f"{meta['name']}-{hash_}", "labels": labels, "annotations":
                             {**notes, REVISION: str(last + 1)}, "ownerReferences": [owner_reference(d)]},
                "spec": {"replicas": 0, "minReadySeconds": ready_s, "selector": selector, "template": template}})
            sets.append(new)
        elif revision_of(new) < last:                           # an earlier template is wanted again
            new["metadata"]["annotations"][REVISION] = str(last + 1)
        meta.setdefault("annotations", {})[REVISION] = new["metadata"]["annotations"][REVISION]
        if new["spec"].get("minReadySeconds", 0) != ready_s:
            new["spec"]["minReadySeconds"] = ready_s
        self.store.put(kind, new)
        return new

    def set_replicas(self, d, rs, count):
        before = replicas_of(rs)
        if before != count:
            rs["spec"]["replicas"] = count
            rs["metadata"]["generation"] += 1
            self.store.put(KIND["ReplicaSet"], rs)
            self.k2d.event(d, "Normal", "ScalingReplicaSet", f"Scaled {'up' if count > before else 'down'} replica set "
                           f"{rs['metadata']['name']} from {before} to {count}", component="deployment-controller")

    @staticmethod
    def limits(d):
        """(maxSurge, maxUnavailable) as numbers; both zero would never roll."""
        rolling, replicas = d["spec"]["strategy"].get("rollingUpdate"), replicas_of(d)
        if not rolling:                                         # Recreate
            return 0, 0
        surge = resolve_count(rolling["maxSurge"], replicas, True)
        unavailable = resolve_count(rolling["maxUnavailable"], replicas, False)
        return surge, min(max(unavailable, 0 if surge else 1), replicas)

    def roll(self, d, new, old):
        """One step of a rollout, as the deployment controller's rolloutRolling and rolloutRecreate."""
        replicas, present, (surge, unavailable) = replicas_of(d), replicas_of(new), self.limits(d)
        if d["spec"]["strategy"]["type"] == "Recreate":
            for rs in old:
                self.set_replicas(d, rs, 0)
            owners = {rs["metadata"]["uid"] for rs in old}
            if not any(dig(controller_of(pod), "uid") in owners and not has_ended(pod) for pod in self.store.list(
                    "Pod", d["metadata"]["namespace"], selector_of(d["spec"]["selector"]))):
                self.set_replicas(d, new, replicas)
            return
        room = replicas + surge - sum(map(replicas_of, old)) - present
        self.set_replicas(d, new, min(replicas, present + max(0, room)))
        if replicas_of(new) != present:
            return                                              # its status comes first
        available, least = (lambda rs: dig(rs, "status.availableReplicas", 0)), replicas - unavailable
        may_go = sum(map(replicas_of, old)) + available(new) - least
        for only_unavailable in (True, False):                 # first those that serve nobody
            for rs in old:
                if not only_unavailable:
                    may_go = min(may_go, sum(map(available, [new, *old])) - least)
                step = max(0, min(replicas_of(rs) - (available(rs) if only_unavailable else 0), may_go))
                self.set_replicas(d, rs, replicas_of(rs) - step)
                may_go -= step

    def deployment_status(self, d, new, old):
        """Write what follows from the ReplicaSets; look again at the deadline; drop revisions beyond the limit."""
        spec, present = d["spec"], [new] if new else []
        sets, replicas, deadline = [*old, *present], replicas_of(d), spec.get("progressDeadlineSeconds", 600)
        add = lambda field, among=sets: sum(dig(rs, f"status.{field}", 0) for rs in among)
        total, updated, available = add("replicas"), add("replicas", present), add("availableReplicas")
        status = {"observedGeneration": d["metadata"]["generation"], "replicas": total, "updatedReplicas": updated,
                  "readyReplicas": add("readyReplicas"), "availableReplicas": available,
                  "unavailableReplicas": max(0, sum(map(replicas_of, sets)) - available),
                  "terminatingReplicas": add("terminatingReplicas")}
        complete = updated == replicas == total == available
        enough = available >= replicas - self.limits(d)[1]
        conditions = status["conditions"] = deployment_conditions(d, new, sets, status, complete, enough)
        d["status"] = {key: value for key, value in status.items() if value or key == "terminatingReplicas"}
        if complete:
            empty = sorted((rs for rs in old if not replicas_of(rs) and not dig(rs, "status.replicas")
                            and not is_deleting(rs)), key=revision_of)
            for rs in empty[:max(0, len(empty) - spec.get("revisionHistoryLimit", 10))]:
                self.api.delete_object(KIND["ReplicaSet"], rs, {})
        self.store.put(KIND["Deployment"], d)
        progress = conditions[1]
        if progress["status"] == "True" and progress["reason"] != "NewReplicaSetAvailable" and deadline < 2 ** 31 - 1:
            self.queue.add_after(deadline - late_s(progress) + 0.1, ("Deployment", *key_of(d)))

    # -- Services
    def Service(self, service, namespace, name):
        """The Endpoints and the EndpointSlice of a Service with a selector, from its pods."""
        if not self.k2d.pods.digested:
            return                                              # absence means nothing yet
        slice_name = f"{name}-{safe_hash([namespace, name], 5)}"
        if not service or (namespace, name) not in self.selectors:
            for kind, each in (("Endpoints", name), ("EndpointSlice", slice_name)):
                obj = self.store.get(kind, namespace, each)
                if obj and is_computed(obj) and key_of(obj) != ("default", "kubernetes"):
                    self.store.remove(KIND[kind], obj)
            return
        subsets, slices, labels = {}, [], labels_of(service)
        ports_in = lambda pod: tuple((p.get("name", ""), target_port(p, pod), p.get("protocol", "TCP"))
                                     for p in service["spec"].get("ports") or () if target_port(p, pod))
        as_ports = lambda ports: [{"name": n, "port": p, "protocol": protocol} for n, p, protocol in ports]
        for pod in self.store.list("Pod", namespace, self.selectors[namespace, name]):
            if dig(pod, "status.podIP") and not has_ended(pod):
                place, address, endpoint = endpoint_of(pod, service, self.settings.node)
                slices.append((ports_in(pod), endpoint))
                if not is_deleting(pod):
                    subsets.setdefault(ports_in(pod), {}).setdefault(place, []).append(address)
        self.derive("Endpoints", namespace, name, {**labels, COMPUTED[0]: "endpoint-controller"}, None, filled(subsets=[
            {**pick(found, ("addresses", "notReadyAddresses")), "ports": [filled(**p) for p in as_ports(ports)]}
            for ports, found in sorted(subsets.items())]))
        ports = slices[0][0] if slices else ports_in({"spec": {"containers": []}})      # of none: the numbers at least
        labels = {**labels, COMPUTED[1]: "endpointslice-controller.k8s.io", "kubernetes.io/service-name": name}
        self.derive("EndpointSlice", namespace, slice_name, labels, service, {"addressType": "IPv4", "endpoints": [
            endpoint for own, endpoint in slices if own == ports], "ports": as_ports(ports)})

    def derive(self, kind, namespace, name, labels, owner, body):
        """Put an object that follows from others, keeping its identity."""
        kind, present = KIND[kind], self.store.get(kind, namespace, name)
        if present and not is_computed(present):
            return                                              # a client's own
        meta = present["metadata"] if present else {"name": name, "namespace": namespace, "uid": new_uid(),
                                                    "creationTimestamp": now()}
        meta["labels"] = labels
        if owner:
            meta.update(ownerReferences=[owner_reference(owner)], generation=1)
        self.store.put(kind, {"kind": kind.name, "apiVersion": group_version(kind), "metadata": meta, **body})

    def nat(self):
        if any(key[0] == "Service" for key in list(self.queue.waiting)):
            self.add("nat")                                     # after them: half of a picture would refuse somebody
        elif self.started and self.k2d.pods.digested:
            self.k2d.network.sync()

    def hosts(self):
        """Tell every running pod the present Services."""
        for pod in self.store.list("Pod"):
            try:
                write_in_place(pod_folder(self.settings, pod["metadata"]["uid"], "etc-hosts"),
                               hosts_text(pod, self.k2d.names.services()))
            except FileNotFoundError:                           # on the host's network, not created yet, or just gone
                continue

    # -- namespaces and garbage
    def Namespace(self, ns, _, name):
        since = seconds_of(ns["metadata"].get("deletionTimestamp"))
        if not since:
            for kind, each, fields in (("ServiceAccount", "default", {}),
                                       ("ConfigMap", "kube-root-ca.crt", {"data": {"ca.crt": self.k2d.ca}})):
                present = self.store.get(kind, name, each)
                if present:
                    self.store.put(KIND[kind], {**present, **fields})
                else:
                    self.api.create(KIND[kind], name, {"metadata": {"name": each}, **fields})
            return
        wait = since + NAMESPACE_GRACE_S - time.time()
        if wait > 0:    # its content goes a moment later: the rest of a `kubectl delete -f` still finds its objects
            return self.queue.add_after(wait, ("Namespace", "", name))
        kinds = [kind for kind in KINDS if kind.namespaced and is_stored(kind)]
        for kind in [KIND["Pod"]] if any(self.store.keys("Pod", name)) else kinds:       # pods go before all else
            for obj in self.store.list(kind.id, name):
                if not is_deleting(obj):
                    self.api.delete_object(kind, obj, {})
        held = [obj for kind in kinds for obj in self.store.list(kind.id, name) if obj["metadata"].get("finalizers")]
        if held:
            kept = ", ".join(sorted(f"{finalizer} in {n} resource instances" for finalizer, n in Counter(
                f for obj in held for f in obj["metadata"]["finalizers"]).items()))
            found, failure = dig(ns, "status.conditions", ()), "NamespaceDeletionContentFailure"
            ns["status"]["conditions"] = [condition(found, type_, "True", *words) for type_, *words in (
                (failure, "ContentDeletionFailed", f"Failed to delete all resource types, {len(held)} remaining"),
                ("NamespaceFinalizersRemaining", "SomeFinalizersRemain", "Some content in the namespace has finalizers "
                 f"remaining: {kept}"))]
            self.store.put(KIND["Namespace"], ns)
        if not any(self.store.keys(kind.id, name) for kind in kinds) and not ns["metadata"].get("finalizers"):
            ns["spec"].pop("finalizers", None)
            self.store.remove(KIND["Namespace"], ns)

    def owner(self, ref, namespace):
        """The object an ownerReference means, or None if it is gone."""
        kind = kind_named(ref["apiVersion"], ref["kind"])
        if not kind:
            return {}                                           # a kind we do not know: never ours to collect
        obj = self.store.get(kind.id, namespace if kind.namespaced else "", ref["name"])
        return obj if obj and obj["metadata"]["uid"] == ref["uid"] else None

    def dependents(self, uid):
        """(Kind, object, its ownerReferences) of all that name an object of this uid as an owner."""
        for kind in filter(is_stored, KINDS):
            for obj in self.store.list(kind.id, holding=uid.encode()):
                refs = obj["metadata"].get("ownerReferences") or ()
                if any(ref["uid"] == uid for ref in refs):
                    yield kind, obj, refs

    def collect(self, uid):
        """Delete what was owned by an object that is gone, unless somebody else owns it too."""
        for kind, obj, refs in list(self.dependents(uid)):
            living = [ref for ref in refs if self.owner(ref, key_of(obj)[0])]
            if not living and not is_deleting(obj):
                self.api.delete_object(kind, obj, {})
            elif living and len(living) < len(refs):
                obj["metadata"]["ownerReferences"] = living
                self.store.put(kind, obj)

    def finalize(self, kind_name, namespace, name):
        """Carry out propagationPolicy Foreground and Orphan, which stand as finalizers on a deleted object; let go of
        claims that no pod uses, and of volumes."""
        kind, obj = KIND.get(kind_name), self.store.get(kind_name, namespace, name)
        finalizers = obj["metadata"].get("finalizers") or [] if kind and obj and is_deleting(obj) else []
        done = next((each for each in ("orphan", "foregroundDeletion", "kubernetes.io/pvc-protection",
                                       "kubernetes.io/pv-protection") if each in finalizers), "")
        if done == "kubernetes.io/pv-protection":
            is_held = dig(obj, "status.phase") == "Bound"
        elif done == "kubernetes.io/pvc-protection":
            is_held = any(name in claims_of(pod) for pod in self.store.list("Pod", namespace, holding=b'"nodeName"'))
        elif done:
            uid = obj["metadata"]["uid"]
            for each, found, refs in list(self.dependents(uid)):
                others = [ref for ref in refs if ref["uid"] != uid]
                owners = [self.owner(ref, key_of(found)[0]) for ref in others]
                if done == "orphan" or any(owner is not None and "foregroundDeletion" not in dig(
                        owner, "metadata.finalizers", ()) for owner in owners):      # one that does not wait
                    found["metadata"]["ownerReferences"] = others
                    self.store.put(each, found)
                elif not is_deleting(found):
                    below = self.dependents(found["metadata"]["uid"])
                    for ref in refs if any(is_deleting(each) for _, each, _ in below) else ():
                        ref["blockOwnerDeletion"] = False                       # a circle: do not wait
                    self.api.delete_object(each, found, {"propagationPolicy": "Foreground"})
            is_held = any(ref["uid"] == uid and ref.get("blockOwnerDeletion")
                          for _, _, refs in self.dependents(uid) for ref in refs)
        if done and not is_held:
            obj["metadata"]["finalizers"] = [f for f in finalizers if f != done]
            self.api.settle(kind, obj)

    # -- claims and persistent volumes (pkg/controller/volume/persistentvolume)
    def PersistentVolumeClaim(self, claim, namespace, name):
        """Bind a claim to a volume, or say why not; a bound one follows its volume."""
        spec, volume = claim["spec"], claim["spec"].get("volumeName")
        tell = lambda *words: self.k2d.event(claim, *words, component="persistentvolume-controller")
        if is_deleting(claim):
            return
        if spec.get("storageClassName") is None and not volume:
            spec.update(filled(storageClassName=default_class(self.store)))     # one that came after the claim
        pv = self.store.get("PersistentVolume", "", volume) if volume else self.matching(claim)
        is_taken = bool(dig(pv, "spec.claimRef")) and not is_for(pv, claim)
        if BIND_COMPLETED in claim["metadata"].get("annotations", ()) and (is_taken or not pv):
            if claim["status"].get("phase") != "Lost":
                tell("Warning", *(("ClaimMisbound", "Two claims are bound to the same volume, this one is bound "
                                   "incorrectly") if pv else ("ClaimLost", "Bound claim has lost its PersistentVolume. "
                                                              "Data on the volume is lost!")))
            claim["status"] = {"phase": "Lost"}
        elif is_taken:
            tell("Warning", "FailedBinding", f'volume "{volume}" already bound to a different claim.')
        elif pv:
            self.bind(pv, claim)
        elif not volume:
            self.ask_for_volume(claim, tell)
        self.store.put(KIND["PersistentVolumeClaim"], claim)

    def matching(self, claim):
        """The volume that a claim gets: one reserved for it, else the smallest that suits it; None if there is none."""
        spec, found = claim["spec"], []
        for pv in self.store.list("PersistentVolume"):
            offer, mine = pv["spec"], is_for(pv, claim)
            size = quantity_nanos(offer["capacity"].get("storage", "0"))
            free = not offer.get("claimRef") and not is_deleting(pv) and dig(pv, "status.phase") == "Available" and (
                selects(selector_of(spec.get("selector")), pv["metadata"].get("labels")))
            if (mine or free) and (
                    set(offer.get("accessModes") or ()) >= set(spec["accessModes"]) and size >= storage_nanos(claim) and
                    offer.get("volumeMode") == spec.get("volumeMode") and
                    offer.get("storageClassName", "") == (spec.get("storageClassName") or "")):
                found.append((not mine, size, pv["metadata"]["name"], pv))
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
            spec["volumeName"], notes[BOUND_BY] = pv["metadata"]["name"], "yes"
        if is_ours(pv) and storage_nanos(claim) > quantity_nanos(offer["capacity"]["storage"]):
            offer["capacity"] = spec["resources"]["requests"]       # the engine's volumes have no size: a figure grows
        notes[BIND_COMPLETED] = "yes"
        self.set_phase(pv, "Bound")
        claim["status"] = {"phase": "Bound", "accessModes": offer["accessModes"], "capacity": dict(offer["capacity"])}

    def ask_for_volume(self, claim, tell):
        """No volume suits a claim: have one made, or say what is missing."""
        spec, (namespace, name), class_ = claim["spec"], key_of(claim), claim["spec"].get("storageClassName") or ""
        found, failed = self.store.get("StorageClass", "", class_), ("Warning", "ProvisioningFailed")
        if dig(found, "volumeBindingMode") == "WaitForFirstConsumer" and not any(
                name in claims_of(pod) for pod in self.store.list("Pod", namespace, holding=b'"volumes"')):
            tell("Normal", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
        elif not class_:
            tell("Normal", "FailedBinding",
                 "no persistent volumes available for this claim and no storage class is set")
        elif not found:
            tell(*failed, f'storageclass.storage.k8s.io "{class_}" not found')
        elif found["provisioner"] != PROVISIONER:
            tell("Normal", "ExternalProvisioning", "Waiting for a volume to be created either by the external "
                 f"provisioner '{found['provisioner']}' or manually by the system administrator. If volume creation is "
                 "delayed, please verify that the provisioner is running and correctly registered.")
        elif spec.get("volumeMode") == "Block" or spec.get("dataSourceRef") or spec.get("selector"):
            tell(*failed, f'Failed to provision volume with StorageClass "{class_}": an engine volume can be no block '
                 "device, no copy of other data, and not be selected by labels")
        else:
            self.add("provision", namespace, name)

    def provision(self, namespace, name):
        """Make an engine volume for a claim, and the PersistentVolume that stands for it. Blocks on the engine."""
        claim = self.store.get("PersistentVolumeClaim", namespace, name)
        class_ = self.store.get("StorageClass", "", dig(claim, "spec.storageClassName", ""))
        if not class_ or claim["spec"].get("volumeName") or is_deleting(claim):
            return
        volume = "pvc-" + claim["metadata"]["uid"]
        tell = lambda *words: self.k2d.event(claim, *words, component=PROVISIONER)
        try:
            path = self.k2d.engine.call("POST", "/volumes/create", {
                "Name": volume, "Labels": {"k2d.io/claim": f"{namespace}/{name}"}})["Mountpoint"]
            os.chmod(host_root() + path, 0o777)             # whoever the containers run as
        except (EngineError, OSError) as error:
            tell("Warning", "ProvisioningFailed",
                 f'Failed to provision volume with StorageClass "{class_["metadata"]["name"]}": {error}')
            raise EngineError(0, str(error))                # tried again
        with self.store.transaction():
            if self.store.row("PersistentVolume", ("", volume)):
                return
            self.api.create(KIND["PersistentVolume"], "", {
                "metadata": {"name": volume, "annotations": {PROVISIONED_BY: PROVISIONER}}, "spec": {
                    **pick(claim["spec"], ("accessModes", "storageClassName", "volumeMode")),
                    "capacity": claim["spec"]["resources"]["requests"],
                    "persistentVolumeReclaimPolicy": class_.get("reclaimPolicy", "Delete"),
                    "hostPath": {"path": path, "type": "Directory"},        # `docker volume rm` is noticed
                    "claimRef": {**pick(claim, ("kind", "apiVersion")),
                                 **pick(claim["metadata"], ("namespace", "name", "uid"))}}})
            tell("Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {volume} using {PROVISIONER}")

    def set_phase(self, pv, phase, **told):
        if dig(pv, "status.phase") != phase:
            pv["status"] = {"phase": phase, **told, "lastPhaseTransitionTime": now()}
        self.store.put(KIND["PersistentVolume"], pv)

    def PersistentVolume(self, pv, namespace, name):
        """Available, Bound to its claim, or Released by it; then its reclaim policy says what follows."""
        ref, phase = pv["spec"].get("claimRef") or {}, dig(pv, "status.phase")
        claim, policy = self.store.get("PersistentVolumeClaim", ref.get("namespace", ""), ref.get("name", "")), (
            pv["spec"]["persistentVolumeReclaimPolicy"])
        if not ref.get("uid"):
            self.set_phase(pv, "Available")
        elif dig(claim, "metadata.uid") == ref["uid"]:
            if phase != "Bound":
                self.add("PersistentVolumeClaim", *key_of(claim))
        elif policy == "Retain" or policy == "Delete" and is_ours(pv):
            self.set_phase(pv, "Released")
            if policy == "Delete":
                self.add("reclaim", name)
        elif phase != "Failed":
            reason, why = {"Recycle": ("VolumeFailedRecycle", "No recycler plugin found for the volume!"), "Delete": (
                "VolumeFailedDelete", f'error getting deleter volume plugin for volume "{name}": no deletable volume '
                "plugin matched")}[policy]
            self.set_phase(pv, "Failed", message=why, reason=reason)
            self.k2d.event(pv, "Warning", reason, why, component="persistentvolume-controller")

    def reclaim(self, name):
        """Remove the engine volume of a claim that is gone, then what stood for it. Blocks on the engine."""
        pv = self.store.get("PersistentVolume", "", name)
        if dig(pv, "status.phase") == "Released" and is_ours(pv):
            self.k2d.engine.call("DELETE", "/volumes/" + name, expect=(404,))
            with self.store.transaction():
                pv = self.store.get("PersistentVolume", "", name)
                if pv and not is_deleting(pv):
                    self.api.delete_object(KIND["PersistentVolume"], pv, {})

    # -- quotas, disruption budgets, tokens, custom resources
    def ResourceQuota(self, quota, namespace, name):
        used = {key: quantity_text(amount) for key, amount in quota_used(self.store, quota).items()}
        quota["status"] = {"hard": quota["spec"].get("hard") or {}, "used": used}
        self.store.put(KIND["ResourceQuota"], quota)

    def PodDisruptionBudget(self, pdb, namespace, name):
        """How many pods may be evicted now (KEP-85; pkg/controller/disruption)."""
        spec, generation = pdb["spec"], pdb["metadata"]["generation"]
        pods = [pod for pod in self.store.list("Pod", namespace) if is_selected(spec.get("selector"), pod) and
                not has_ended(pod)]
        healthy = sum(is_condition(pod, "Ready") and not is_deleting(pod) for pod in pods)
        owners = {ref["uid"]: self.owner(ref, namespace) for ref in filter(None, map(controller_of, pods))}
        scale = sum(replicas_of(owner) for owner in owners.values() if owner and "spec" in owner)
        least, most = spec.get("minAvailable"), spec.get("maxUnavailable", 0)
        expected = len(pods) if isinstance(least, int) else scale
        wanted = (resolve_count(least, expected, True) if least is not None else
                  max(0, expected - resolve_count(most, expected, True)))
        allowed = max(0, healthy - wanted) if pods else 0
        told = condition(dig(pdb, "status.conditions"), "DisruptionAllowed", str(allowed > 0),
                         "SufficientPods" if allowed else "InsufficientPods", observedGeneration=generation)
        pdb["status"] = {"observedGeneration": generation, "disruptionsAllowed": allowed, "currentHealthy": healthy,
                         "desiredHealthy": wanted, "expectedPods": expected, "conditions": [{**told, "message": ""}]}
        self.store.put(KIND["PodDisruptionBudget"], pdb)

    def ServiceAccount(self, account, namespace, name):
        """Fill Secrets of type service-account-token that came before their account."""
        for secret in self.store.list("Secret", namespace, holding=b'"kubernetes.io/service-account-token"'):
            if not secret.get("data"):
                self.k2d.access.fill_token(secret)
                self.store.put(KIND["Secret"], secret)

    def CustomResourceDefinition(self, crd, _, name):
        """Accept the names of a definition and serve its resources; when it goes, they go first."""
        if not crd:
            return register({"metadata": {"name": name}}, False)
        kind, spec, names, status = KIND["CustomResourceDefinition"], crd["spec"], crd["spec"]["names"], crd.setdefault(
            "status", {})
        old = status.get("conditions") or ()
        but = lambda *types: [c for c in old if c["type"] not in types]
        if is_deleting(crd):
            for obj in self.store.list(name):
                if not is_deleting(obj):
                    self.api.delete_object(KIND[name], obj, {})
            status["conditions"] = [*but("Terminating"), condition(
                old, "Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress")]
            if self.store.keys(name):
                self.store.put(kind, crd)
                return self.queue.add_after(1, ("CustomResourceDefinition", "", name))
            crd["metadata"]["finalizers"] = [f for f in crd["metadata"].get("finalizers") or () if f != CRD_FINALIZER]
            register(crd, False)
            return self.api.settle(kind, crd)
        others = {word for k in KINDS if k.group == spec["group"] and k.id != name for word in (k.name, k.plural)}
        taken = next((word for word in (names["kind"], names["plural"]) if word in others), "")
        status["conditions"] = [
            condition(old, "NamesAccepted", *(("False", "KindConflict", f'"{taken}" is already in use') if taken else
                                              ("True", "NoConflicts", "no conflicts found"))),
            condition(old, "Established", *(("False", "NotAccepted", "not all names are accepted") if taken else
                                            ("True", "InitialNamesAccepted", "the initial names have been accepted"))),
            *but("NamesAccepted", "Established")]
        if not taken:
            status["acceptedNames"] = names
        stored = [v["name"] for v in spec["versions"] if v.get("storage")]
        status["storedVersions"] = list(dict.fromkeys([*(status.get("storedVersions") or ()), *stored]))
        register(crd, not taken)
        self.store.put(kind, crd)

    def expire(self):
        """Forget Events after their hour, and the oldest beyond the limit at once."""
        when = lambda event: event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
        present = sorted(self.store.list("Event"), key=when)
        for i, event in enumerate(present):
            left = (seconds_of(when(event)) or 0) + EVENT_SECONDS - time.time()
            if i >= len(present) - EVENTS and left >= 0:
                return self.queue.add_after(min(left, EVENT_SECONDS) + 1, ("expire",))
            self.store.remove(KIND["Event"], event)

def deployment_conditions(d, new, sets, status, complete, enough):
    """Available, Progressing and, where a pod could not be made, ReplicaFailure, by the status before and to be."""
    spec, before, subject = d["spec"], d.get("status", {}), new or d
    old, was = before.get("conditions") or [], get_condition(d, "Progressing")
    subject = f'{subject["kind"]} "{subject["metadata"]["name"]}"'
    outdated = lambda status: status.get("replicas", 0) - status.get("updatedReplicas", 0)
    moved = not was or outdated(status) < outdated(before) or any(
        status[key] > before.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    if complete and not spec.get("paused"):
        progress = "True", "NewReplicaSetAvailable", subject + " has successfully progressed."
    elif spec.get("paused") and not new and not was:
        progress = "Unknown", "DeploymentPaused", "Deployment is paused"
    elif moved or was["reason"] == "NewReplicaSetAvailable":
        progress = "True", "ReplicaSetUpdated", subject + " is progressing."
    elif was["status"] == "True" and late_s(was) >= spec.get("progressDeadlineSeconds", 600):
        progress = "False", "ProgressDeadlineExceeded", subject + " has timed out progressing."
    else:
        progress = was["status"], was["reason"], was.get("message", "")
    able = ("MinimumReplicasAvailable", "has") if enough else ("MinimumReplicasUnavailable", "does not have")
    failures = list(filter(None, (get_condition(rs, "ReplicaFailure") for rs in sets)))
    wanted = [condition(old, "Available", str(enough), able[0], f"Deployment {able[1]} minimum availability."),
              condition(old, "Progressing", *progress),
              *(condition(old, c["type"], "True", c["reason"], c["message"]) for c in failures[:1])]
    for each in wanted:                                        # lastUpdateTime moves with the reason, or with progress
        same = next((c for c in old if all(c.get(key) == each.get(key) for key in ("type", "reason", "status"))), None)
        anew = not same or each["type"] == "Progressing" and moved and not complete
        each["lastUpdateTime"] = now() if anew else same["lastUpdateTime"]
    return wanted

def late_s(progress):
    """Seconds since a Deployment last made progress, by its condition."""
    return time.time() - (seconds_of(progress.get("lastUpdateTime")) or time.time())

def endpoint_of(pod, service, node):
    """What a pod is to a Service: (the list of Endpoints it is in, its entry there, its entry in the EndpointSlice)."""
    meta, spec, ip = pod["metadata"], pod["spec"], pod["status"]["podIP"]
    ready, deleting = is_condition(pod, "Ready"), is_deleting(pod)
    unready_too = service["spec"].get("publishNotReadyAddresses")
    serves = {"ready": bool(unready_too or ready and not deleting), "serving": ready, "terminating": deleting}
    named = spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]
    more = {**(pick(spec, ("hostname",)) if named else {}), "nodeName": node,
            "targetRef": {"kind": "Pod", **pick(meta, ("namespace", "name", "uid"))}}
    return ("addresses" if ready or unready_too else "notReadyAddresses", {"ip": ip, **more},
            {"addresses": [ip], "conditions": serves, **more})

def is_computed(obj):
    return any(label in (obj["metadata"].get("labels") or ()) for label in COMPUTED)

def target_port(port, pod):
    """The number that a Service port's targetPort means in a pod; None if the pod has no port of that name."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    return next((p["containerPort"] for c in (*pod["spec"]["containers"], *sidecars_of(pod["spec"]))
                 for p in c.get("ports") or ()
                 if p.get("name") == target and p.get("protocol", "TCP") == port.get("protocol", "TCP")), None)

def new_uid():
    """A random UUID (RFC 9562, version 4)."""
    h = "%032x" % (random.SystemRandom().getrandbits(128) & ~(0xF << 76) & ~(3 << 62) | 4 << 76 | 2 << 62)
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

# == 18. Access ==============================================================================
# Certificates by the openssl program, the admin token, and who is asking. Files 0600; nothing here is ever logged.
OPENSSL_CONFIG = """
[req] ; distinguished_name = dn ; [dn]
[ca] ; default_ca = k2d
[k2d] ; database = {folder}/index ; new_certs_dir = {folder} ; rand_serial = yes ; default_md = sha256 ; policy = any
unique_subject = no
[any] ; commonName = supplied
[root] ; basicConstraints = critical,CA:TRUE ; keyUsage = critical,keyCertSign,cRLSign,digitalSignature
subjectKeyIdentifier = hash
[leaf] ; basicConstraints = critical,CA:FALSE ; keyUsage = critical,digitalSignature ; extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash ; authorityKeyIdentifier = keyid ; subjectAltName = {names}
""".replace(" ; ", "\n")
VALID = ("-startdate", "20240101000000Z", "-enddate", "20491231235959Z")      # a clock may be years behind

User = namedtuple("User", "name groups uid extra")
ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"), "kubernetes-admin", {})
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",), "", {})
ACCOUNT_NAME = "kubernetes.io/service-account.name"

def user_info(user):
    return filled(username=user.name, uid=user.uid, groups=list(user.groups), extra=user.extra)

def in_base64(text):
    return base64.b64encode(text.encode()).decode()

def is_subject(user, subject, namespace):
    """Whether a subject of a role binding means this user."""
    if subject["kind"] == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject['name']}"
    return subject["name"] in (user.groups if subject["kind"] == "Group" else (user.name,))

def permits(rule, verb, group, resource, name, path):
    """Whether a PolicyRule allows one thing; its asterisks are the only wildcards."""
    has = lambda field, *wanted: any(value in wanted for value in rule.get(field) or ())
    if path is not None:
        return has("verbs", "*", verb) and any(path == url or url.endswith("*") and path.startswith(url[:-1])
                                               for url in rule.get("nonResourceURLs") or ())
    below = ("*/" + resource.partition("/")[2],) if "/" in resource else ()
    return has("verbs", "*", verb) and has("apiGroups", "*", group) and has("resources", "*", resource, *below) and (
        not rule.get("resourceNames") or has("resourceNames", name))

def resource_rules(*wanted, verbs):
    """A rule a group for the kinds that are asked for, by their plural."""
    groups = {}
    for kind in [kind for kind in KINDS if kind.plural in wanted]:
        below = [f"{kind.plural}/{each}" for each in kind.subresources if verbs != READ or each not in CONNECTS]
        groups.setdefault(kind.group, set()).update([kind.plural, *below])
    return [{"verbs": verbs.split(), "apiGroups": [group], "resources": sorted(found)}
            for group, found in sorted(groups.items())]
def path_rules(*paths):
    return [{"verbs": ["get"], "nonResourceURLs": list(paths)}]

CONNECTS = ("attach", "exec", "portforward")    # to get them is no mere reading
COMMON = [kind.plural for kind in KINDS if kind.namespaced and kind.group != "rbac.authorization.k8s.io" and
          kind.kept != "-" and kind.plural not in ("secrets", "resourcequotas", "limitranges", "leases", "events")]
READ, WRITE = "get list watch", "create delete deletecollection patch update"
VIEW = resource_rules(*COMMON, "namespaces", "resourcequotas", "limitranges", "events", verbs=READ)
EDIT = (VIEW + resource_rules("secrets", "leases", verbs=READ) +
        resource_rules(*COMMON, "secrets", "leases", verbs=WRITE) +
        [{"verbs": READ.split(), "apiGroups": [""], "resources": [f"pods/{name}" for name in CONNECTS]}])
PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
ROLES = {  # the ClusterRoles that every cluster has, and what they allow
    "cluster-admin": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                      {"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "admin": EDIT + resource_rules("roles", "rolebindings", verbs=f"{READ} {WRITE}") + resource_rules(
        "localsubjectaccessreviews", verbs="create"),
    "edit": EDIT, "view": VIEW,
    "system:discovery": path_rules(*sorted(["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *PUBLIC])),
    "system:public-info-viewer": path_rules(*PUBLIC),
    "system:service-account-issuer-discovery": path_rules(
        *(path + end for path in ("/.well-known/openid-configuration", "/openid/v1/jwks") for end in ("/", ""))),
    "system:basic-user": resource_rules("selfsubjectaccessreviews", "selfsubjectrulesreviews", verbs="create") +
                         resource_rules("selfsubjectreviews", verbs="create"),
}
BOOTSTRAP = {"kubernetes.io/bootstrapping": "rbac-defaults"}
GRANTED = {"cluster-admin": ("system:masters",), "system:discovery": ("system:authenticated",),
           "system:public-info-viewer": ("system:authenticated", "system:unauthenticated"),
           "system:service-account-issuer-discovery": ("system:serviceaccounts",),
           "system:basic-user": ("system:authenticated",)}      # ClusterRole -> the groups that have it

class Access:
    """The certificates and tokens of one data path; who is asking, and what they may."""
    issuer = "https://kubernetes.default.svc"

    def __init__(self, settings, store):
        self.settings, self.store, self.folder = settings, store, settings.path("pki")
        os.makedirs(self.folder, 0o700, exist_ok=True)
        self.certify()
        token = settings.path("token")
        if not settings.secret and not first_line(token):
            write_file(token, (os.urandom(24).hex() + "\n").encode())
        self.token = settings.secret or read_text(token).strip()
        if not os.path.exists(self.file("sa.key")):
            write_file(self.file("sa.key"), os.urandom(32))
        with open(self.file("sa.key"), "rb") as file:
            self.key = file.read()
        self.ca = read_text(self.file("ca.crt"))

    def file(self, name):
        return os.path.join(self.folder, name)

    def certify(self):
        """Make the CA once, and the server's certificate again whenever its names change."""
        s, within = self.settings, ("", ".default", ".default.svc", ".default.svc." + CLUSTER_DOMAIN)
        names = dict.fromkeys(["localhost", s.node, *("kubernetes" + end for end in within)])
        addresses = sorted({"127.0.0.1", "::1", s.host_ip, s.kubernetes_ip, s.gateway})
        wanted = ",".join([*("DNS:" + name for name in names), *("IP:" + address for address in addresses)])
        if not os.path.exists(self.file("ca.crt")):
            self.sign("ca", "root", "/CN=k2d-ca", "", "-selfsign")
        if first_line(self.file("server.names")) != wanted:
            self.sign("server", "leaf", "/CN=k2d", wanted, "-cert", self.file("ca.crt"))
            os.sync()                                           # what openssl wrote, before we say that it is there
            write_file(self.file("server.names"), wanted.encode())

    def sign(self, name, extensions, subject, names, *issuer):
        """Make NAME.key, for P-256 (an RSA handshake takes seconds on a small ARM), and NAME.crt, signed by the CA."""
        key, request, config, made = (self.file(name + end) for end in (".key", ".csr", ".cnf", ".pem"))
        write_file(config, OPENSSL_CONFIG.format(folder=self.folder, names=names or "DNS:none").encode())
        write_file(self.file("index"), b"")
        old = os.umask(0o077)                                   # put back only if all goes well: else k2d ends here
        for argv in (("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key),
                     ("req", "-new", "-config", config, "-key", key, "-subj", subject, "-out", request),
                     ("ca", "-batch", "-notext", "-config", config, "-extensions", extensions, "-keyfile",
                      self.file("ca.key"), *issuer, "-in", request, "-out", made, *VALID)):
            code, output = run("openssl", *argv)
            if code:
                raise SystemExit(f"k2d: openssl {argv[0]}: {output.decode('utf-8', 'replace').strip()}")
        os.umask(old)
        os.replace(made, self.file(name + ".crt"))
        for entry in os.listdir(self.folder):
            if not re.fullmatch(r"(ca|server|sa)\.(key|crt)|server\.names", entry):
                os.unlink(self.file(entry))

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])                # Go's clients offer h2 first
        context.load_cert_chain(self.file("server.crt"), self.file("server.key"))
        return context

    # -- who is asking
    def user(self, headers):
        """The User of a request's headers, impersonation included. Raises ApiError 401, 403."""
        given = headers.get("Authorization")
        scheme, _, token = (given or "").partition(" ")
        user = ANONYMOUS if given is None else self.user_of(token.strip()) if scheme.lower() == "bearer" else None
        if not user:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        name = headers.get("Impersonate-User")
        if not name:
            return user
        groups = [group for group in headers.get("Impersonate-Group", "").split(",") if group]
        for resource, who in (("users", name), *(("groups", group) for group in groups)):
            if not self.allowed(user, "impersonate", "", resource, name=who):
                raise forbidden(KIND["Pod"]._replace(plural=resource), who, f'User "{user.name}" cannot impersonate '
                                f'resource "{resource}" in API group "" at the cluster scope')
        own = ANONYMOUS.groups if name == ANONYMOUS.name else ("system:authenticated",)
        account = re.fullmatch("system:serviceaccount:([^:]+):[^:]+", name)
        more = ("system:serviceaccounts", "system:serviceaccounts:" + account[1]) if account else ()
        return User(name, tuple(dict.fromkeys([*(groups or more), *own])), headers.get("Impersonate-Uid", ""), {})

    def user_of(self, token, audiences=None):
        """The User that a bearer token stands for, or None."""
        if hmac.compare_digest(token.encode(), self.token.encode()):
            return ADMIN
        claims = self.read_token(token)
        if not claims or not set(audiences or [self.issuer]) & set(claims["aud"]):
            return None
        known, extra = claims["kubernetes.io"], {"credential-id": "JTI=" + claims["jti"]}
        namespace, prefix = known["namespace"], "authentication.kubernetes.io/"
        for kind in ("ServiceAccount", "Pod", "Secret"):        # what the token is bound to must still be there
            bound = known.get(kind.lower())
            if bound and dig(self.store.get(kind, namespace, bound["name"]), "metadata.uid") != bound["uid"]:
                return None
            if bound and kind == "Pod":
                pod = self.store.get("Pod", namespace, bound["name"])
                node = self.store.get("Node", "", pod["spec"].get("nodeName", ""))
                extra.update({f"{what}-{field}": obj["metadata"][field]
                              for what, obj in (("pod", pod), ("node", node)) if obj for field in ("name", "uid")})
        return User(claims["sub"],
                    ("system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"),
                    known["serviceaccount"]["uid"], {prefix + key: [value] for key, value in extra.items()})

    # -- service account tokens: JWTs, HMAC-SHA256 (RFC 7519, RFC 7518 3.2)
    def make_token(self, account, seconds, audiences, bound=None):
        """A token for a ServiceAccount object. seconds: how long it is good, None for ever; bound: kind, name, uid."""
        meta, start = account["metadata"], int(time.time())
        known = {"namespace": meta["namespace"], "serviceaccount": pick(meta, ("name", "uid"))}
        if bound:
            known[bound["kind"].lower()] = pick(bound, ("name", "uid"))
        claims = {"aud": list(audiences), "iat": start, "nbf": start - 60, "iss": self.issuer, "jti": new_uid(),
                  "kubernetes.io": known, "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}"}
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
        claims = json.loads(base64.urlsafe_b64decode(text.rpartition(b".")[2] + b"=="))    # more of = than needed
        return claims if claims.get("exp", time.time() + 1) > time.time() else None

    def fill_token(self, secret):
        """Give a Secret of type service-account-token what that type promises."""
        meta, wanted = secret["metadata"], (secret["metadata"].get("annotations") or {}).get(ACCOUNT_NAME, "")
        account = self.store.get("ServiceAccount", meta["namespace"], wanted)
        if account:
            meta["annotations"][ACCOUNT_NAME.replace(".name", ".uid")] = account["metadata"]["uid"]
            token = self.make_token(account, None, [self.issuer], {"kind": "Secret", **pick(meta, ("name", "uid"))})
            fill(secret.setdefault("data", {}), **{key: in_base64(value) for key, value in (
                ("ca.crt", self.ca), ("namespace", meta["namespace"]), ("token", token))})

    # -- what they may: RBAC (pkg/registry/rbac, plugin/pkg/auth/authorizer/rbac)
    def rules(self, user, namespace=None):
        """Every rule that a user has, in the cluster and in one namespace."""
        for kind, where in (("ClusterRoleBinding", ""), ("RoleBinding", namespace)):
            for binding in self.store.list(kind, where) if where is not None else ():
                if any(is_subject(user, subject, namespace) for subject in binding.get("subjects") or ()):
                    yield from self.rules_of(self.role(binding["roleRef"], where))

    def role(self, ref, namespace):
        return self.store.get(ref["kind"], namespace if ref["kind"] == "Role" else "", ref["name"])

    def rules_of(self, role):
        """The rules of a Role or ClusterRole, those it aggregates included."""
        yield from (role or {}).get("rules") or ()
        for selector in dig(role, "aggregationRule.clusterRoleSelectors", ()):
            for each in self.store.list("ClusterRole", "", selector_of(selector)):
                yield from each.get("rules") or ()

    def allowed(self, user, verb, group, resource, namespace=None, name=None, path=None):
        """Whether a user may do this: to a resource ("pods", "pods/log"), or to another path."""
        return "system:masters" in user.groups or any(
            permits(rule, verb, group, resource, name, path) for rule in self.rules(user, namespace))

    def require(self, request, verb):
        """Raise ApiError 403 unless the user of a request may do what it asks for."""
        user, kind = request.user, request.kind
        who = f"User {json.dumps(user.name)} cannot {verb}"
        if not kind:
            if self.allowed(user, verb, None, None, path=request.path):
                return
            raise ApiError(403, "Forbidden", f"forbidden: {who} path {json.dumps(request.path)}", {})
        resource = "/".join(filter(None, (kind.plural, request.subresource)))
        if not self.allowed(user, verb, kind.group, resource, request.namespace or None, request.name):
            where = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
            why = f'{who} resource "{resource}" in API group "{kind.group}" {where}'
            name = f' "{request.name}"' if request.name else ""
            why = f"{resource_name(kind)}{name} is forbidden: {why}"
            raise ApiError(403, "Forbidden", why, about(kind, request.name))

    def check_escalation(self, user, kind, obj):
        """Nobody gives away rights that they do not have (pkg/registry/rbac, escalation_check)."""
        if "system:masters" in user.groups:
            return
        namespace, ref = obj["metadata"].get("namespace"), obj.get("roleRef")
        role, verb = (self.role(ref, namespace), "bind") if ref else (obj, "escalate")
        plural, name = KIND[ref["kind"] if ref else kind.id].plural, (ref or obj["metadata"]).get("name")
        if self.allowed(user, verb, kind.group, plural, namespace, name):
            return
        for rule in self.rules_of(role):
            every = [(group, resource, namespace, name, None) for group in rule.get("apiGroups") or ()
                     for resource in rule.get("resources") or () for name in rule.get("resourceNames") or (None,)]
            every += [(None, None, namespace, None, path) for path in rule.get("nonResourceURLs") or ()]
            if not all(self.allowed(user, v, *each) for v in rule["verbs"] for each in every):
                raise forbidden(kind, obj["metadata"]["name"], f'user "{user.name}" (groups={json.dumps(user.groups)}) '
                                f"is attempting to grant RBAC permissions not currently held: {json.dumps(rule)}")

    def review(self, request, given):
        """The status of an authentication or authorization review."""
        user, spec, name = request.user, given.get("spec", {}), request.kind.name
        if name == "SelfSubjectReview":
            return {"userInfo": user_info(user)}
        if name == "TokenReview":
            found = self.user_of(spec.get("token", ""), spec.get("audiences"))
            return {"authenticated": True, "user": user_info(found), "audiences": spec.get("audiences") or [self.issuer]
                    } if found else {"user": {}, "error": "invalid bearer token"}
        if name == "SelfSubjectRulesReview":
            rules, given["spec"] = list(self.rules(user, spec.get("namespace", ""))), {}
            return {"resourceRules": [rule for rule in rules if "resources" in rule],
                    "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule], "incomplete": False}
        asked, other, faults = spec.get("resourceAttributes"), spec.get("nonResourceAttributes"), Faults()
        validate_fields(request.kind.schema, given, "", faults)
        faults.check(request.kind, "")
        if not name.startswith("Self"):
            user = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), {})
        if other is not None:
            return {"allowed": self.allowed(user, other.get("verb"), None, None, path=other.get("path", ""))}
        resource = "/".join(filter(None, (asked.get("resource"), asked.get("subresource"))))
        return {"allowed": self.allowed(user, asked.get("verb", ""), asked.get("group", ""), resource,
                                        asked.get("namespace") or None, asked.get("name"))}

    def kubeconfig(self):
        server = f"https://{self.settings.host_ip}:{self.settings.port}"
        ca = in_base64(self.ca)
        return ("apiVersion: v1\nkind: Config\nclusters:\n- name: k2d\n  cluster:\n"
                f"    server: {server}\n    certificate-authority-data: {ca}\n"
                f"users:\n- name: admin\n  user:\n    token: {self.token}\n"
                "contexts:\n- name: k2d\n  context:\n    cluster: k2d\n    user: admin\ncurrent-context: k2d\n")

# == 19. Admission, verbs, discovery, Table, OpenAPI =========================================
# What may be stored, and what each request is answered. Objects come in cleaned (section 2), leave as they rest.
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public")
SERVER_FIELDS = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
                 "deletionGracePeriodSeconds", "generateName", "managedFields")     # of metadata; an update keeps them

def pick(value, names):
    """The fields of a dict that are named, in the order of their names."""
    return {name: value[name] for name in names if name in value}
def without(value, *names):
    return {name: item for name, item in value.items() if name not in names}
def fill(obj, **defaults):
    for field, default in defaults.items():
        obj.setdefault(field, default)
def is_foreign(obj, kind="Pod"):
    return obj["kind"] == kind and FOREIGN in (obj["metadata"].get("annotations") or ())
def is_published(obj):
    return is_foreign(obj, "Service")

# -- defaults that depend on other fields; those that do not are in SCHEMA
def pull_policy(image):
    return "Always" if split_image(image or "")[1] == "latest" else "IfNotPresent"

def default_pod_spec(spec, is_pod=False):
    for _, container in containers_of(spec):
        fill(container, imagePullPolicy=pull_policy(container.get("image")), resources={})
        resources = container["resources"]
        if is_pod and resources.get("limits"):
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
        for port in container.get("ports") or () if is_pod and spec.get("hostNetwork") else ():
            fill(port, hostPort=port["containerPort"])
    for volume in spec.get("volumes") or ():
        if len(volume) == 1:
            volume["emptyDir"] = {}
        if "image" in volume:
            fill(volume["image"], pullPolicy=pull_policy(volume["image"].get("reference")))
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name

TEMPLATE_COUNT = "deprecated.daemonset.template.generation"

class Defaults:
    """A function per kind, called like it, with the new object."""
    def Pod(pod):
        spec = pod["spec"]
        default_pod_spec(spec, True)
        fill(spec, enableServiceLinks=True)
        pod["status"] = {"phase": "Pending", "qosClass": qos_class(spec) if spec.get("containers") else "BestEffort"}
    def Deployment(obj):
        strategy = obj["spec"].get("strategy") or obj["spec"].get("updateStrategy")
        if strategy is not None and strategy["type"] == "RollingUpdate":
            fill_defaults("RollingUpdate" + obj["kind"], strategy.setdefault("rollingUpdate", {}))
        default_pod_spec(obj["spec"]["template"]["spec"])
    def Service(service):
        spec = service["spec"]
        for port in spec.get("ports") or ():
            port["targetPort"] = port.get("targetPort") or port["port"]
        is_balanced, inside = spec["type"] == "LoadBalancer", "" if spec["type"] == "ExternalName" else "Cluster"
        outside = "Cluster" if is_balanced or spec["type"] == "NodePort" else ""
        fill(spec, **filled(externalTrafficPolicy=outside, allocateLoadBalancerNodePorts=is_balanced,
                            internalTrafficPolicy=inside))
        if spec["sessionAffinity"] == "ClientIP":
            fill(spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}), timeoutSeconds=10800)
        else:
            spec.pop("sessionAffinityConfig", None)
    def Node(node):
        if node["spec"].get("podCIDR"):
            fill(node["spec"], podCIDRs=[node["spec"]["podCIDR"]])
    def Secret(secret):
        for key, value in (secret.pop("stringData", None) or {}).items():
            secret.setdefault("data", {})[key] = in_base64(value)
    def ServiceAccount(account):
        account.update(filled(secrets=[pick(secret, ("name",)) for secret in account.get("secrets") or ()]))
    def ReplicationController(obj):
        spec, meta, template = obj["spec"], obj["metadata"], obj["spec"].get("template")
        labels = dig(template, "metadata.labels")
        if labels:
            spec["selector"], meta["labels"] = spec.get("selector") or labels, meta.get("labels") or labels
        if template:
            default_pod_spec(template["spec"])
    def StatefulSet(obj):
        spec, strategy = obj["spec"], obj["spec"]["updateStrategy"]
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
            fill(strategy, rollingUpdate={"partition": 0})
        for claim in spec.get("volumeClaimTemplates") or ():
            claim.update(kind="PersistentVolumeClaim", apiVersion="v1")
        default_pod_spec(spec["template"]["spec"])
    def DaemonSet(obj):
        Defaults.Deployment(obj)
        obj["metadata"].setdefault("annotations", {}).setdefault(TEMPLATE_COUNT, "1")
    def Job(job):
        spec = job["spec"]
        if "completions" not in spec and "parallelism" not in spec:
            spec["completions"] = 1
        fill(spec, parallelism=1, completionMode="NonIndexed", suspend=False, manualSelector=False,
             backoffLimit=2 ** 31 - 1 if "backoffLimitPerIndex" in spec else 6,
             podReplacementPolicy="Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
        default_pod_spec(spec["template"]["spec"])
        labels = spec["template"]["metadata"].get("labels")
        if labels and not job["metadata"].get("labels"):
            job["metadata"]["labels"] = labels                  # the same dict: see select_own_pods()
    def HorizontalPodAutoscaler(obj):
        spec, percent = obj["spec"], {"type": "Percent", "value": 100, "periodSeconds": 15}
        if not spec.get("metrics"):
            spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": {
                "type": "Utilization", "averageUtilization": 80}}}]
        if spec.get("behavior") is not None:                    # its two sides are there: see SCHEMA
            pods = dict(percent, type="Pods", value=4)
            fill(spec["behavior"]["scaleUp"], stabilizationWindowSeconds=0, policies=[pods, percent])
            fill(spec["behavior"]["scaleDown"], policies=[percent])
    def NetworkPolicy(obj):
        spec = obj["spec"]
        spec["policyTypes"] = spec.get("policyTypes") or ["Ingress"] + ["Egress"] * bool(spec.get("egress"))
    def RoleBinding(obj):
        for subject in [each for each in obj.get("subjects") or () if each["kind"] in ("User", "Group")]:
            subject["apiGroup"] = subject.get("apiGroup") or "rbac.authorization.k8s.io"
    def LimitRange(obj):
        for item in obj["spec"]["limits"] or ():
            if item["type"] == "Container":
                default = {**item.get("max", {}), **item.get("default", {})}
                request = {**item.get("min", {}), **default, **item.get("defaultRequest", {})}
                item.update(filled(default=default, defaultRequest=request))
    def PersistentVolumeClaim(claim):
        spec = claim["spec"]
        source, ref = spec.get("dataSource"), spec.get("dataSourceRef")
        if source and not ref:
            spec["dataSourceRef"] = dict(source)
        elif ref and not source and not ref.get("namespace"):
            spec["dataSource"] = dict(ref)
    def CustomResourceDefinition(crd):
        spec, names, status = crd["spec"], crd["spec"]["names"], crd["status"]
        if names.get("kind"):
            names["singular"] = names.get("singular") or names["kind"].lower()
            names["listKind"] = names.get("listKind") or names["kind"] + "List"
        fill(spec, conversion={"strategy": "None"})
        status["storedVersions"] = status.get("storedVersions") or [
            version["name"] for version in spec["versions"] or () if version["storage"]][:1]
    def Namespace(namespace):
        meta = namespace["metadata"]
        meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = meta.get("name", "")

    CronJob = lambda obj: default_pod_spec(obj["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    PodTemplate = lambda obj: default_pod_spec(obj["template"]["spec"])
    ReplicaSet, ClusterRoleBinding = Deployment, RoleBinding

# -- validation: Kubernetes' field paths, reasons and words (pkg/apis/core/validation)
def refuse(faults, rows, path="", value=None):
    """Add those of the rows (see Checks) that are wrong to Faults. path and value: of the message they are about."""
    for is_wrong, at, refusal, *found in rows:
        if is_wrong:
            what, _, why = refusal.partition(": ")
            what, why = (what, why) if what in REFUSALS else ("Invalid value", refusal)
            faults.add((path + at).lstrip("."), what, found[0] if found else found_at(value, at), why)

def adding(check):
    """A function that yields rows as one that adds them to the Faults which it is given last."""
    return lambda *given: refuse(given[-1], check(*given[:-1]))

def validate_meta(kind, meta, faults):
    if meta.get("name"):
        faults.name("metadata.name", meta["name"], KIND_NAMES.get(kind.id, "subdomain"))
    else:
        faults.add("metadata.name", "Required value", why="name or generateName is required")
    validate_fields("ObjectMeta", meta, "metadata", faults)

def found_at(value, path):
    """What stands below a value at a path such as ".ports[0].name"; None if nothing does."""
    for step in re.findall(r"[^.\[\]]+", path):
        value = value[int(step)] if isinstance(value, list) else dig(value, step)
    return value

def supported(words):
    return "Unsupported value: supported values: " + ", ".join(f'"{word}"' for word in words)

def validate_fields(type_, value, path, faults):
    """Check a message and those below it by the rules of SCHEMA, and by Checks where a rule cannot say it."""
    say = lambda *rows: refuse(faults, rows, path, value)
    rows = {}                                       # field: what is said of those below it, after what they say
    for row in getattr(Checks, type_, lambda **_: ())(**value):
        step = re.match(r"\.\w+(?=[.[])", row[1]) if row[2] != MISMATCH else None
        rows.setdefault(step and step[0], []).append(row)
    say(*rows.get(None, ()))
    for field in message(type_).by_name.values():
        found, at = value.get(field.name), f".{field.name}"
        for rule in field.rules:
            if rule == "req" and not found:
                say((True, at, "Required value"))
                break                                           # nothing more is said of what is missing
            if rule in ("need", "opt", "req") or rule[0] == "?" or found in (None, "", 0) and not (
                    found == 0 and rule[0].isdigit() or found == "" and field.always and "," in rule):
                continue
            if rule == "unique":
                say(*check_twice(at, found, field.keys[0]))
            elif rule == "@ip":
                say((not is_address(found), at, BAD_ADDRESS))
            elif rule[0] == "@":
                say(*check_name(at, rule[1:], found))
            elif ".." in rule:
                low, high = rule.split("..")
                say((found < int(low) or high and found > int(high), at, f"must be between {low} and {high}, inclusive"
                     if high else f"must be greater than or equal to {low}"))
            else:
                words = rule.lstrip("!").split(",")
                say((found not in words, at, supported(words)))
        if found is not None and field.type not in SCALARS and field.name != "metadata":
            for i, item in found.items() if field.kind == "{}" else enumerate(found) if field.kind else [("", found)]:
                validate_fields(field.type, item, f"{path}{at}[{i}]" if field.kind else path + at, faults)
        say(*rows.get(at, ()))

# What follows yields rows: whether it is wrong, the path below the message, the refusal ("Required value: why"; an
# invalid value where it names no reason) and, where that is not what stands at the path, what was found.
BAD_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
NEGATIVE = "must be greater than or equal to 0"
MISMATCH = "`selector` does not match template `labels`"
COUNTED = "pods services replicationcontrollers resourcequotas secrets configmaps persistentvolumeclaims".split()
QUOTA_NAMES = [*COUNTED, "cpu", "memory", "storage", "ephemeral-storage"]
MODES = "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"

def check_name(at, rule, name):
    return [(True, at, fault, name) for fault in name_faults(rule, name)]
def check_labels(at, labels):
    for key, value in (labels or {}).items():
        yield from check_name(at, "labelkey", key) + check_name(at, "labelvalue", value)
def check_path(at, path):
    yield path[:1] == "/", at, "must be a relative path"
    yield ".." in path.split("/"), at, "must not contain '..'"

def check_port(at, port):
    """A port by number or by name."""
    yield type(port) is int and not 1 <= port <= 65535, at, "must be between 1 and 65535, inclusive"
    yield from check_name(at, "port", port) if isinstance(port, str) else ()

def check_share(at, value, limit=100):
    """A number of pods or a percentage of them, at most the limit."""
    share = re.fullmatch(r"(\d+)%", str(value))
    yield type(value) is int and value < 0, at, NEGATIVE
    yield (isinstance(value, str) and not share, at, "a valid percent string must be a numeric string followed by an "
           "ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")
    yield share and int(share[1]) > limit, at, f"must not be greater than {limit}%"

def is_none(value):
    """Whether a share is 0 or 0%."""
    return str(value).rstrip("%") == "0"
def is_twice(i, items):
    return items[i] in items[:i]
def twice(items):
    """The places in a list at which an item stands once more."""
    return [i for i, item in enumerate(items) if item is not None and is_twice(i, items)]
def check_twice(at, items, key="name"):
    """No two items of a list have the same name."""
    return [(True, f"{at}[{i}].{key}", "Duplicate value") for i in twice([item.get(key) for item in items or ()])]

def items_of(**fields):
    """(field, key, value) of several maps."""
    return [(field, *item) for field, value in fields.items() for item in (value or {}).items()]

def check_one(word, given):
    """One field of those that a message may have, and no more."""
    yield not given, "", f"Required value: must specify a {word} type"
    for field in list(given)[1:]:
        yield True, "." + field, f"Forbidden: may not specify more than 1 {word} type"

def check_workload(word, kind):
    """The check of a workload's spec; word and kind: what its refusals call it."""
    def check(selector=None, template=None, progressDeadlineSeconds=1 << 31, minReadySeconds=0,
              podManagementPolicy="Parallel", **_):
        labels, pods = dig(template, "metadata.labels"), dig(template, "spec", {})
        yield selector is None and kind != "DaemonSet", ".selector", "Required value"
        yield selector == {}, ".selector", f"empty selector is invalid for {word}"
        yield (selector is None or selector and not selects(selector_of(selector), labels or {}),
               ".template.metadata.labels", MISMATCH, labels)
        yield pods.get("restartPolicy", "Always") != "Always", ".template.spec.restartPolicy", supported(["Always"])
        yield ("activeDeadlineSeconds" in pods, ".template.spec.activeDeadlineSeconds",
               f"Forbidden: activeDeadlineSeconds in {kind} is not Supported")
        yield (progressDeadlineSeconds <= minReadySeconds, ".progressDeadlineSeconds",
               "must be greater than minReadySeconds")
        yield (podManagementPolicy not in ("OrderedReady", "Parallel"), ".podManagementPolicy",
               "must be 'OrderedReady' or 'Parallel'")
    return check

def check_modes(modes):
    for mode in modes or ():
        yield mode not in MODES, ".accessModes", supported(MODES), mode
    yield ("ReadWriteOncePod" in (modes or ()) and len(set(modes)) > 1, ".accessModes",
           "Forbidden: may not use ReadWriteOncePod with other access modes")

def check_host(at, host):
    """The host of an Ingress: a name, of which the first label may be *."""
    rule, is_name = r"\*\." + NAME_RULES["subdomain"][0], "*" not in host and not is_address(host)
    yield is_address(host), at, "must be a DNS name, not an IP address"
    yield from check_name(at, "subdomain", host) if is_name else ()
    yield ("*" in host and not re.fullmatch(rule, host), at, "a wildcard DNS-1123 subdomain must start with '*.', "
           "followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' "
           f"and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '{rule}')")

def check_operator(op, values, known):
    """The operator of a term of a selector, and how many values it takes."""
    yield op not in known, ".operator", "not a valid selector operator"
    yield (op in ("In", "NotIn") and not values, ".values",
           "Required value: must be specified when `operator` is 'In' or 'NotIn'")
    yield (op in ("Gt", "Lt") and op in known and len(values) != 1, ".values",
           "Required value: must be specified single value when `operator` is 'Lt' or 'Gt'")
    yield (op in ("Exists", "DoesNotExist") and values, ".values",
           "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'")

class Checks:
    """A function per message, called like it with its fields, that yields rows as above."""
    def ObjectMeta(labels=None, annotations=None, ownerReferences=(), **_):
        annotations = annotations or {}
        for owner in ownerReferences or ():
            for field, word in (("apiVersion", "version "), ("kind", ""), ("name", ""), ("uid", "")):
                yield not owner[field], ".ownerReferences." + field, word + "must not be empty", ""
        names = [f"{owner['kind']}/{owner['name']}" for owner in ownerReferences or () if owner.get("controller")]
        for name in names[1:]:
            yield (True, ".ownerReferences", 'Only one reference can have Controller set to true. Found "true" in '
                   f"references for {names[0]} and {name}")
        yield from check_labels(".labels", labels)
        for key, fault in [(key, fault) for key in annotations for fault in label_key_faults(key.lower())]:
            yield True, ".annotations", fault, key
        size = sum(len(key) + len(value) for key, value in annotations.items())
        yield size > 256 << 10, ".annotations", "Too long: may not be more than 262144 bytes"
    def Volume(name="", **sources):
        yield from check_one("volume", pick(sources, ("emptyDir", *message("VolumeSource").by_name)))
        yield "configMap" in sources and not sources["configMap"].get("name"), ".configMap.name", "Required value"
    def HostPathVolumeSource(path="", **_):
        yield path and path[0] != "/", ".path", "must be an absolute path"
        yield path[:1] in ("", "/") and ".." in path.split("/"), ".path", "must not contain '..'"
    def EmptyDirVolumeSource(medium="", sizeLimit="0"):
        yield (medium not in ("", "Memory"), ".medium", "Forbidden: the engine has folders and memory to offer")
        yield (quantity_nanos(sizeLimit) < 0, ".sizeLimit",
               "Forbidden: SizeLimit field must be a valid resource quantity")
    def ServiceAccountTokenProjection(expirationSeconds, **_):
        yield expirationSeconds < 600, ".expirationSeconds", "may not specify a duration less than 10 minutes"
        yield expirationSeconds > 1 << 32, ".expirationSeconds", "may not specify a duration larger than 2^32 seconds"
    def VolumeMount(subPath="", subPathExpr="", **_):
        yield subPath and subPathExpr, ".subPathExpr", "subPathExpr and subPath are mutually exclusive"
        yield from check_path(".subPath", subPath)
        yield from check_path(".subPathExpr", subPathExpr)
    def KeyToPath(path="", **_):
        yield path[:1] == "/", ".path", "must be a relative path"
        yield path[:1] != "/" and (".." in path.split("/") or path[:2] == ".."), ".path", "must not contain '..'"
    def EnvVar(value=None, valueFrom=None, **_):
        yield valueFrom is not None and (len(valueFrom) != 1 or value), ".valueFrom", (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            if not valueFrom else "may not have more than one field specified at a time"
            if len(valueFrom) > 1 else "may not be specified when `value` is not empty"), ""
    def ResourceRequirements(limits={}, requests={}, **_):
        for side, name, quantity in items_of(limits=limits, requests=requests):
            yield quantity_nanos(quantity) < 0, f".{side}[{name}]", NEGATIVE, quantity
            yield name.startswith("hugepages-"), f".{side}[{name}]", "Forbidden: the engine cannot limit huge pages"
        for name in [name for name in requests if name in limits]:
            yield (quantity_nanos(requests[name]) > quantity_nanos(limits[name]), ".requests",
                   f"must be less than or equal to {name} limit of {limits[name]}", requests[name])
    def PodSpec(containers=(), initContainers=(), volumes=(), dnsPolicy="", dnsConfig=None, **_):
        names, regular = ([each["name"] for each in items or ()] for items in (volumes, containers))
        for i, container in enumerate(initContainers or ()):
            yield container["name"] in regular, f".initContainers[{i}].name", "Duplicate value"
            for field in pick(container, ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")):
                yield (container.get("restartPolicy") != "Always", f".initContainers[{i}].{field}",
                       "Forbidden: may not be set for init containers without restartPolicy=Always")
        for i, mounts in enumerate(container.get("volumeMounts") or () for container in containers or ()):
            targets = [mount.get("mountPath") or "/" for mount in mounts]
            for j, target in enumerate(targets):
                at, again = f".containers[{i}].volumeMounts[{j}]", is_twice(j, targets)
                yield mounts[j]["name"] not in names, at + ".name", "Not found"
                yield again or target[0] != "/", at + ".mountPath", (
                    "must be unique" if again else "must be an absolute path: the engine mounts no other"), target
        yield (dnsPolicy == "None" and not dig(dnsConfig, "nameservers"), ".dnsConfig.nameservers",
               "Required value: must provide at least one DNS nameserver when `dnsPolicy` is None")
    def ServiceSpec(type, ports=(), clusterIP="", clusterIPs=(), externalName="", **_):
        ip, host = clusterIP or (clusterIPs or [""])[0], externalName.rstrip(".")
        if ip not in ("", "None") and not is_address(ip):
            yield True, ".clusterIPs[0]", BAD_ADDRESS, ip
            return
        yield not ports and type != "ExternalName" and clusterIP != "None", ".ports", "Required value"
        yield type == "ExternalName" and not host, ".externalName", "Required value"
        yield from check_name(".externalName", "subdomain", host) if type == "ExternalName" and host else ()
        names = [port.get("name") for port in ports]
        transports = [{"Name": "", "Protocol": port.get("protocol"), "AppProtocol": None, "Port": port["port"],
                       "TargetPort": 0, "NodePort": 0} for port in ports]
        yield from check_twice(".ports", ports)
        for i, port in enumerate(ports):
            at = f".ports[{i}]"
            yield len(ports) > 1 and not names[i], at + ".name", "Required value"
            yield from check_port(at + ".targetPort", port["targetPort"])
            yield is_twice(i, transports), at, "Duplicate value", transports[i]
            yield (port.get("nodePort") and type == "ClusterIP", at + ".nodePort",
                   "Forbidden: may not be used when `type` is 'ClusterIP'")
    def ConfigMap(kind, data={}, binaryData={}, **_):
        size = 0
        for field, key, value in items_of(data=data, binaryData=binaryData):
            is_text = kind == "ConfigMap" and field == "data"
            size += len(key) + (len(value.encode()) if is_text else len(value) * 3 // 4)
            yield from check_name(f"{field}[{key}]", "key", key)
        for key in data.keys() & binaryData.keys():
            yield True, f"data[{key}]", "duplicate of key present in binaryData", key
        yield size > 1 << 20, "data" if kind == "Secret" else "[]", "Too long: may not be more than 1048576 bytes"
    def LabelSelectorRequirement(operator=None, values=(), **_):
        yield from check_operator(operator, values, OPERATORS)
        for i, value in enumerate(values or ()):
            yield from check_name(f".values[{i}]", "labelvalue", value)
    DeploymentSpec = ReplicaSetSpec = check_workload("deployment", "ReplicaSet")
    StatefulSetSpec = check_workload("statefulset", "StatefulSet")
    DaemonSetSpec = check_workload("daemonset", "DaemonSet")
    ReplicationControllerSpec = lambda selector={}, template={}, **_: check_workload("", "ReplicationController")(
        selector, template) if selector and template else ()
    NodeSelectorRequirement = lambda operator=None, values=(), **_: check_operator(
        operator, values, (*OPERATORS, "Gt", "Lt"))
    LabelSelector = lambda matchLabels={}, **_: check_labels(".matchLabels", matchLabels)
    PodTemplateSpec = lambda metadata, **_: check_labels(".labels", metadata.get("labels"))
    RuntimeClass = lambda handler="", **_: () if handler else check_name("handler", "label", "")
    def DeploymentStrategy(type=None, rollingUpdate=None):
        known = "Recreate", "RollingUpdate"
        yield type not in known, "", supported(known), {"Type": type, "RollingUpdate": rollingUpdate}
        yield (type == "Recreate" and rollingUpdate is not None, ".rollingUpdate",
               "Forbidden: may not be specified when strategy `type` is 'Recreate'")
    def RollingUpdateDeployment(maxUnavailable, maxSurge):
        yield from check_share(".maxUnavailable", maxUnavailable)
        yield from check_share(".maxSurge", maxSurge, 1 << 31)
        yield is_none(maxUnavailable) and is_none(maxSurge), ".maxUnavailable", "may not be 0 when `maxSurge` is 0"
    def DaemonSetUpdateStrategy(type, rollingUpdate=None):
        known = "RollingUpdate", "OnDelete"
        yield type not in known, "", supported(known), {"Type": type, "RollingUpdate": rollingUpdate}
    def RollingUpdateDaemonSet(**shares):
        for field, share in shares.items():
            yield from check_share("." + field, share)
        yield all(map(is_none, shares.values())), ".maxUnavailable", "Required value: cannot be 0 when maxSurge is 0"
        yield (all(re.match("0*[1-9]", str(share)) for share in shares.values()), ".maxSurge",
               "may not be set when maxUnavailable is non-zero")
    def StatefulSetUpdateStrategy(type, rollingUpdate=None):
        shown = rollingUpdate and {"Partition": rollingUpdate.get("partition"),
                                   "MaxUnavailable": rollingUpdate.get("maxUnavailable")}
        yield (type not in ("RollingUpdate", "OnDelete"), "", "must be 'RollingUpdate' or 'OnDelete'",
               {"Type": type, "RollingUpdate": shown})
        yield (type == "OnDelete" and rollingUpdate is not None, ".rollingUpdate",
               "only allowed for updateStrategy 'RollingUpdate'", shown)
    def JobSpec(template, completionMode="", parallelism=0, completions=None, podFailurePolicy=None,
                maxFailedIndexes=None, backoffLimitPerIndex=None, podReplacementPolicy="Failed", **_):
        restart, indexed = template["spec"].get("restartPolicy"), completionMode == "Indexed"
        yield restart == "Always", ".template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"'
        yield (podFailurePolicy and restart == "OnFailure", ".template.spec.restartPolicy",
               'only "Never" is supported when podFailurePolicy is specified')
        yield podFailurePolicy and podReplacementPolicy != "Failed", ".podReplacementPolicy", supported(["Failed"])
        yield indexed and completions is None, ".completions", "Required value: when completion mode is Indexed"
        yield (indexed and parallelism > 100000, ".parallelism",
               "must be less than or equal to 100000 when completion mode is Indexed")
        yield (indexed and None not in (completions, maxFailedIndexes) and maxFailedIndexes > completions,
               ".maxFailedIndexes", "must be less than or equal to completions")
        for field, count in (("backoffLimitPerIndex", backoffLimitPerIndex), ("maxFailedIndexes", maxFailedIndexes)):
            yield not indexed and count is not None, "." + field, "requires indexed completion mode"
        yield (maxFailedIndexes is not None and backoffLimitPerIndex is None, ".backoffLimitPerIndex",
               "Required value: when maxFailedIndexes is specified")
    def Job(metadata, spec, **_):
        selector, labels = spec.get("selector"), spec["template"]["metadata"].get("labels") or {}
        for key, value in own_labels(metadata).items() if selector is not None and not spec["manualSelector"] else ():
            yield (labels.get(key) != value, f"spec.template.metadata.labels[{key}]", (
                "" if key in labels else "Required value: ") + f"must be '{value}'", labels)
        mismatch = selector is None or not selects(selector_of(selector), labels)
        yield selector is None, "spec.selector", "Required value"
        yield mismatch, "spec.template.metadata.labels", MISMATCH, labels or None
    def CronJob(metadata, **_):
        yield len(metadata.get("name", "")) > 52, "metadata.name", "must be no more than 52 characters"
    def CronJobSpec(jobTemplate, schedule="", timeZone=None, **_):
        has_zone, parts, zone, at = "TZ" in schedule, schedule.split(), timeZone, ".jobTemplate.spec"
        yield has_zone, ".schedule", "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        yield (schedule and not has_zone and schedule[0] != "@" and len(parts) != 5, ".schedule",
               f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
        yield zone == "", ".timeZone", "timeZone must be nil or non-empty string"
        yield (zone == "Local", ".timeZone",
               "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
        yield (zone not in (None, "", "Local") and (".." in zone or zone[0] == "/" or not os.path.isfile(
            "/usr/share/zoneinfo/" + zone)), ".timeZone", f"unknown time zone {zone}")
        yield "selector" in jobTemplate["spec"], at + ".selector", "`selector` will be auto-generated"
        yield jobTemplate["spec"].get("manualSelector"), at + ".manualSelector", supported(["nil", "false"])
    def PersistentVolumeClaimSpec(resources, accessModes=(), **_):
        storage, at = resources.get("requests", {}).get("storage"), ".resources[storage]"
        yield not accessModes, ".accessModes", "Required value: at least 1 access mode is required"
        yield from check_modes(accessModes)
        yield storage is None, at, "Required value"
        yield quantity_nanos(storage or 1) <= 0, at, "must be greater than zero", storage
    def PersistentVolumeSpec(capacity={}, accessModes=(), nodeAffinity=None, **more):
        yield from check_modes(accessModes)
        yield set(capacity) != {"storage"}, ".capacity", supported(["storage"]), capacity
        for name, quantity in capacity.items():
            yield quantity_nanos(quantity) <= 0, f".capacity[{name}]", "must be greater than zero", quantity
        yield from check_one("volume", [name for name in more if name in message("PersistentVolumeSource").by_name])
        yield ("local" in more and not dig(nodeAffinity, "required"), ".nodeAffinity",
               "Required value: Local volume requires node affinity")
    def IngressSpec(rules=(), tls=(), defaultBackend=None, **_):
        yield not rules and defaultBackend is None, "", "either `defaultBackend` or `rules` must be specified", None
        for i, rule in enumerate(rules):
            yield from check_host(f".rules[{i}].host", rule["host"]) if rule.get("host") else ()
        for i, each in enumerate(tls):
            for j, host in enumerate(each.get("hosts") or ()):
                yield from () if is_address(host) else check_host(f".tls[{i}].hosts[{j}]", host)
    def HTTPIngressPath(backend, path="", pathType=None):
        exact = pathType in ("Exact", "Prefix")
        if pathType is None:
            yield True, ".pathType", "Required value: pathType must be specified"
            return
        yield ((exact or path and pathType == "ImplementationSpecific") and path[:1] != "/", ".path",
               "must be an absolute path", path)
        for part in ("//", "/./", "/../", "%2f", "%2F"):
            yield exact and part in path, ".path", f"must not contain '{part}'"
        for end in ("/..", "/."):
            yield exact and path.endswith(end), ".path", f"cannot end with '{end}'"
        yield not backend, ".backend", "resource or service backend is required", ""
    def IngressBackend(service=None, resource=None):
        port, both = dig(service, "port", {}), service is not None and resource is not None
        yield both, "", "cannot set both resource and service backends", ""
        yield not both and len(port) > 1, "", "cannot set both port name & port number", ""
        yield service is not None and not both and not port, "", "Required value: port name or number is required"
    def IngressClassSpec(controller="", **_):
        yield (controller and not re.fullmatch(NAME_RULES["subdomain"][0] + "/.+", controller), ".controller",
               'must be a domain-prefixed path (such as "acme.io/foo")')
    def NetworkPolicySpec(policyTypes=(), **_):
        for i, word in enumerate(policyTypes):
            yield word not in ("Ingress", "Egress"), f".policyTypes[{i}]", supported(["Ingress", "Egress"])
    def Container(ports=(), livenessProbe=None, startupProbe=None, **_):
        yield from check_twice(".ports", ports)
        for field, probe in (("livenessProbe", livenessProbe), ("startupProbe", startupProbe)):
            yield dig(probe, "successThreshold", 1) != 1, f".{field}.successThreshold", "must be 1"
    def Node(spec, **_):
        effects = "NoSchedule", "PreferNoSchedule", "NoExecute"
        for i, taint in enumerate(spec.get("taints") or ()):
            at, effect = f"metadata.taints[{i}]", taint["effect"]
            yield from check_name(at + ".key", "labelkey", taint["key"])
            yield from check_name(at + ".value", "labelvalue", taint.get("value", ""))
            yield effect not in effects, at + ".effect", supported(effects) if effect else "Required value", effect
    def EndpointSubset(addresses=(), notReadyAddresses=(), **_):
        yield (not addresses and not notReadyAddresses, "",
               "Required value: must specify `addresses` or `notReadyAddresses`")
    def NodeSelector(nodeSelectorTerms, **_):
        yield not nodeSelectorTerms, ".nodeSelectorTerms", "Required value: must have at least one node selector term"
    def PodAffinityTerm(topologyKey, **_):
        yield not topologyKey, ".topologyKey", "Required value: can not be empty"
        yield from check_name(".topologyKey", "labelkey", topologyKey)
    def TopologySpreadConstraint(topologyKey, maxSkew, **_):
        yield maxSkew < 1, ".maxSkew", "must be greater than zero"
        yield not topologyKey, ".topologyKey", "Required value: can not be empty"
    def EndpointSlice(addressType="", endpoints=(), ports=(), **_):
        yield from check_twice("ports", ports)
        for i, endpoint in enumerate(endpoints or ()):
            at, addresses = f"endpoints[{i}].addresses", endpoint.get("addresses") or ()
            yield not addresses, at, "Required value: must contain at least 1 address"
            for j, address in enumerate(addresses if addressType in ("IPv4", "IPv6") else ()):
                good, fits = is_address(address), (addressType == "IPv6") == (":" in address)
                yield not good, f"{at}[{j}]", BAD_ADDRESS
                yield good and not fits, at, f"must be an {addressType} address", address
    def PolicyRule(verbs=None, nonResourceURLs=None, **rule):
        yield not verbs, ".verbs", "Required value: verbs must contain at least one value"
        yield (nonResourceURLs and any(rule.values()), ".nonResourceURLs",
               "rules cannot apply to both regular resources and non-resource URLs")
        for field, word in (("apiGroups", "api group"), ("resources", "resource")):
            yield (not nonResourceURLs and not rule.get(field), "." + field,
                   f"Required value: resource rules must supply at least one {word}")
    def AggregationRule(clusterRoleSelectors=None):
        yield (not clusterRoleSelectors, ".clusterRoleSelectors",
               "Required value: at least one clusterRoleSelector required if aggregationRule is non-nil")
    def Role(rules=(), **_):
        for i, rule in enumerate(rules or ()):
            yield (rule.get("nonResourceURLs"), f"rules[{i}].nonResourceURLs",
                   "namespaced rules cannot apply to non-resource URLs")
    def RoleBinding(kind, roleRef, subjects=(), **_):
        known = ["Role"] * (kind == "RoleBinding") + ["ClusterRole"]
        yield roleRef.get("kind") not in known, "roleRef.kind", supported(known)
        yield from check_name("roleRef.name", "path", roleRef.get("name") or "")
        for at, subject in [(f"subjects[{i}]", subject) for i, subject in enumerate(subjects)]:
            is_account, name = subject.get("kind") == "ServiceAccount", subject.get("name")
            group = "" if is_account else "rbac.authorization.k8s.io"
            yield (subject.get("kind") in ("ServiceAccount", "User", "Group") and subject.get("apiGroup", "") != group,
                   at + ".apiGroup", supported([group]), subject.get("apiGroup", ""))
            yield from check_name(at + ".name", "subdomain", name) if is_account and name else ()
            yield (is_account and kind == "ClusterRoleBinding" and not subject.get("namespace"), at + ".namespace",
                   "Required value")
    def HorizontalPodAutoscalerSpec(scaleTargetRef, maxReplicas=0, minReplicas=1, **_):
        version = scaleTargetRef.get("apiVersion", "")
        yield maxReplicas < 1, ".maxReplicas", "must be greater than 0"
        yield maxReplicas < minReplicas, ".maxReplicas", "must be greater than or equal to `minReplicas`"
        yield "/" not in version, ".scaleTargetRef.apiVersion", "apiVersion must specify API group", version
    def PodDisruptionBudgetSpec(minAvailable=None, maxUnavailable=None, selector=None, unhealthyPodEvictionPolicy=None):
        yield from check_share(".minAvailable", minAvailable)
        yield from check_share(".maxUnavailable", maxUnavailable)
        yield (None not in (minAvailable, maxUnavailable), "", "minAvailable and maxUnavailable cannot be both set",
               {"MinAvailable": minAvailable, "Selector": selector, "MaxUnavailable": maxUnavailable,
                "UnhealthyPodEvictionPolicy": unhealthyPodEvictionPolicy})
    def LimitRangeSpec(limits):
        types = [item.get("type") for item in limits or ()]
        for i, type_ in enumerate(types):
            yield (type_ not in ("Pod", "Container", "PersistentVolumeClaim") and "/" not in type_,
                   f".limits[{i}].type", "must be a standard limit type or fully qualified")
            yield is_twice(i, types), f".limits[{i}].type", "Duplicate value"
            for field in ("default", "defaultRequest"):
                yield (type_ == "Pod" and limits[i].get(field), f".limits[{i}].{field}",
                       "Forbidden: may not be specified when `type` is 'Pod'")
    def ResourceQuotaSpec(hard={}, **_):
        for name, quantity in hard.items():
            at, odd = f".hard[{name}]", not set("./") & set(name) and name not in QUOTA_NAMES
            yield quantity_nanos(quantity) < 0, at, NEGATIVE, quantity
            yield name in COUNTED and quantity_nanos(quantity) % 10 ** 9, at, "must be an integer", quantity
            yield odd, at, "must be a standard resource type or fully qualified", name
            yield odd, at, "must be a standard resource for quota", name
    def PriorityClass(metadata, value, **_):
        name = metadata.get("name", "")
        is_system = name.startswith("system-")
        yield (is_system and name not in ("system-node-critical", "system-cluster-critical"), "metadata.name",
               "Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: "
               f"{name} is not a known system priority class")
        yield (not is_system and value > 10 ** 9, "value",
               "Forbidden: maximum allowed value of a user defined priority is 1000000000")
    def SelfSubjectAccessReviewSpec(resourceAttributes=None, nonResourceAttributes=None, **_):
        absent = [resourceAttributes, nonResourceAttributes].count(None)
        yield (absent == 2, ".resourceAttributes",
               "exactly one of nonResourceAttributes or resourceAttributes must be specified")
        yield absent == 0, ".nonResourceAttributes", "cannot be specified in combination with resourceAttributes"
    def SubjectAccessReviewSpec(user="", groups=(), **about):
        yield from Checks.SelfSubjectAccessReviewSpec(**about)
        yield not user and not groups, ".user", "at least one of user or group must be specified", ""
    def Binding(target, **_):
        yield target.get("kind", "Node") != "Node", "target.kind", supported(["Node", "<empty>"])
        yield not target.get("name"), "target.name", "Required value"
    def CustomResourceDefinition(metadata, spec, **_):
        names, group, versions = spec["names"], spec.get("group", ""), spec["versions"] or ()
        listed = [version["name"] for version in versions]
        yield (metadata.get("name") != f"{names.get('plural', '')}.{group}", "metadata.name",
               'must be spec.names.plural+"."+spec.group')
        for field in ("plural", "singular", "kind", "listKind"):
            name = names.get(field)
            faults = name_faults("rfc1035", name.lower()) if name and field.lower().endswith("kind") else ()
            yield not name, "spec.names." + field, "Required value"
            yield faults, "spec.names." + field, "may have mixed case, but should otherwise match: " + ",".join(faults)
        for field in ("shortNames", "categories"):
            for i, name in enumerate(names.get(field) or ()):
                yield from check_name(f"spec.names.{field}[{i}]", "rfc1035", name)
        yield (names.get("kind") and names["kind"] == names.get("listKind"), "spec.names.listKind",
               "kind and listKind may not be the same")
        yield group and "." not in group, "spec.group", "should be a domain with at least one dot"
        for i, version in enumerate(versions):
            at, schema = f"spec.versions[{i}]", dig(version, "schema.openAPIV3Schema")
            yield from check_name(at + ".name", "rfc1035", version["name"])
            yield not schema, at + ".schema.openAPIV3Schema", "Required value"
        yield (sum(version["storage"] for version in versions) != 1, "spec.versions",
               "must have exactly one version marked as storage version", listed)
        yield len(set(listed)) < len(listed), "spec.versions", "must contain unique version names", listed
    def Probe(**probe):
        yield from check_one("handler", [name for name in message("ProbeHandler").by_name if name in probe])
        for handler in ("httpGet", "tcpSocket"):
            yield from check_port(f".{handler}.port", dig(probe, f"{handler}.port"))
    def Toleration(key="", operator=None, value="", effect="", tolerationSeconds=None):
        yield (not key and operator != "Exists", ".operator", "operator must be Exists when `key` is empty, which "
               'means "match all values and all keys"', operator or "")
        yield (tolerationSeconds is not None and effect != "NoExecute", ".effect",
               "effect must be 'NoExecute' when `tolerationSeconds` is set", effect)
        yield operator == "Exists" and value, ".operator", "value must be empty when `operator` is 'Exists'", value
        yield from check_name(".operator", "labelvalue", value) if operator in (None, "Equal") else ()
    def ClientIPConfig(timeoutSeconds=1):
        yield not 0 < timeoutSeconds <= 86400, ".timeoutSeconds", "must be greater than 0 and less than 86400"
    def EnvFromSource(**sources):
        for field in ("configMapRef", "secretRef"):
            yield field in sources and not sources[field].get("name"), f".{field}.name", "Required value"

    Secret, ClusterRoleBinding = ConfigMap, RoleBinding

def fixed(pod_spec):
    """What an update of a pod may not change (pkg/apis/core/validation, ValidatePodUpdate)."""
    return {**without(pod_spec, "tolerations", "activeDeadlineSeconds", "schedulingGates"), **{
        field: [without(each, "image") for each in pod_spec.get(field) or ()] for field in CONTAINERS}}

CONTAINERS = ("containers", "initContainers")
IMMUTABLE = {  # kind -> fields that an update may not change
    "Deployment": "spec.selector", "ReplicaSet": "spec.selector", "DaemonSet": "spec.selector", "Secret": "type",
    "Job": "spec.completionMode spec.selector spec.podFailurePolicy spec.backoffLimitPerIndex spec.managedBy",
    "RuntimeClass": "handler", "IngressClass": "spec.controller", "EndpointSlice": "addressType",
    "CustomResourceDefinition": "spec.scope", "ControllerRevision": "data",
}
FORBIDDEN = [  # kind, where, which fields (- all but these), why they may not change
    ("StatefulSet", "spec", "- replicas ordinals template updateStrategy revisionHistoryLimit minReadySeconds "
     "persistentVolumeClaimRetentionPolicy", "updates to statefulset spec for fields other than 'replicas', "
     "'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
     "'minReadySeconds' are forbidden"),
    ("PersistentVolumeClaim", "spec", "- volumeName storageClassName", "spec is "
     "immutable after creation except resources.requests and volumeAttributesClassName for bound claims"),
    ("PersistentVolume", "spec.persistentvolumesource", "- capacity accessModes claimRef mountOptions nodeAffinity "
     "persistentVolumeReclaimPolicy storageClassName volumeAttributesClassName volumeMode",
     "spec.persistentvolumesource is immutable after creation"),
    *(("StorageClass", field, field, f"updates to {field} are forbidden.") for field in (
        "parameters", "provisioner", "reclaimPolicy", "volumeBindingMode")),
    ("PriorityClass", "value", "value", "may not be changed in an update."),
]

def keep_assigned(kind, obj, old):
    """What an update need not say again, since the server had filled it in, or may not say."""
    spec, before = obj.get("spec"), old.get("spec")
    if kind.id == "Service":
        exposed, numbers = ("NodePort", "LoadBalancer"), lambda spec: {
            port.get("nodePort") for port in spec.get("ports") or ()} - {None}
        if before["type"] in exposed and spec["type"] not in exposed:   # it loses what only served that, if unchanged
            for port in spec.get("ports") or () if numbers(spec) == numbers(before) else ():
                port.pop("nodePort", None)
            for field in ("externalTrafficPolicy", "allocateLoadBalancerNodePorts", "loadBalancerClass"):
                if spec.get(field) == before.get(field):
                    spec.pop(field, None)
        if "ExternalName" not in (spec["type"], before["type"]):
            spec.update(filled(clusterIP=spec.get("clusterIP") or before.get("clusterIP")))
    elif kind.id == "Namespace":
        spec.update(pick(before, ("finalizers",)))
    elif kind.id == "Pod" and not is_foreign(obj):
        add_tolerations(spec)
        fill(spec, **pick(before, ("priority", "preemptionPolicy")))
    elif kind.id == "DaemonSet":
        count = int(old["metadata"]["annotations"][TEMPLATE_COUNT]) + (before["template"] != spec["template"])
        obj["metadata"]["annotations"][TEMPLATE_COUNT] = str(count)

@adding
def validate_update(kind, old, new):
    """What may not change."""
    before, after, status = old.get("spec", {}), new.get("spec", {}), old.get("status")
    if kind.id == "PersistentVolumeClaim" and dig(status, "phase") == "Bound":
        old = {**old, "spec": {**before, **pick(after, ("resources", "volumeAttributesClassName"))}}
    for path in IMMUTABLE.get(kind.id, "").split():
        had, found = (dig(obj, path) for obj in (old, new))
        yield had != found, path, "field is immutable", "" if found is None and isinstance(had, str) else found
    for _, where, fields, why in [row for row in FORBIDDEN if row[0] == kind.id]:
        had, found = ({key: value for key, value in (obj["spec"] if where.startswith("spec") else obj).items()
                       if (key in fields.split()) != (fields[0] == "-")} for obj in (old, new))
        yield had != found, where, "Forbidden: " + why
    if kind.id in ("RoleBinding", "ClusterRoleBinding"):
        found = dict(zip(("APIGroup", "Kind", "Name"), pick(new["roleRef"], ("apiGroup", "kind", "name")).values()))
        yield old["roleRef"] != new["roleRef"], "roleRef", "cannot change roleRef", found
    elif kind.id == "Job":
        had, found = before.get("completions"), after.get("completions")
        is_elastic = after.get("completionMode") == "Indexed" and found == after.get("parallelism")
        yield had != found and not is_elastic, "spec.completions", "field is immutable", found
        is_asleep = before.get("suspend") and not dig(status, "startTime")
        rest = lambda template: template if not is_asleep else {
            "metadata": without(template["metadata"], "labels", "annotations"),
            "spec": without(template["spec"], "nodeSelector", "affinity", "tolerations", "schedulingGates")}
        yield (rest(before["template"]) != rest(after["template"]), "spec.template", "field is immutable",
               after["template"])
    elif kind.id == "Pod":
        for i, gate in enumerate(after.get("schedulingGates") or ()):
            yield (gate not in (before.get("schedulingGates") or ()), f"spec.schedulingGates[{i}].name",
                   f"Forbidden: only deletion is allowed, but found new scheduling gate '{gate['name']}'")
        for field in CONTAINERS:
            if len(before.get(field) or ()) != len(after.get(field) or ()):
                yield True, "spec." + field, "Forbidden: pod updates may not add or remove containers"
                return
        had, found = ([without(each, "tolerationSeconds") for each in spec.get("tolerations") or ()]
                      for spec in (before, after))
        yield (any(each not in found for each in had), "spec.tolerations",
               "Forbidden: existing toleration can not be modified except its tolerationSeconds")
        yield (fixed(before) != fixed(after), "spec", "Forbidden: pod updates may not change fields other than "
               "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
               "`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
               "(allow it to be set to 1 if it was previously negative)")
    elif kind.id == "PersistentVolumeClaim":
        has = quantity_nanos(dig(status, "capacity.storage", "0"))
        yield (has >= claim_nanos(new) < claim_nanos({"spec": before}), "spec.resources.requests.storage",
               "Forbidden: field can not be less than status.capacity")
    elif kind.id == "Service" and "ExternalName" not in (before["type"], after["type"]):
        had, found = before.get("clusterIP"), after.get("clusterIP")
        yield had and found not in ("", None, had), "spec.clusterIPs[0]", "may not change once set", [found]
    yield (old.get("immutable") and any(old.get(f) != new.get(f) for f in ("data", "binaryData", "immutable")),
           "data" if new.get("immutable") else "immutable", "Forbidden: field is immutable when `immutable` is set")
    kept = old["metadata"].get("finalizers") or ()
    added = ", ".join(f'"{name}"' for name in new["metadata"].get("finalizers") or () if name not in kept)
    yield (is_deleting(old) and added, "metadata.finalizers", "Forbidden: no new finalizers can be added if the object "
           f"is being deleted, found new finalizers []string{{{added}}}")

NOT_EPHEMERAL = ("lifecycle livenessProbe ports readinessProbe resizePolicy resources restartPolicy restartPolicyRules "
                 "startupProbe").split()        # those of a container that an ephemeral one may not have

@adding
def validate_ephemeral(kind, old, new):
    """What may not be done to spec.ephemeralContainers: one only adds (ValidatePodEphemeralContainersUpdate)."""
    where, why = "spec.ephemeralContainers", "Forbidden: cannot be set for an Ephemeral Container"
    present = {each["name"]: each for each in new["spec"].get("ephemeralContainers") or ()}
    others = {each["name"] for field in CONTAINERS for each in new["spec"].get(field) or ()}
    yield is_foreign(old), "", "Forbidden: static pods do not support ephemeral containers"
    for each in old["spec"].get("ephemeralContainers") or ():
        yield (present.get(each["name"]) != each, where, f'Forbidden: existing ephemeral containers "{each["name"]}" '
               f"may not be {'changed' if each['name'] in present else 'removed'}\n")
    for i, each in enumerate(present.values()):
        at, target = f"{where}[{i}].", each.get("targetContainerName")
        yield each["name"] in others, at + "name", "Duplicate value", each["name"]
        yield target and target not in others, at + "targetContainerName", "Not found", target
        for field in filter(each.get, NOT_EPHEMERAL):
            yield True, at + field, why
        for j, mount in enumerate(each.get("volumeMounts") or ()):
            for field in filter(mount.get, ("subPath", "subPathExpr")):
                yield True, f"{at}volumeMounts[{j}].{field}", why

# -- custom resources: a CustomResourceDefinition's structural schema does for them what SCHEMA does for the others
TYPES = {"object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "integer": (int,),
         "number": (int, float)}
FORMATS = {  # a format of a string -> whether a text has it
    "date-time": TIME.fullmatch, "date": lambda text: TIME.fullmatch(text + "T00:00:00Z"),
    "byte": re.compile(r"[A-Za-z0-9+/]*={0,2}").fullmatch, "email": lambda text: "@" in text[1:-1],
    "ipv4": lambda text: is_address(text) and "." in text, "ipv6": lambda text: is_address(text) and ":" in text,
    "uuid": re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch}
SIZES = {  # type -> what its limits are called, and how a value below the least is refused
    str: ("Length", "should be at least {} chars long"), list: ("Items", "should have at least {} items"),
    dict: ("Properties", "should have at least {} properties")}
LOOSE, EMBEDDED = "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"

def schema_below(schema, name):
    """The schema of a field; None if there is no such field."""
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    return known[name] if name in known else more if isinstance(more, dict) else (
        {LOOSE: True} if more or schema.get(LOOSE) else None)

def clean_custom(schema, value, findings, path=""):
    """A custom resource, or a part of it, without the fields that its schema does not know."""
    if isinstance(value, list):
        one = schema.get("items") or {LOOSE: True}
        return [clean_custom(one, item, findings, f"{path}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    out, is_object = {}, not path or schema.get(EMBEDDED)
    for name, item in value.items():
        where, below = f"{path}.{name}" if path else name, schema_below(schema, name)
        if is_object and name == "metadata" and not path and not isinstance(item, dict):
            raise Mismatch("json: cannot unmarshal metadata: want an object")
        if is_object and name == "metadata" and isinstance(item, dict):
            out[name] = clean_message(message("ObjectMeta"), item, findings, where)
        elif is_object and name in ("kind", "apiVersion"):
            out[name] = item
        elif below is None:
            findings.unknown.append(where)
        elif item is not None or name not in schema.get("properties", {}) or below.get("nullable"):
            out[name] = clean_custom(below, item, findings, where)
    if not path:
        out.setdefault("metadata", {})
    return out

def default_custom(schema, value):
    """Fill in a structural schema's defaults, in place."""
    for item in value if isinstance(value, list) else ():
        default_custom(schema.get("items") or {}, item)
    if isinstance(value, dict):
        fill(value, **{name: json.loads(dumps(each["default"])) for name, each in schema.get("properties", {}).items()
                       if "default" in each})
        for name, item in value.items():
            default_custom(schema_below(schema, name) or {}, item)

def check_custom(schema, value, path):
    """Rows of what is wrong with (a part of) a custom resource by its schema (k8s.io/kube-openapi, pkg/validation)."""
    where, type_, keys = path.lstrip("."), schema.get("type"), schema.get("x-kubernetes-list-map-keys")
    at, body, items = where or "<nil>", where + " in body ", []
    if value is None and (schema.get("nullable") or not type_):
        return
    wanted = TYPES.get(type_, (int, str) if schema.get("x-kubernetes-int-or-string") else None)
    is_whole = type(value) is float and wanted == (int,) and value == int(value)
    if wanted and type(value) not in wanted and not is_whole:
        found = next((name for name, types in TYPES.items() if type(value) in types), "null")
        yield True, at, f'{body}must be of type {type_ or "integer,string"}: "{found}"', found
        return
    known = schema.get("enum", [value])
    yield value not in known, at, "Unsupported value: supported values: " + ", ".join(
        dumps(each).decode() for each in known), value
    if type(value) in (int, float):
        for key, word in (("minimum", "greater"), ("maximum", "less")):
            bound, bare = schema.get(key, value), schema.get("exclusive" + key.title())
            yield ((value < bound if word == "greater" else value > bound) or bare and key in schema and value == bound,
                   at, f"{body}should be {word} than {'' if bare else 'or equal to '}{bound:g}", value)
        step = schema.get("multipleOf")
        yield step and value % step, at, f"{body}should be a multiple of {step or 0:g}", value
    needed = [*schema.get("required", ()), *(("apiVersion", "kind") if schema.get(EMBEDDED) else ())]
    for name in needed if isinstance(value, dict) else ():
        yield name not in value, f"{path}.{name}", "Required value"
    if type(value) in SIZES:
        size, (word, too_few) = len(value), SIZES[type(value)]
        most, least, is_text = schema.get("max" + word, size), schema.get("min" + word, 0), isinstance(value, str)
        yield size > most, at, (f"Too long: may not be more than {most} bytes" if is_text else
                                f"Too many: must have at most {most} item{'s' * (most != 1)}"), size
        yield size < least, at, body + too_few.format(least), value if is_text else size
    if isinstance(value, str):
        pattern, format_ = schema.get("pattern", ""), schema.get("format")
        yield not pattern_of(pattern).search(value), at, f"{body}should match '{pattern}'", value
        yield (not FORMATS.get(format_, lambda text: True)(value), at,
               f"{body}must be of type {format_}: {json.dumps(value)}", value)
    elif isinstance(value, list):
        if schema.get("x-kubernetes-list-type") in ("map", "set"):
            names = [pick(item, keys) if keys and isinstance(item, dict) else item for item in value]
            yield from [(True, f"{at}[{i}]", "Duplicate value", names[i]) for i in twice(names)]
        items = [(schema.get("items"), item, f"{path}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, dict):
        items = [(schema_below(schema, name), item, f"{path}.{name}") for name, item in value.items()
                 if path or name not in ("metadata", "kind", "apiVersion")]
    for below, item, there in items:
        yield from check_custom(below or {}, item, there)
    is_valid = lambda each: not any(row[0] for row in check_custom(each, value, path))
    for word, wanted in (("anyOf", "at least one schema"), ("oneOf", "one and only one schema"),
                         ("allOf", "all the schemas")):
        each_of = schema.get(word, ())
        good = sum(map(is_valid, each_of))
        is_good, why = {
            "anyOf": (good, ""), "allOf": (good == len(each_of), "" if good else ". None validated"),
            "oneOf": (good == 1, f". Found {good} valid alternatives" if good else ". Found none valid")}[word]
        for each in each_of if word == "allOf" else ():
            yield from check_custom(each, value, path)
        if each_of and not is_good:
            yield True, "<nil>", f'"{where}" must validate {wanted} ({word}){why}', ""
            yield from check_custom(each_of[0], value, path) if not good and word != "allOf" else ()
    yield "not" in schema and is_valid(schema["not"]), "<nil>", f'"{where}" must not validate the schema (not)', ""

validate_custom = adding(check_custom)

@lru_cache(maxsize=256)
def pattern_of(text):
    """A pattern of a schema, compiled once; one that Python cannot read matches everything."""
    try:
        return re.compile(re.sub(r"\[\[:(\w+):\]\]", r"[\\w]", text))
    except re.error:
        return re.compile("")

def kinds_of(definition):
    """The Kinds of a definition's served versions: first the one objects rest in, then as discovery orders them."""
    spec, names = definition["spec"], definition["spec"]["names"]
    def rank(version):
        found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version["name"])
        return (1, -("alpha", "beta", None).index(found[2]), -int(found[1]), -int(found[3] or 0)) if found else (
            2, version["name"])
    return [Kind(names["kind"], spec["group"], version["name"], names["plural"],
                 names.get("singular") or names["kind"].lower(), tuple(names.get("shortNames") or ()),
                 spec["scope"] == "Namespaced", ALL, tuple(pick(version.get("subresources", {}), ("scale", "status"))),
                 ("gen", "obj", *(names.get("categories") or ())), "disk", definition["metadata"]["name"],
                 dig(version, "schema.openAPIV3Schema", {LOOSE: True}), version)
            for version in sorted(spec["versions"], key=rank)]

def register(definition, is_served=True):
    """Serve the custom resources of a definition as it is now, or no longer. The table is replaced, never changed:
    other threads may be reading it."""
    global KINDS
    name = definition["metadata"]["name"]
    old = [kind for kind in KINDS if kind.crd and kind.id == name]
    new = kinds_of(definition) if is_served else []
    served = [kind for kind in new if kind.crd.get("served")]
    KINDS = [kind for kind in KINDS if kind not in old] + served
    for kind in old:
        RESOURCES.pop((kind.group, kind.version, kind.plural), None)
    RESOURCES.update({(kind.group, kind.version, kind.plural): kind for kind in served})
    KIND.update({name: kind for kind in new if kind.crd.get("storage")})
    if not new:
        KIND.pop(name, None)

# -- admission: what a cluster's default plugins add to new objects, or refuse (plugin/pkg/admission)
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"

def own_labels(meta):
    """What the pods of a Job are labelled with, in both spellings."""
    return {prefix + key: value for prefix in ("", "batch.kubernetes.io/")
            for key, value in (("controller-uid", meta["uid"]), ("job-name", meta.get("name", "")))}

def select_own_pods(job):
    """A Job's pods carry its uid, unless it brings a selector of its own; the two old label names remain."""
    spec, meta = job["spec"], job["metadata"]
    if not spec["manualSelector"]:
        labels = spec["template"]["metadata"].setdefault("labels", {})
        fill(labels, **own_labels(meta))
        meta["labels"] = meta.get("labels") or labels
        fill(spec.setdefault("selector", {}).setdefault("matchLabels", {}),
             **{"batch.kubernetes.io/controller-uid": meta["uid"]})

def add_tolerations(spec):
    """A pod outlives trouble of its node for five minutes, unless it says something else."""
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key") in (None, key) and t.get("effect") in (None, "NoExecute") for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})

def merge_label_keys(part, labels):
    """Put what matchLabelKeys and mismatchLabelKeys, anywhere in a part of a new pod, mean into the selector beside."""
    if isinstance(part, dict) and part.get("labelSelector") is not None:
        more = [{"key": key, "operator": operator, "values": [labels[key]]}
                for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
                for key in part.get(field) or () if key in labels]
        part["labelSelector"].update(filled(matchExpressions=part["labelSelector"].get("matchExpressions", []) + more))
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        merge_label_keys(each, labels)

def admit_pod(store, pod):
    """Priority, runtime class, limit ranges, the service account and its token. Raises ApiError 403."""
    spec, kind, name = pod["spec"], KIND["Pod"], pod["metadata"].get("name", "")
    spec["serviceAccountName"] = spec["serviceAccount"] = spec.get("serviceAccountName") or "default"
    fill(spec, priority=0, preemptionPolicy="PreemptLowerPriority")
    add_tolerations(spec)
    wanted, runtime = spec.get("priorityClassName"), spec.get("runtimeClassName")
    chosen = next((each for each in store.list("PriorityClass") if (
        each["metadata"]["name"] == wanted if wanted else each.get("globalDefault"))), None)
    if wanted and not chosen:
        raise forbidden(kind, name, f"no PriorityClass with name {wanted} was found")
    if chosen:
        if spec["priority"] not in (0, chosen["value"]):
            raise forbidden(
                kind, name, f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
                f"priority admission controller computed {chosen['value']} from the given PriorityClass name")
        spec.update(priority=chosen["value"], priorityClassName=chosen["metadata"]["name"],
                    preemptionPolicy=chosen.get("preemptionPolicy", "PreemptLowerPriority"))
    if runtime:
        found = store.get("RuntimeClass", "", runtime)
        if not found:
            raise forbidden(kind, name, f'pod rejected: RuntimeClass "{runtime}" not found')
        where, own = found.get("scheduling") or {}, spec.get("nodeSelector") or {}
        for key, value in (where.get("nodeSelector") or {}).items():
            if own.get(key, value) != value:
                raise forbidden(kind, name, f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                                f"pod.spec.nodeSelector[{key}] = {own[key]}")
        spec.update(filled(overhead=dig(found, "overhead.podFixed"),
                           nodeSelector={**where.get("nodeSelector", {}), **own}))
        spec["tolerations"] += [t for t in where.get("tolerations") or () if t not in spec["tolerations"]]
    merge_label_keys([spec.get(key) for key in ("affinity", "topologySpreadConstraints")], labels_of(pod))
    if spec.get("schedulingGates"):
        set_condition(pod, "PodScheduled", "False", "SchedulingGated",
                      "Scheduling is blocked due to non-empty scheduling gates")
    limit_ranges(store, kind, pod)
    pod["status"]["qosClass"] = qos_class(spec) if spec.get("containers") else "BestEffort"
    namespace, user = pod["metadata"]["namespace"], spec["serviceAccountName"]
    account = store.get("ServiceAccount", namespace, user)
    if not account and user != "default":                       # that one comes a moment after its namespace
        raise forbidden(kind, name,
                        f'error looking up service account {namespace}/{user}: serviceaccount "{user}" not found')
    if dig(account, "imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    wants = dig({**(account or {}), **spec}, "automountServiceAccountToken", True)
    bare = [container for _, container in containers_of(spec)
            if TOKEN_FOLDER not in [mount.get("mountPath") for mount in container.get("volumeMounts", ())]]
    if wants and bare:
        volume = "kube-api-access-" + "".join(random.choices(SAFE_LETTERS, k=5))
        for container in bare:
            container.setdefault("volumeMounts", []).append(
                {"name": volume, "readOnly": True, "mountPath": TOKEN_FOLDER})
        field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
        spec.setdefault("volumes", []).append({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}}]}})

IS_DEFAULT = "storageclass.kubernetes.io/is-default-class"

def default_class(store):
    """The name of the StorageClass for claims that name none: the newest that is marked so; None if none is."""
    marked = [(c["metadata"]["creationTimestamp"], c["metadata"]["name"]) for c in store.list(
        "StorageClass", holding=IS_DEFAULT.encode()) if c["metadata"]["annotations"].get(IS_DEFAULT) == "true"]
    return max(marked)[1] if marked else None

def claim_nanos(claim):
    return quantity_nanos(dig(claim, "spec.resources.requests.storage", "0"))

def check_expansion(store, old, new):
    """Whether a claim may grow. Raises ApiError 403 (plugin/pkg/admission/storage/persistentvolume/resize)."""
    class_ = store.get("StorageClass", "", new["spec"].get("storageClassName") or "")
    why = ("Only bound persistent volume claims can be expanded" if dig(old, "status.phase") != "Bound" else
           "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must "
           "support resize" if not dig(class_, "allowVolumeExpansion") else "")
    if why and claim_nanos(new) > claim_nanos(old):
        raise forbidden(KIND["PersistentVolumeClaim"], new["metadata"]["name"], why)

def limit_ranges(store, kind, obj):
    """Fill in the defaults of the namespace's LimitRanges, then hold the object against them. Raises ApiError 403."""
    notes, faults = [], []
    for limit in [limit for each in store.list("LimitRange", obj["metadata"].get("namespace"))
                  for limit in each["spec"].get("limits") or ()]:
        about = limit["type"]
        if kind.id == about == "PersistentVolumeClaim":
            faults += limit_faults(limit, dig(obj, "spec.resources", {}))
        elif kind.id == about == "Pod":
            faults += limit_faults(limit, {side: {name: quantity_text(nanos) for name, nanos in total_of(
                obj["spec"], side).items()} for side in ("requests", "limits")})
        for _, container in containers_of(obj["spec"]) if kind.id == "Pod" and about == "Container" else ():
            resources = container.setdefault("resources", {})
            for side, field, word in (("requests", "defaultRequest", "request"), ("limits", "default", "limit")):
                new = {k: v for k, v in (limit.get(field) or {}).items() if k not in resources.get(side, {})}
                if new:
                    resources[side] = {**resources.get(side, {}), **new}
                    notes.append(f"{', '.join(sorted(new))} {word} for container {container['name']}")
            faults += limit_faults(limit, resources)
    if notes:
        obj["metadata"].setdefault("annotations", {})["kubernetes.io/limit-ranger"] = (
            "LimitRanger plugin set: " + "; ".join(notes))
    if faults:
        raise forbidden(kind, obj["metadata"].get("name", ""),
                        faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]")

def total_of(pod_spec, side):
    """What the containers of a pod have together in their requests or limits: {resource: units of 10^-9}."""
    used = Counter()
    for container in pod_spec.get("containers") or ():
        amounts = dig(container, f"resources.{side}", {})
        used.update({name: quantity_nanos(quantity) for name, quantity in amounts.items()})
    return used

def limit_faults(limit, resources):
    """What is wrong with {requests, limits} by one item of a LimitRange, a sentence each."""
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for field, word, side, found, sign in (("min", "minimum", "request", requests, 1),
                                           ("max", "maximum", "limit", limits, -1)):
        for name, bound in sorted((limit.get(field) or {}).items()):
            text = f"{word} {name} usage per {limit['type']} is {bound}"
            is_claim = name not in found and limit["type"] == "PersistentVolumeClaim"   # it has requests alone
            has = requests.get(name) if is_claim else found.get(name)
            if has is None:
                yield f"{text}.  No {side} is specified"
            elif (quantity_nanos(has) - quantity_nanos(bound)) * sign < 0:
                yield f"{text}, but {'request' if is_claim else side} is {has}"
    for name, bound in sorted((limit.get("maxLimitRequestRatio") or {}).items()):
        text = f"{name} max limit to request ratio per {limit['type']} is {bound}, but "
        most, least = (quantity_nanos(side.get(name, "0")) for side in (limits, requests))
        if not most or not least:
            yield f"{text}no {'limit' if least else 'request'} is specified or {'limit' if least else 'request'} is 0"
        elif most / least > quantity_nanos(bound) / 1e9:
            yield f"{text}provided ratio is {most / least:.6f}"

def quota_usage(kind, obj):
    """What an object counts for a ResourceQuota: {resource: units of 10^-9}."""
    one, spec = 10 ** 9, obj.get("spec", {})
    out = {"count/" + resource_name(kind): one, **({} if kind.group else {kind.plural: one})}
    if kind.id == "Pod":
        if has_ended(obj):
            return {"count/pods": one}
        for side in ("requests", "limits"):
            amounts = total_of(spec, side)
            out.update({f"{side}.{name}": nanos for name, nanos in amounts.items()})
            out.update(pick(amounts, ("cpu", "memory", "ephemeral-storage")) if side == "requests" else {})
    elif kind.id == "Service":
        is_balanced = spec["type"] == "LoadBalancer"
        ports = len(spec.get("ports") or ()) if is_balanced or spec["type"] == "NodePort" else 0
        out.update({"services.nodeports": ports * one, "services.loadbalancers": is_balanced * one})
    elif kind.id == "PersistentVolumeClaim":
        size, prefix = claim_nanos(obj), f"{spec.get('storageClassName', '')}.storageclass.storage.k8s.io/"
        out.update({"requests.storage": size, prefix + "requests.storage": size, prefix + kind.plural: one})
    return out

SCOPES = {  # what a scope of a quota selects among pods
    "Terminating": lambda spec: spec.get("activeDeadlineSeconds") is not None,
    "NotTerminating": lambda spec: spec.get("activeDeadlineSeconds") is None,
    "BestEffort": lambda spec: qos_class(spec) == "BestEffort",
    "NotBestEffort": lambda spec: qos_class(spec) != "BestEffort",
    "PriorityClass": lambda spec: bool(spec.get("priorityClassName")),
    "CrossNamespacePodAffinity": lambda spec: b'"namespace' in dumps(spec.get("affinity") or {}),
}

def in_scopes(quota, kind, obj):
    """Whether a ResourceQuota is about an object: scopes are about pods alone."""
    spec, terms = obj.get("spec", {}), dig(quota, "spec.scopeSelector.matchExpressions", [])
    terms = terms + [{"scopeName": scope, "operator": "Exists"} for scope in quota["spec"].get("scopes") or ()]
    def fits(term):
        scope, op = term["scopeName"], term["operator"]
        by_name = scope == "PriorityClass" and op in ("In", "NotIn")
        found = (spec.get("priorityClassName", "") in (term.get("values") or ()) if by_name else
                 SCOPES.get(scope, lambda spec: False)(spec))
        return found == (op in ("In", "Exists"))
    return not terms or kind.id == "Pod" and all(map(fits, terms))

def quota_used(store, quota):
    """{resource: units of 10^-9} that the namespace's objects use of a quota's hard limits."""
    hard, namespace, used = quota["spec"].get("hard") or {}, quota["metadata"]["namespace"], {}
    for kind in [kind for kind in KINDS if kind.namespaced and kind.kept != "-" and is_stored(kind)]:
        names = {"count/" + resource_name(kind), kind.plural, "ephemeral-storage"}
        if kind.id in ("Pod", "Service", "PersistentVolumeClaim"):
            names |= {"requests", "limits", "cpu", "memory", "services"}
        if any({name, name.partition(".")[0]} & names or ".storageclass." in name for name in hard):
            for obj in store.list(kind.id, namespace):
                for name, amount in quota_usage(kind, obj).items() if in_scopes(quota, kind, obj) else ():
                    used[name] = used.get(name, 0) + amount
    return {name: used.get(name, 0) for name in hard}

def check_quota(store, kind, obj, old=None):
    """Refuse what would go beyond a ResourceQuota of the namespace (403). The caller's transaction holds."""
    meta = obj["metadata"]
    for quota in store.list("ResourceQuota", meta["namespace"]) if kind.namespaced else ():
        hard = quota["spec"].get("hard") or {}
        if not in_scopes(quota, kind, obj) or kind.id == "ResourceQuota" and "resourcequotas" not in hard:
            continue
        if kind.id == "Pod":
            text = "; ".join(sorted(
                f"{name} for: {c['name']}" for name in hard for c in obj["spec"].get("containers") or ()
                for side, resource in [name.split(".", 1) if "." in name else ("requests", name)]
                if side in ("requests", "limits") and resource in ("cpu", "memory", "ephemeral-storage") and
                resource not in dig(c, f"resources.{side}", {})))
            if text:
                raise forbidden(kind, meta["name"], f"failed quota: {quota['metadata']['name']}: must specify {text}")
        before = quota_usage(kind, old) if old else {}
        more = {name: amount - before.get(name, 0) for name, amount in quota_usage(kind, obj).items()
                if name in hard and amount > before.get(name, 0)}
        used = quota_used(store, quota) if more else {}
        limits = {name: quantity_nanos(hard[name]) for name in more}
        over = sorted(name for name in more if used[name] + more[name] > limits[name])
        if over:
            requested, used, limited = (",".join(f"{name}={quantity_text(amounts[name])}" for name in over)
                                        for amounts in (more, used, limits))
            raise forbidden(kind, meta["name"], f"exceeded quota: {quota['metadata']['name']}, requested: {requested}, "
                            f"used: {used}, limited: {limited}")

Form = namedtuple("Form", "kind version include columns")   # kind: "" objects, "Table" or "PartialObjectMetadata"
Answer = namedtuple("Answer", "code body content_type headers")

class Request:
    """One request. warnings: sentences for Warning headers, gathered on the way; given: the body before cleaning."""
    def __init__(self, method, target, headers, user):
        path, _, query = target.partition("?")
        self.method, self.path, self.headers, self.user = method, urllib.parse.unquote(path), headers, user
        self.target = target
        self.options = urllib.parse.parse_qsl(query, keep_blank_values=True)      # as given, some of them repeated
        self.query = dict(self.options)
        self.content_type, self.dry_run = headers.get("Content-Type", ""), "dryRun" in self.query
        self.body, self.given, self.warnings = b"", None, []
        self.kind, self.namespace, self.name, self.subresource, self.method_name = None, "", None, "", ""

    def manager(self, operation):
        """Who its changes belong to: its fieldManager, else the first word of its User-Agent."""
        agent = self.headers.get("User-Agent", "").partition("/")[0]
        return Manager(self.query.get("fieldManager") or agent[:128] or "unknown", operation, group_version(self.kind),
                       self.subresource)

    def managers(self, kind, old, before, after):
        """The managers after its update of old (None: a new object); it may give those before it, or clear them all."""
        given = dig(self.given, "metadata.managedFields")
        try:
            present = {} if given in ([], [{}]) else read_managers(
                given if isinstance(given, list) else dig(old, "metadata.managedFields"))
        except (TypeError, AttributeError):
            raise bad_request("metadata.managedFields: want a list of entries as the server gives them")
        return updated_managers(place_of(kind.schema), before, after, present, self.manager("Update"),
                                "status" in kind.subresources) if present or not old else {}

    @property
    def form(self):
        """The Form of its answer. Raises ApiError 406."""
        return negotiate(self.headers.get("Accept"), self.query)

    def flag(self, name):
        return self.query.get(name, "false") not in ("false", "0")      # anything else is true to Kubernetes

    def number(self, name, default=0):
        """An integer of the query. Raises ApiError 400."""
        try:
            return int(self.query.get(name) or default)
        except ValueError:
            raise no_number(self.query[name])

def no_number(text):
    return bad_request(f"strconv.ParseInt: parsing {dumps(text).decode()}: invalid syntax")

def route(request, parts):
    """Set kind, namespace (None: all), name and subresource by the parts of the path. Raises ApiError 404."""
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    if rest and rest[0] == "watch":                             # deprecated, but Kubernetes still answers it
        request.query["watch"], rest = "1", rest[1:]
    namespace = None
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in RESOURCES:
        namespace, rest = rest[1], rest[2:]
    kind = RESOURCES.get((group, version, rest[0])) if rest else None
    if rest[2:3] == ["proxy"]:                                  # what follows is for whom it is passed on to
        rest = rest[:3]
    if not kind or len(rest) > 3 or namespace is not None and not kind.namespaced:
        raise no_such_resource()
    request.kind, request.namespace = kind, namespace if kind.namespaced else ""
    _, request.name, request.subresource = rest + [None, ""][len(rest) - 1:]
    if (request.subresource and request.subresource not in kind.subresources or
            kind.namespaced and namespace is None and request.name):
        raise no_such_resource()

def negotiate(accept, query):
    """The Form by the Accept header; the first that we can give. Raises ApiError 406."""
    for choice in (accept or "*/*").split(","):
        media, *parameters = [part.strip() for part in choice.split(";")]
        if media not in ("application/json", "application/*", "*/*", "application/yaml"):     # JSON is YAML
            continue
        given = dict(p.split("=", 1) for p in parameters if "=" in p)
        kind, version = given.get("as", "").replace("MetadataList", "Metadata"), f"{given.get('g')}/{given.get('v')}"
        if not kind:
            return Form("", "", "", True)
        if kind in ("Table", "PartialObjectMetadata") and version in ("meta.k8s.io/v1", "meta.k8s.io/v1beta1"):
            return Form(kind, version, query.get("includeObject", "Metadata"), True)
    raise not_acceptable()

def not_acceptable():
    return ApiError(406, "NotAcceptable", "406: Not Acceptable\n\nAvailable representations: application/json, "
                    "application/yaml, application/vnd.kubernetes.protobuf", {})

def answer(code, body, content_type="application/json", headers=()):
    return Answer(code, body if isinstance(body, bytes) else dumps(body) + b"\n", content_type, dict(headers))

VERBS = {  # (method, whether one object is named) -> (method of Api, verb of KINDS); HEAD is as GET
    ("GET", False): ("list", "list"), ("POST", False): ("post", "create"), ("GET", True): ("get", "get"),
    ("DELETE", False): ("delete_all", "deletecollection"), ("DELETE", True): ("delete", "delete"),
    ("PUT", True): ("update", "update"), ("PATCH", True): ("update", "patch"), ("POST", True): ("", "create")}
SUB_VERBS = {"log": ["get"], "finalize": ["update"], **dict.fromkeys(("binding", "eviction", "token"), ["create"]),
             **dict.fromkeys(("scale", "status", "ephemeralcontainers"), ["get", "patch", "update"]),
             **dict.fromkeys(CONNECTS, ["create", "get"]), "proxy": ["create", "delete", "get", "patch", "update"]}
SUB_KINDS = {name: kind_of(line + " - Namespace - - -") for name, line in (      # what subresources read and answer
    ("scale", "autoscaling/v1 Scale"), ("eviction", "policy/v1 Eviction"), ("binding", "v1 Binding"),
    ("token", "authentication.k8s.io/v1 TokenRequest"), ("delete", "v1 DeleteOptions"),
    ("attach", "v1 PodAttachOptions"), ("exec", "v1 PodExecOptions"), ("portforward", "v1 PodPortForwardOptions"))}
SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
APPLY, STRATEGIC = "application/apply-patch+yaml", "application/strategic-merge-patch+json"
CONDITIONAL = ("Lease", "RuntimeClass", "PodDisruptionBudget", "CustomResourceDefinition")   # a PUT names the version
PROTECTED = {  # new objects of a kind -> the finalizer that they get
    "PersistentVolumeClaim": "kubernetes.io/pvc-protection", "PersistentVolume": "kubernetes.io/pv-protection"}
PATCHES = {  # Content-Type -> (what the body must be, what Go calls that, how it is applied)
    "application/json-patch+json": (list, "[]handlers.jsonPatchOp", lambda type_, *both: json_patch(*both)),
    "application/merge-patch+json": (dict, "map[string]interface {}", lambda type_, *both: merge_patch(*both)),
    STRATEGIC: (dict, "map[string]interface {}", strategic_merge)}

WAITING = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}    # a log

class Api:
    """The verbs. Every method may run in any thread."""
    def __init__(self, k2d):
        self.k2d, self.settings, self.store, self.access = k2d, k2d.settings, k2d.store, k2d.access

    def admit(self, request):
        """Find out what a request is about and whether its user may; its body need not be read yet. Raises ApiError."""
        parts = [part for part in request.path.split("/") if part]
        group = "" if parts[:1] == ["api"] else parts[1] if parts[:1] == ["apis"] and len(parts) > 2 else None
        of_group = {kind.version for kind in KINDS if kind.group == group}
        if of_group and (len(parts) > (3 if group else 2) or parts[-1] not in of_group and len(parts) > 1):
            route(request, parts)
        method = request.method.replace("HEAD", "GET")
        if not request.kind:
            return self.access.require(request, method.lower())
        request.method_name, verb = VERBS.get((method, request.name is not None), ("", ""))
        if request.method == "GET" and not request.subresource and request.flag("watch"):
            request.method_name = verb = "watch"
        nowhere = verb in ("create", "deletecollection") and (request.name or request.namespace is None)
        if verb not in (SUB_VERBS.get(request.subresource) or request.kind.verbs.split()) or (
                nowhere and not request.subresource):
            raise wrong_method()
        self.access.require(request, verb)

    def handle(self, request):
        """The Answer to a request for resources; a watch or a log is a function that takes over the connection."""
        if request.kind.id == "Endpoints":
            request.warnings.append("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        if (request.kind.id, request.namespace, request.method) == ("Lease", "kube-node-lease", "GET"):
            self.k2d.renew_lease()
        subresource, name = request.subresource, {"-": "review", "usage": "usage"}.get(request.kind.kept)
        if subresource in ("log", "binding", "eviction", "token", "proxy"):
            name = subresource
        return getattr(self, "connect" if subresource in CONNECTS else name or request.method_name)(request)

    def find(self, request):
        """The bytes of the object that a request names. Raises ApiError 404."""
        row = self.store.row(request.kind.id, (request.namespace or "", request.name))
        if not row:
            raise not_found(request.kind, request.name)
        return row.raw

    def get(self, request):
        raw, form = self.find(request), request.form
        return answer(200, to_scale(request.kind, json.loads(raw)) if request.subresource == "scale" else
                      shown(request.kind, raw, form))

    def selection(self, request):
        """What a request for several objects is about, as a Watch without form. Raises ApiError 400."""
        labels = parse_selector(request.query.get("labelSelector", ""))
        terms = parse_field_selector(request.kind, request.query.get("fieldSelector", ""))
        name = request.name or next((value for path, equal, value in terms if path == "metadata.name" and equal), None)
        terms = [term for term in terms if term != ("metadata.name", True, name)]
        return Watch(request.kind, request.namespace, name, labels, terms, None, request.flag("allowWatchBookmarks"))

    def list(self, request):
        check_options("ListOptions", request.query)
        kind, wanted, form = request.kind, self.selection(request), request.form
        limit, (start, at) = request.number("limit"), self.start(request)
        since = parse_version(request.query.get("resourceVersion"))
        if request.query.get("resourceVersionMatch") == "Exact":
            at = since
        version, rows = self.store.snapshot(kind.id, request.namespace, at=at)
        if since > self.store.version:
            why = "Too large resource version"
            raise ApiError(504, "Timeout", f"Timeout: {why}: {since}, current: {version}",
                           {"causes": [{"reason": "ResourceVersionTooLarge", "message": why}]}, retry_after=1)
        picked = [(key, row.raw) for key, row in rows if key > start and wanted.matches(key, row.raw, row.labels)]
        meta = {"resourceVersion": str(version)}
        if 0 < limit < len(picked):
            meta["continue"] = continue_token(version, picked[limit - 1][0])
            if not wanted.selector and not wanted.fields:
                meta["remainingItemCount"] = len(picked) - limit
            picked = picked[:limit]
        return listed(kind, [raw for _, raw in picked], meta, form)

    def start(self, request):
        """(the key after which a list goes on, the version it shows, 0: the present). Raises ApiError 400, 410."""
        token = request.query.get("continue")
        if not token:
            return ("", ""), 0
        try:
            found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            (namespace, name), version, made = found["start"].split("/", 1), int(found["rv"]), float(found.get("t", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise bad_request("invalid continue token: continue key is not valid: it was not made by this server")
        if version < 0 or version >= self.store.floor and 0 <= time.time() - made < CONTINUE_S:
            return (namespace, name), max(0, version)
        error = ApiError(410, "Expired", "The provided continue parameter is too old to display a consistent list "
                         "result. You can start a new list without the continue parameter, or use the continue token "
                         "in this response to retrieve the remainder of the results. Continuing with the provided "
                         "token results in an inconsistent list - objects that were created, modified, or deleted "
                         "between the time the first chunk was returned and now may show up in the list.")
        error.status["metadata"] = {"continue": continue_token(-1, (namespace, name))}
        raise error

    def watch(self, request):
        check_options("ListOptions", request.query)
        watch, initial = self.selection(request), request.query.get("sendInitialEvents") in ("true", "1")
        since, watch.form = parse_version(request.query.get("resourceVersion")), request.form
        seconds = request.number("timeoutSeconds") or random.randrange(1800, 3600)
        try:
            if initial or not since:
                watch.version, rows = self.store.snapshot(request.kind.id, request.namespace, watch)
                first = [watch.encode("ADDED", row.raw) for key, row in rows if watch.matches(key, row.raw, row.labels)]
                if initial and watch.bookmarks:
                    first.append(watch.bookmark(watch.version, initial=True))
            else:
                watch.version, changes = self.store.since(since, watch)
                first = [watch.event(change, {}) for change in changes if change.kind.id == request.kind.id]
        except ApiError as error:                               # 410: on the stream, as Kubernetes tells it
            first, watch = [chunk(dumps({"type": "ERROR", "object": error.status}) + b"\n"), b"0\r\n\r\n"], None
        except BaseException:
            self.store.unwatch(watch)
            raise
        return lambda handler: handler.serve_watch(watch, list(filter(None, first)), seconds)

    def read(self, request, kind):
        """The body of a request as a clean object of a kind; warnings noted. Raises ApiError 400, 415, 422."""
        duplicates = None if request.query.get("fieldValidation") == "Ignore" else []
        body = request.given = parse_body(request.body, request.content_type, kind, duplicates)
        return self.cleaned(request, body, kind, duplicates)

    @staticmethod
    def cleaned(request, body, kind, duplicates=()):
        """A body as an object of a kind, with the fields that it knows and no others; warnings noted."""
        validation, findings = request.query.get("fieldValidation") or "Warn", Findings([], [], [])
        name, given = ("", "") if kind.id == "DeleteOptions" else (body.get("kind"), body.get("apiVersion"))
        version, by = group_version(kind), {STRATEGIC: 1, APPLY: 2}.get(request.content_type.partition(";")[0], 0)
        def misfit(why, name=kind.name, version=kind.version):
            return bad_request(f'{name} in version "{version}" cannot be handled as a {kind.name}: {why}')
        def typed(why):
            where = f"{request.namespace or ''}/{request.name}; {kind.group}/{kind.version}, Kind={kind.name}"
            return ApiError(400, "", f"failed to create typed patch object ({where}): {why}")
        if name not in (None, "", kind.name):
            raise bad_request(f"the kind in the data ({name}) does not match the expected kind ({kind.name})") if (
                kind.crd) else misfit(f"converting ({kind.version}.{name}) to ({kind.group.split('.')[0] or 'core'}."
                                      f"{kind.name}): unknown conversion", name)
        if given not in (None, "", version):
            raise misfit(f'no kind "{kind.name}" is registered for version "{given}" in scheme '
                         '"pkg/runtime/scheme.go:111"', version=given)
        try:
            obj = (clean_custom if kind.crd else clean)(kind.schema, body, findings)
        except Mismatch as error:
            found = error.args[min(len(error.args) - 1, by)]
            raise typed(found) if found.startswith(".") else misfit(found)
        if findings.unknown and by == 2:
            raise typed(f".{findings.unknown[0]}: field not declared in schema")
        unknown = sorted(findings.unknown) if by == 1 else findings.unknown
        faults = [f'{what} field "{path}"' for what, paths in (("unknown", unknown), ("duplicate", duplicates or ()))
                  for path in paths]
        if faults and validation == "Strict":
            raise misfit("strict decoding error: " + ", ".join(faults))
        request.warnings += faults if validation == "Warn" else ()
        request.warnings += [f"{path}: accepted, but k2d does not act on it" for path in findings.hints
                             if found_at(obj, path.replace("emptyDir.sizeLimit", "emptyDir.medium")) != "Memory"]
        refused = Faults()
        for path in findings.refused:
            refused.add(path, "Forbidden", why="k2d cannot honour this field" + (
                ", and the pod would run wrongly without it" if "containers" in path or "spec" in path else ""))
        refused.check(kind, dig(obj, "metadata.name", ""))
        return {"kind": kind.name, "apiVersion": version, **without(obj, "kind", "apiVersion")}

    @staticmethod
    def reply(request, code, obj):
        return answer(code, shown(request.kind, dumps(obj), request.form))

    def post(self, request):
        check_options("CreateOptions", request.query)
        obj = self.read(request, request.kind)
        if request.kind.namespaced and obj["metadata"].get("namespace") not in (None, "", request.namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        return self.reply(request, 201, self.create(request.kind, request.namespace, obj, request.dry_run, request))

    def create(self, kind, namespace, obj, dry_run=False, request=None, managers=None):
        """Admit and store a new object; returns it as stored. Controllers call this too. Raises ApiError."""
        if request is None:                                     # our own: into the same shape
            obj = clean(kind.schema, obj, Findings([], [], []))
        obj = {"kind": kind.name, "apiVersion": group_version(kind), **obj}
        meta = obj["metadata"] = without(obj["metadata"], "selfLink", "resourceVersion", "deletionTimestamp",
                                         "deletionGracePeriodSeconds", "managedFields", "generation", "namespace")
        if request and meta.get("annotations"):
            meta["annotations"].pop(FOREIGN, None)              # ours alone: it means a container of somebody else
        with self.store.transaction():
            if kind.namespaced:
                meta["namespace"] = namespace
                self.check_namespace(kind, namespace, meta.get("name", ""))
            if not meta.get("name") and meta.get("generateName"):
                base = meta["generateName"][:58]
                names = iter(lambda: base + "".join(random.choices(SAFE_LETTERS, k=5)), "")
                meta["name"] = next(name for name in names if not self.store.row(kind.id, (namespace, name)))
            meta.update(uid=new_uid(), creationTimestamp=now())
            if "gen" in kind.marks:
                meta["generation"] = 1
            if "status" in kind.subresources:
                obj.pop("status", None)
                if not kind.crd:
                    obj["status"] = empty_object(kind)["status"]
            obj = self.prepare(kind, obj, None, request, managers)
            if self.store.row(kind.id, (meta.get("namespace", ""), meta["name"])):
                raise already_exists(kind, meta["name"])
            check_quota(self.store, kind, obj)
            if not dry_run:
                self.store.put(KIND[kind.id], obj)
        return obj

    def check_namespace(self, kind, namespace, name):
        row = self.store.row("Namespace", ("", namespace))
        if not row:
            raise not_found(KIND["Namespace"], namespace)
        if b'"phase":"Terminating"' in row.raw:
            cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated",
                     "field": "metadata.namespace"}
            raise forbidden(kind, name, f"unable to create new content in namespace {namespace} because it is being "
                            "terminated", [cause])

    def prepare(self, kind, obj, old, request=None, managers=None):
        """Defaults, admission, validation, allocation of an object to be stored instead of old. Raises ApiError."""
        meta, status, faults = obj["metadata"], obj.get("status"), Faults()
        owners = meta.get("ownerReferences") or ()
        meta.update(filled(ownerReferences=[each for i, each in enumerate(owners) if not is_twice(i, owners)]))
        if kind.crd or not is_foreign(obj):                     # those say what the engine says, and no more
            (default_custom if kind.crd else fill_defaults)(kind.schema, obj)
        obj, home = to_stored(kind, obj), KIND[kind.id]
        getattr(Defaults, "" if is_foreign(obj) else home.id, lambda obj: None)(obj)
        if old and status is not None:
            obj["status"] = to_stored(kind, {**obj, "status": status})["status"]     # defaults are for new objects
        if managers is None and request:
            before = to_served(kind, old) if old else empty_object(kind)
            managers = request.managers(kind, old, before, to_served(kind, obj))
        if managers is not None:
            meta.pop("managedFields", None)
            meta.update(filled(managedFields=write_managers(managers)))
        if not old:
            self.admit_new(home, obj)
        else:
            keep_assigned(home, obj, old)
            if home.id == "PersistentVolumeClaim":
                check_expansion(self.store, old, obj)
        validate_meta(home, meta, faults)
        if home.crd:
            validate_custom(kind.schema, obj, "", faults)
        elif not is_foreign(obj):
            validate_fields(home.schema, obj, "", faults)
        if old:
            is_debug = request and request.subresource == "ephemeralcontainers"
            (validate_ephemeral if is_debug else validate_update)(home, old, obj, faults)
        if not old and home.id == "Pod" and obj["spec"].get("ephemeralContainers"):
            faults.add("spec.ephemeralContainers", "Forbidden", why="cannot be set on create")
        faults.check(kind, meta.get("name", ""))
        if home.id in ("Role", "ClusterRole"):
            obj["rules"] = obj.get("rules") or None            # Kubernetes stores protobuf, without empty lists
        if home.group == "rbac.authorization.k8s.io" and request:
            self.access.check_escalation(request.user, home, obj)
        if home.id == "Service":
            self.allocate(obj, old)
        return obj

    def admit_new(self, kind, obj):
        """What admission adds to a new object, or refuses (the plugins that a cluster has by default)."""
        if kind.id in PROTECTED:
            obj["metadata"].setdefault("finalizers", []).append(PROTECTED[kind.id])
        if kind.id == "Namespace":
            obj["spec"].setdefault("finalizers", ["kubernetes"])
        if kind.id == "Pod" and not is_foreign(obj):
            admit_pod(self.store, obj)
        elif kind.id == "Job":
            select_own_pods(obj)
        elif kind.id == "PersistentVolumeClaim":
            if obj["spec"].get("storageClassName") is None and default_class(self.store):
                obj["spec"]["storageClassName"] = default_class(self.store)
            limit_ranges(self.store, kind, obj)
        elif kind.id == "Node":
            taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
            obj["spec"]["taints"] = [taint] + [t for t in obj["spec"].get("taints") or () if t["key"] != taint["key"]]
        elif kind.id == "PersistentVolume":
            obj["status"]["lastPhaseTransitionTime"] = now()
        elif kind.id == "Secret" and obj.get("type") == "kubernetes.io/service-account-token":
            self.access.fill_token(obj)

    def allocate(self, service, old):
        """Give a Service its cluster address and node ports, or check those it asks for. Raises ApiError 422."""
        spec, faults, before = service["spec"], Faults(), (old or {}).get("spec", {})
        others = [s["spec"] for s in self.store.list("Service") if s["metadata"]["uid"] != service["metadata"]["uid"]]
        if spec["type"] == "ExternalName":
            service["spec"] = spec = without(spec, "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
        else:
            ip = spec.get("clusterIP") or (spec.get("clusterIPs") or [None])[0] or before.get("clusterIP")
            taken = {self.settings.dns_ip, self.settings.upstream_ip, *(other.get("clusterIP") for other in others)}
            cidr = self.settings.service_cidr
            if not ip:
                free = (str(cidr[n]) for n in range(16, cidr.num_addresses - 1))
                ip = next((each for each in free if each not in taken), "")
            elif ip != "None" and ip != before.get("clusterIP"):
                why = ("the provided network does not match the current range" if ipaddress.ip_address(ip) not in cidr
                       else "provided IP is already allocated" if ip in taken else "")
                if why:
                    faults.add("spec.clusterIPs", "Invalid value", [ip], f"failed to allocate IP {ip}: {why}")
            spec.update(clusterIP=ip, clusterIPs=[ip])
            spec.setdefault("ipFamilies", ["IPv4"])
            spec.setdefault("ipFamilyPolicy", "SingleStack")
        taken = {(p.get("nodePort"), p.get("protocol")) for other in others for p in other.get("ports") or ()}
        taken |= {(other.get("healthCheckNodePort"), "TCP") for other in others}
        any_of = lambda protocol: random.choice([n for n in NODE_PORTS if (n, protocol) not in taken] or [0])
        kept = {(p["port"], p.get("protocol")): p.get("nodePort") for p in before.get("ports") or ()}
        for i, port in enumerate(spec.get("ports") or ()):
            protocol, number = port.get("protocol"), port.get("nodePort")
            if spec["type"] not in ("NodePort", "LoadBalancer"):
                port.pop("nodePort", None)
            elif number or spec["type"] == "NodePort" or spec.get("allocateLoadBalancerNodePorts") is not False:
                number = port["nodePort"] = number or kept.get((port["port"], protocol)) or any_of(protocol)
                why = ("no free port is left in the range" if not number else "provided port is not in the valid "
                       f"range. The range of valid ports is {NODE_PORTS[0]}-{NODE_PORTS[-1]}"
                       if number not in NODE_PORTS else
                       "provided port is already allocated" if (number, protocol) in taken else "")
                if why:
                    faults.add(f"spec.ports[{i}].nodePort", "Invalid value", number, why)
                taken.add((number, protocol))
        health = spec.pop("healthCheckNodePort", None) or before.get("healthCheckNodePort")
        if spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local":
            spec["healthCheckNodePort"] = health or any_of("TCP")
        faults.check(KIND["Service"], service["metadata"]["name"])

    def update(self, request):
        """PUT and PATCH, of an object or of its subresource; an apply makes the object where it is missing."""
        kind, is_patch, is_apply = request.kind, request.method == "PATCH", request.content_type.startswith(APPLY)
        is_scale, given = request.subresource == "scale", None
        shape = SUB_KINDS["scale"] if is_scale else kind
        patch = self.read_patch(request) if is_patch else None      # first: 415 tells kubectl to patch in another way
        check_options("PatchOptions" if is_patch else "UpdateOptions", request.query, is_apply)
        if not is_patch:
            given = self.read(request, shape)
            self.check_identity(request, given["metadata"], False)
        with self.store.transaction():
            if is_apply and not request.subresource and not self.store.row(kind.id, (request.namespace, request.name)):
                return self.create_applied(request, patch)
            old = json.loads(self.find(request))
            before, managers = to_scale(kind, old) if is_scale else to_served(kind, old), None
            if is_apply:
                self.cleaned(request, patch, shape)
                place, has_status = place_of(shape.schema), "status" in kind.subresources
                nobody = Manager("before-first-apply", "Update", group_version(kind), "")       # was tracked until now
                times = read_managers(old["metadata"].get("managedFields")) or updated_managers(
                    place, empty_object(shape), before, {}, nobody, has_status)
                given, managers = apply_patch(place, before, patch, times, request.manager("Apply"),
                                              request.flag("force"), has_status)
                notes = dig(given, "metadata.annotations", {})
                if request.manager("Apply").name == "kubectl" and notes.get(LAST_APPLIED):
                    bare = {"annotations": {LAST_APPLIED: None}} if "annotations" in patch["metadata"] else {}
                    own = merge_patch(patch, {"metadata": bare})
                    notes[LAST_APPLIED] = json.dumps(own, sort_keys=True, separators=(",", ":")) + "\n"
                given = self.cleaned(request, given, shape)
                if given == self.cleaned(request, before, shape):   # nothing new: all times stay, a new one has none
                    managers = {m: (entry[0], times.get(m, (None, None))[1]) for m, entry in managers.items()}
            elif is_patch:
                try:
                    request.given = check_type(patch(shape.schema, before), (dict,), "map[string]interface {}")
                except (TypeError, AttributeError, KeyError, ValueError, RecursionError):     # a directive of odd form
                    raise unprocessable()
                try:
                    given = self.cleaned(request, request.given, shape)
                except ApiError as error:
                    if error.code != 400 or kind.crd:
                        raise
                    found = (go_text(parse_json(request.body)) if request.content_type.startswith(STRATEGIC) else
                             dumps(request.given).decode())
                    text = f"Invalid value: {json.dumps(found, ensure_ascii=False)}: {str(error).partition(': ')[2]}"
                    raise ApiError(422, "Invalid", f' "" is invalid: patch: {text}', {"causes": [
                        {"reason": "FieldValueInvalid", "message": text, "field": "patch"}]})
            if is_patch:
                self.check_identity(request, given["metadata"], True)
            meta, present, faults = given["metadata"], old["metadata"], Faults()
            version, uid = meta.get("resourceVersion"), meta.get("uid") or present["uid"]
            if version not in (None, "", present["resourceVersion"]):
                raise conflict(kind, request.name)
            if not is_patch and not version and (kind.crd or kind.id in CONDITIONAL):
                faults.add("metadata.resourceVersion", "Invalid value", "0x0" if kind.crd else 0,
                           "must be specified for an update")
            if uid != present["uid"] and is_patch and not is_apply:
                faults.add("metadata.uid", "Invalid value", uid, "field is immutable")
            faults.check(kind if kind.crd or is_patch else kind._replace(name=kind.plural), request.name)
            if uid != present["uid"]:
                raise conflict(kind, request.name, f"Precondition failed: UID in precondition: {uid}, UID in object "
                               f"meta: {present['uid']}")
            new = self.changed(kind, old, given, request.subresource, request, managers)
            if not request.dry_run:
                new = self.settle(KIND[kind.id], new, keep=is_foreign(old))
        return answer(200, to_scale(kind, new)) if is_scale else self.reply(request, 200, new)

    def create_applied(self, request, config):
        """The object that an apply makes."""
        kind, obj = request.kind, self.cleaned(request, config, request.kind)
        self.check_identity(request, obj["metadata"], True)
        if obj["metadata"].get("uid"):
            raise conflict(kind, request.name, "uid mismatch: the provided object specified uid "
                           f"{obj['metadata']['uid']}, and no existing object was found")
        _, managers = apply_patch(place_of(kind.schema), empty_object(kind), config, {}, request.manager("Apply"), True,
                                  "status" in kind.subresources)
        return self.reply(request, 201, self.create(kind, request.namespace, obj, request.dry_run, request, managers))

    @staticmethod
    def check_identity(request, meta, is_patch):
        """Refuse a body whose name or namespace are not those of the URL."""
        name, namespace = meta.get("name"), meta.get("namespace")
        if not name:
            raise bad_request(f"the name of the object ({request.name} based on URL) was undeterminable: name must be "
                              "provided")
        if name != request.name:
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({request.name})")
        if namespace not in (None, "", request.namespace):
            raise bad_request("the namespace of the object does not match the namespace on the URL" if not is_patch else
                              "the namespace of the provided object does not match the namespace sent on the request")

    @staticmethod
    def read_patch(request):
        """The Content-Type's function (message name, object) -> new object; an apply's configuration."""
        media = request.content_type.partition(";")[0].strip()
        if media == APPLY:
            twice, validation = [], request.query.get("fieldValidation") or "Warn"
            config = parse_config(request.body, twice)
            if twice and validation == "Strict":
                raise bad_request("error decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  " +
                                  "\n  ".join(twice))
            request.warnings += twice if validation == "Warn" else ()
            if dig(config, "metadata.managedFields"):
                raise bad_request("metadata.managedFields must be nil")
            if not config.get("kind") or not config.get("apiVersion"):
                group, _, version = str(config.get("apiVersion") or "").rpartition("/")
                raise bad_request(f"invalid object type: {group}/{version}, Kind={config.get('kind') or ''}")
            return config
        if media not in PATCHES:
            raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        if media.startswith("application/strategic") and request.kind.crd:
            known = ", ".join([*(each for each in PATCHES if "strategic" not in each), APPLY])
            raise ApiError(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted "
                           f"media types include: {known}", {})
        wanted, go_name, apply = PATCHES[media]
        try:
            patch = parse_json(request.body)
        except ValueError as error:
            raise bad_request(f"error decoding patch: {error}")
        if not isinstance(patch, wanted):
            raise bad_request("error decoding patch: json: cannot unmarshal "
                              f"{JSON_TYPE.get(type(patch), 'null')} into Go value of type {go_name}")
        return lambda schema, obj: apply(schema, obj, patch)

    def changed(self, kind, old, given, subresource, request, managers):
        """The object that results from old when a client gives this: what a client may not write stays."""
        before, served, faults = old["metadata"], to_served(kind, old), Faults()
        if subresource == "scale":
            patch = dig(given, "spec.replicas", 0)
            for step in reversed(scale_paths(kind)[0]):
                patch = {step: patch}
            given = merge_patch(served, patch)
        given = json.loads(dumps(given))                        # it shares nothing with old
        meta = {**without(given["metadata"], *SERVER_FIELDS), **pick(before, SERVER_FIELDS)}
        if kind.id == "Pod":                                    # whose container it is does not change either
            notes = without(meta.pop("annotations", None) or {}, FOREIGN)
            meta.update(filled(annotations={**notes, **pick(before.get("annotations") or {}, (FOREIGN,))}))
        if subresource in ("status", "finalize"):
            part, ours = "status" if subresource == "status" else "spec", {}
            if kind.id == "Pod":
                ours = filled(**pick(old.get("status", {}), ("podIP", "podIPs")))
                for each in dig(given, "status.conditions", ()):
                    each.setdefault("lastTransitionTime", None)
            meta = {**without(meta, "ownerReferences"), **pick(before, ("ownerReferences",))}
            new = {**served, part: {**given.get(part, {}), **ours}, "metadata": dict(before) if kind.crd else meta}
            if kind.crd:
                new = new if "status" in given else without(new, "status")
                validate_custom(kind.schema, new, "", faults)
            if kind.id == "Node" and dig(new, "status.capacity"):
                fill(new["status"], allocatable=new["status"]["capacity"])
            if managers is None:
                managers = request.managers(kind, old, served, new)
            new["metadata"].update(filled(managedFields=write_managers(managers)))
            validate_meta(kind, new["metadata"], faults)
            faults.check(kind, before["name"])
            return to_stored(kind, new)
        new = {**given, "metadata": meta}
        if subresource == "ephemeralcontainers":                # of all else, what was there stays
            added = pick(given.get("spec", {}), ("ephemeralContainers",))
            new = {**served, "metadata": json.loads(dumps(before)),
                   "spec": {**without(served["spec"], "ephemeralContainers"), **added}}
            meta = new["metadata"]
        if "status" in kind.subresources:
            new = {**without(new, "status"), **pick(served, ("status",))}
        if kind.id == "Pod" and new["spec"].get("nodeName") is None and old["spec"].get("nodeName"):
            new["spec"]["nodeName"] = old["spec"]["nodeName"]
        new = self.prepare(kind, new, old, request, managers)
        counted = {"Deployment": "annotations", "EndpointSlice": "labels"}.get(kind.id, "")
        if "gen" in kind.marks and kind.id != "PriorityClass" and (meta.get(counted) != before.get(counted) or
                without(new, "metadata", "status") != without(old, "metadata", "status")):
            meta["generation"] = before.get("generation", 1) + 1
        return new

    def settle(self, kind, obj, keep=False):
        """Store a changed object, or remove it if it was only waiting for its last finalizer."""
        with self.store.transaction():
            waiting = kind.id == "Namespace" or kind.id == "Pod" and obj["spec"].get("nodeName")
            if is_deleting(obj) and not obj["metadata"].get("finalizers") and not waiting:
                obj["metadata"].pop("finalizers", None)
                return self.store.remove(kind, obj)
            return self.store.put(kind, obj, keep)

    def delete(self, request):
        kind, options = request.kind, self.delete_options(request)
        with self.store.transaction():
            obj = json.loads(self.find(request))
            if is_published(obj):
                raise forbidden(kind, request.name, "it is the published ports of the container "
                                f"{obj['metadata']['annotations'][FOREIGN]} and goes with it (kubectl delete pod)")
            left = self.delete_object(KIND[kind.id], obj, options)
        if left or "obj" in kind.marks:
            return self.reply(request, 200, left or obj)
        details = dict(about(kind, request.name), uid=obj["metadata"]["uid"])
        return answer(200, {**without(SUCCESS, "code"), "details": details})

    def delete_options(self, request):
        """The DeleteOptions in a request's body and query. Raises ApiError 400, 422."""
        options = self.read(request, SUB_KINDS["delete"]) if request.body.strip() else {}
        options.update(pick(request.query, ("propagationPolicy", "gracePeriodSeconds")))
        try:
            if "gracePeriodSeconds" in options:
                options["gracePeriodSeconds"] = min(max(0, int(options["gracePeriodSeconds"])), 2 ** 31)
        except ValueError:
            raise bad_request(f"gracePeriodSeconds: {options['gracePeriodSeconds']}: want a number of seconds")
        asked = options.get("dryRun") or [value for key, value in request.options if key == "dryRun"]
        check_options("DeleteOptions", {**request.query, **options, "dryRun": next(
            (each for each in asked if each != "All"), "All")})
        orphan = options.get("orphanDependents", request.query.get("orphanDependents"))
        if orphan is not None:                                  # deprecated, but still asked for
            options.setdefault("propagationPolicy", "Orphan" if orphan in (True, "true") else "Background")
        return {**options, "dryRun": asked}

    def delete_object(self, kind, obj, options):
        """Delete one object inside or outside a transaction; returns what is left of it, None if it is gone."""
        meta, name, dry_run = obj["metadata"], obj["metadata"]["name"], options.get("dryRun")
        wanted, policy, grace = options.get("preconditions") or {}, options.get("propagationPolicy"), 0
        for field, word, more in (("uid", "UID", "deleted and then recreated"),
                                  ("resourceVersion", "ResourceVersion", "modified")):
            if wanted.get(field) not in (None, meta[field]):
                raise ApiError(409, "Conflict", f'Operation cannot be fulfilled on {kind.name} "{name}": the {word} '
                               f"in the precondition ({wanted[field]}) does not match the {word} in record "
                               f"({meta[field]}). The object might have been {more}", {"name": name, "kind": kind.name})
        if kind.id == "Namespace" and name in SYSTEM_NAMESPACES:
            raise forbidden(kind, name, "this namespace may not be deleted")
        if kind.id == "PriorityClass" and name.startswith("system-"):
            raise forbidden(kind, name, "this is a system priority class and cannot be deleted")
        added = {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(policy, [])
        if kind.id == "CustomResourceDefinition" and not is_deleting(obj):
            added = [CRD_FINALIZER]                             # its resources go first
        finalizers = [f for f in meta.get("finalizers") or () if f not in ("orphan", "foregroundDeletion")] + added
        if kind.id == "Pod" and obj["spec"].get("nodeName") and not has_ended(obj):     # its containers stop first
            given = options.get("gracePeriodSeconds")
            grace = obj["spec"].get("terminationGracePeriodSeconds", 30) if given is None else given
        if kind.id == "Namespace":
            grace, obj["status"] = None, {**obj.get("status", {}), "phase": "Terminating"}
        elif not finalizers and grace == 0 and not is_foreign(obj):
            with self.store.transaction():
                if kind.id == "Pod":                            # its watchers see it marked, then gone
                    meta["generation"] = meta.get("generation", 1) + (not meta.get("deletionTimestamp"))
                    meta.update(deletionTimestamp=now(), deletionGracePeriodSeconds=0)
                    obj = obj if dry_run else self.store.put(kind, obj)
                    if obj["spec"].get("nodeName") and not dry_run:
                        self.store.bury(meta["uid"])
                if not dry_run:
                    self.store.remove(kind, obj)
            return None
        until, before = in_seconds(grace or 0), meta.get("deletionTimestamp")
        if not before or until < before:
            meta.update(deletionTimestamp=until, **({} if grace is None else {"deletionGracePeriodSeconds": grace}))
            if not before and "gen" in kind.marks:
                meta["generation"] = meta.get("generation", 1) + 1
        if finalizers:
            meta["finalizers"] = finalizers
        if not dry_run:
            with self.store.transaction():
                self.store.put(kind, obj, keep=is_foreign(obj))
        return obj

    def delete_all(self, request):
        kind, options, wanted = request.kind, self.delete_options(request), self.selection(request)
        with self.store.transaction():
            found = [obj for obj in self.store.list(kind.id, request.namespace, wanted.selector) if wanted.name in (
                None, obj["metadata"]["name"]) and field_matches(wanted.fields, obj) and not is_published(obj)]
            for obj in found:
                self.delete_object(kind, obj, options)
        return listed(kind, map(dumps, found), {"resourceVersion": str(self.store.version)}, request.form)

    # -- subresources that are no part of the object, and reviews, which are never stored
    def binding(self, request):
        """A scheduler's decision: there is one node."""
        given, faults = self.read(request, SUB_KINDS["binding"]), Faults()
        validate_fields("Binding", given, "", faults)
        faults.check(SUB_KINDS["binding"], request.name)
        with self.store.transaction():
            pod = json.loads(self.find(request))
            node = pod["spec"].get("nodeName")
            if node:
                raise conflict(request.kind._replace(plural="pods/binding"), request.name,
                               f"pod {request.name} is already assigned to node {dumps(node).decode()}")
            if not request.dry_run:
                pod["spec"]["nodeName"] = dig(given, "target.name", "")
                old = dig(pod, "status.conditions", [])
                pod["status"]["conditions"] = [condition(old, "PodScheduled", "True", lastProbeTime=None)]
                self.store.put(KIND["Pod"], pod)
        return answer(201, SUCCESS)

    def eviction(self, request):
        """Delete a pod unless a PodDisruptionBudget forbids it (429)."""
        options = self.read(request, SUB_KINDS["eviction"]).get("deleteOptions") or {}
        options["dryRun"] = options.get("dryRun") or request.dry_run
        with self.store.transaction():
            pod = json.loads(self.find(request))
            for budget in self.store.list("PodDisruptionBudget", request.namespace):
                chosen = budget["spec"].get("selector")
                if chosen is None or not selects(selector_of(chosen), pod["metadata"].get("labels")) or has_ended(pod):
                    continue
                status, name = budget["status"], budget["metadata"]["name"]
                if not status.get("disruptionsAllowed") and is_condition(pod, "Ready"):
                    needs, has = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
                    text = f"The disruption budget {name} needs {needs} healthy pods and has {has} currently"
                    raise ApiError(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption "
                                   "budget.", {"causes": [{"reason": "DisruptionBudget", "message": text}]})
                if not options["dryRun"] and status.get("disruptionsAllowed"):
                    status["disruptionsAllowed"] -= 1
                    self.store.put(KIND["PodDisruptionBudget"], budget)
            set_condition(pod, "DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting")
            self.delete_object(request.kind, pod, options)
        return answer(201, SUCCESS)

    def token(self, request):
        """TokenRequest: a token for a service account."""
        given = self.read(request, SUB_KINDS["token"])
        fill_defaults("TokenRequest", given)
        account, spec, faults = json.loads(self.find(request)), given["spec"], Faults()
        seconds = spec.get("expirationSeconds") or 3600
        if seconds < 600 or seconds > 1 << 32:
            faults.add("spec.expirationSeconds", "Invalid value", seconds, "may not specify a duration less than 10 "
                       "minutes" if seconds < 600 else "may not specify a duration larger than 2^32 seconds")
        faults.check(SUB_KINDS["token"], "")
        bound = spec.get("boundObjectRef")
        if bound:
            kind, name = bound.get("kind"), bound.get("name", "")
            found = self.store.get(kind, request.namespace, name) if kind in ("Pod", "Secret") else None
            if not found:
                raise not_found(KIND.get(kind, KIND["Pod"]), name)
            if bound.get("uid") not in (None, "", found["metadata"]["uid"]):
                raise conflict(KIND[kind], name, f"the UID in the bound object reference ({bound['uid']}) does not "
                               "match the UID in record. The object might have been deleted and then recreated")
            bound = {"kind": kind, "name": name, "uid": found["metadata"]["uid"]}
        audiences = spec.get("audiences") or [self.access.issuer]
        token = self.access.make_token(account, seconds, audiences, bound)
        meta = {**given["metadata"], "name": request.name, "namespace": request.namespace, "creationTimestamp": now(),
                "uid": account["metadata"]["uid"]}
        return answer(201, {**given, "metadata": meta, "spec": {**spec, "audiences": audiences},
                            "status": {"token": token, "expirationTimestamp": in_seconds(seconds)}})

    def review(self, request):
        """Who somebody is, and what they may: the answer stands in the status."""
        check_options("CreateOptions", request.query)
        if request.form.kind:                                   # no metadata, no table
            raise not_acceptable()
        given = self.read(request, request.kind)
        if request.kind.id == "Binding":
            request.kind, request.name = KIND["Pod"], given["metadata"].get("name", "")
            return self.binding(request)
        status = self.access.review(request, given)             # may change what was given
        meta = {"metadata": {"creationTimestamp": now()}} if request.kind.id == "SelfSubjectReview" else {}
        return answer(201, {**given, **meta, "status": status})

    def usage(self, request):
        """What pods or the node use, one or a list of them, measured now."""
        check_options("ListOptions", request.query)
        kind, wanted, form = request.kind, self.selection(request), request.form
        home = KIND[kind.name.replace("Metrics", "")]
        objects = [json.loads(row.raw) for key, row in self.store.snapshot(home.id, request.namespace)[1]
                   if wanted.matches(key, row.raw, row.labels)]
        if request.name and not objects:
            raise not_found(home, request.name)
        objects = getattr(self.k2d.usage, home.plural)(objects)
        if request.name and not objects:
            place = f"{request.namespace}/" * kind.namespaced
            raise not_found(kind._replace(plural=kind.singular), place + request.name)
        return self.reply(request, 200, objects[0]) if request.name else listed(kind, map(dumps, objects), {}, form)

    def log(self, request):
        """A container's log, of this run or the one before; the API server's refusals come before the kubelet's."""
        (numbers, begin), pod, text = self.log_options(request), json.loads(self.find(request)), None
        name = chosen_container(pod, request.query.get("container"))
        if not pod["spec"].get("nodeName"):
            return answer(204, b"", "text/plain")
        found = self.k2d.pods.found.get(pod["metadata"]["uid"], {}).get(name)
        previous, follow, timestamps = map(request.flag, ("previous", "follow", "timestamps"))
        status = next((s for field in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
                       for s in dig(pod, f"status.{field}", ()) if s["name"] == name), None)
        last, reason = (dig(status, path) for path in ("lastState.terminated", "state.waiting.reason"))
        if not status:
            text = "is not available"
        elif reason and not last and not previous:
            text = "is waiting to start: " + WAITING.get(reason, reason)
        elif not found and not previous:
            text = "is terminated"
        if text or previous and not (last and found):
            raise bad_request(f'container "{name}" in pod "{request.name}" {text}' if text else
                              f'previous terminated container "{name}" in pod "{request.name}" not found')
        # One log holds all runs of a container; each begins where the one before it ended, and is cut off there.
        id_, since, until, tail, skip = found.id, found.run_began, "", numbers.get("tailLines", "all"), 0
        if previous and last.get("containerID", id_).endswith(id_):
            if found.running:                # else the run that ended last is the previous one
                since, until = found.prior_began, found.run_began
        elif previous:
            id_, since = last["containerID"].rpartition("/")[2], ""
        asked = {"stdout": 1, "stderr": 1, "follow": int(follow), "timestamps": int(timestamps)}
        for bound, at in (("since", max(exact_seconds(since), begin)), ("until", exact_seconds(until))):
            asked.update({bound: at.lstrip("0")} if at.strip("0.") else {})
        path = lambda more: f"/containers/{id_}/logs?" + urllib.parse.urlencode({**asked, **more})
        try:
            if until and tail != "all":      # the engine counts from the end of the log, of a later run: so count first
                sock, _, rest = self.k2d.engine.stream("GET", path({}))
                with sock:
                    lines = sum(text.count(b"\n") for text in log_text(sock, rest, found.tty))
                tail, skip = "all", max(0, lines - tail)
            is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
            protocol, _, head = upgrade(request.headers, "log") if is_socket else (None, "", None)
            sock, _, rest = self.k2d.engine.stream("GET", path({"tail": tail}))
        except EngineError as error:
            raise bad_request(f"unable to retrieve container logs for docker://{id_}: {error}")
        return lambda handler: handler.serve_log(sock, rest, found.tty, timestamps, numbers.get("limitBytes"), follow,
                                                 skip, protocol, head)

    @staticmethod
    def log_options(request):
        """The numbers in PodLogOptions, and when to begin in exact_seconds(). Raises ApiError 400, 422."""
        query, faults, numbers, begin = request.query, Faults(), {}, exact_seconds("")
        for field in [field for field in ("tailLines", "limitBytes", "sinceSeconds") if field in query]:
            if not re.fullmatch(r"-?\d{1,18}", query[field]):
                raise no_number(query[field])
            numbers[field] = int(query[field])
            if numbers[field] < (field != "tailLines"):
                words = "than or equal to 0" if field == "tailLines" else "than 0"
                faults.add(field, "Invalid value", numbers[field], "must be greater " + words)
        if query.get("sinceTime") and seconds_of(query["sinceTime"]) is None:
            raise bad_request(f"parsing time {dumps(query['sinceTime']).decode()}: want RFC 3339")
        if "sinceSeconds" in query and "sinceTime" in query:
            faults.add("", "Forbidden", why="at most one of `sinceTime` or `sinceSeconds` may be specified")
        if "stream" in query:                # its feature gate is off in this version
            faults.add("stream", "Forbidden", why="may not be specified")
        faults.check(KIND["Pod"]._replace(name="PodLogOptions"), request.name)
        if "sinceSeconds" in query:
            begin = f"{time.time() - numbers['sinceSeconds']:020.9f}"
        return numbers, max(begin, exact_seconds(query.get("sinceTime")))

    def proxy(self, request):
        """Pass a request on to a port of a pod, or of what is behind a Service: NAME, NAME:PORT or https:NAME:PORT."""
        scheme, name, port = ([""] * 2 + request.name.split(":"))[-3:] if request.name.count(":") > 1 else (
            "", *(request.name + ":").split(":")[:2])
        path, obj = request.target.partition("/proxy")[2], self.store.get(request.kind.id, request.namespace, name)
        if not obj:
            raise not_found(request.kind, name)
        if obj["kind"] == "Service":
            wanted = [p for p in obj["spec"].get("ports") or () if port in ("", p.get("name"), str(p["port"]))]
            subsets = dig(self.store.get("Endpoints", request.namespace, name), "subsets", ())
            ends = [(address["ip"], each["port"]) for subset in subsets for address in subset.get("addresses") or ()
                    for each in subset.get("ports") or () if wanted and each.get("name") == wanted[0].get("name")]
            if not ends:
                raise ApiError(503, "ServiceUnavailable", f'no endpoints available for service "{request.name}"')
            host, port = random.choice(ends)
        else:
            ports = [p["containerPort"] for c in obj["spec"]["containers"] for p in c.get("ports") or ()]
            host, port = dig(obj, "status.podIP"), port or (ports or [80])[0]
            if not host:
                raise bad_request("address not allowed")
        try:
            sock = dial(host, int(port), time.monotonic() + IO_SECONDS)
        except (OSError, ValueError) as error:
            raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {error}")
        hidden = "authorization", "connection", "host", "transfer-encoding", "content-length", "expect"
        headers = {**without(request.headers, *hidden), "host": f"{host}:{port}", "connection": "close",
                   "content-length": str(len(request.body)), "x-forwarded-uri": request.target.partition("?")[0]}
        lines = [f"{request.method} {path if path[:1] == '/' else '/' + path} HTTP/1.1",
                 *(f"{field}: {value}" for field, value in headers.items())]
        return lambda handler: handler.serve_proxy(
            unverified_tls().wrap_socket(sock, server_hostname=host) if scheme == "https" else sock,
            "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + request.body)

    def connect(self, request):
        """exec, attach and portforward: what takes the connection over, or the kubelet's refusal. Raises ApiError."""
        what, pod = request.subresource, json.loads(self.find(request))
        refuse = lambda code, text: answer(code, text.encode(), "text/plain; charset=utf-8")
        if request.method == "HEAD":
            raise wrong_method()
        self.access.require(request, "create")                  # for a GET too, since Kubernetes 1.35
        name = chosen_container(pod, request.query.get("container")) if what != "portforward" else None
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {request.name} does not have a host assigned")
        protocol, version, head = upgrade(request.headers, what)
        containers = lambda: list(self.k2d.pods.found.get(pod["metadata"]["uid"], {}).values())
        if what == "portforward":
            is_up = any(found.running for found in containers())
            return Forward(protocol, head, request.name, containers).serve if is_up else refuse(
                500, f'pod not found ("{request.name}_{request.namespace}")')
        tty, found = request.flag("tty"), next((f for f in containers() if f.container == name and f.running), None)
        wanted = {each for each in ("stdin", "stdout", "stderr") if request.flag(each)} - ({"stderr"} if tty else set())
        if not wanted:
            return refuse(400, "you must specify at least 1 of stdin, stdout, stderr")
        if not found:
            return refuse(500, f'container not found ("{name}")')
        target = "/containers/" + found.id
        call = "POST", target + "/attach?stream=1&" + "&".join(f"{each}=1" for each in wanted)
        if what == "exec":
            command = [value for key, value in request.options if key == "command"]
            try:
                made = self.k2d.engine.call("POST", target + "/exec", {
                    **{"Attach" + each.title(): True for each in wanted}, "Tty": tty, "Cmd": command})
            except EngineError as error:
                return refuse(500, str(error))
            target = "/exec/" + made["Id"]
            call = "POST", target + "/start", {"Detach": False, "Tty": tty}
        wanted |= {"error", "resize"} if tty and version not in ("v2.channel.k8s.io", "channel.k8s.io") else {"error"}
        return Terminal(self.k2d.engine, protocol, head, call, tty if what == "exec" else found.tty, wanted, target,
                        version[:2] in ("v4", "v5")).serve

    # -- what is not about resources
    def discovery(self, request):
        """The Answer to /, /api, /apis and below, plain or aggregated; None if the path is none of these."""
        root, *below = [part for part in request.path.split("/") if part] or [""]
        groups = {}                             # below this root: group -> {version: both}, the preferred version first
        for kind in KINDS:
            if root == ("apis" if kind.group else "api"):
                groups.setdefault(kind.group, {})[kind.version] = group_version(kind)
        if not root:
            every = {f"/apis/{each}" for kind in KINDS if kind.group for each in (kind.group, group_version(kind))}
            known = "/healthz /livez /livez/ping /openapi/v2 /openapi/v3 /readyz /readyz/ping /version"
            return answer(200, {"paths": ["/api", "/api/v1", "/apis", "/apis/", *sorted(every), *known.split()]})
        if groups and not below:
            found = re.search(r"g=apidiscovery\.k8s\.io;v=(v2|v2beta1);as=APIGroupDiscoveryList",
                              request.headers.get("Accept", ""))
            if found:
                items = [{"metadata": filled(name=group), "versions": [
                    {"version": version, "resources": resource_lists(group, version)[1], "freshness": "Current"}
                    for version in versions]} for group, versions in groups.items()]
                head = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/" + found[1]}
                return tagged(request, {**head, "metadata": {}, "items": items}, "application/json;" + found[0])
            if root == "api":
                address = {"clientCIDR": "0.0.0.0/0", "serverAddress": f"{self.settings.host_ip}:{self.settings.port}"}
                return answer(200, {"kind": "APIVersions", "versions": [*groups[""]],
                                    "serverAddressByClientCIDRs": [address]})
            return answer(200, {"kind": "APIGroupList", "apiVersion": "v1",
                                "groups": [api_group(*each) for each in groups.items()]})
        group, *rest = below if root == "apis" else ["", *below]
        versions = groups.get(group)
        if versions and group and not rest:
            return answer(200, {"kind": "APIGroup", "apiVersion": "v1", **api_group(group, versions)})
        if versions and len(rest) == 1 and rest[0] in versions:
            return answer(200, {"kind": "APIResourceList", **filled(apiVersion="v1" if group else ""), "groupVersion":
                                versions[rest[0]], "resources": resource_lists(group, rest[0])[0]})

    @staticmethod
    def version():
        machine, (major, minor, _) = os.uname().machine, SERVES[1:].split(".")
        return answer(200, {"major": major, "minor": minor, "gitVersion": f"{SERVES}+k2d{VERSION}", "gitCommit": "",
                            "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
                            "compiler": "python" + sys.version.split()[0],
                            "platform": "linux/" + ARCHITECTURES.get(machine, machine)})

def chosen_container(pod, name):
    """The name of the container that a request is for. Raises ApiError 400."""
    spec, known = pod["spec"], pod["metadata"]["name"]
    names = [container["name"] for _, container in containers_of(spec)]
    if name and name not in names:
        raise bad_request(f"container {name} is not valid for pod {known}")
    if not name and len(spec["containers"]) > 1:
        raise bad_request(f"a container name must be specified for pod {known}, choose one of: [{' '.join(names)}]")
    return name or spec["containers"][0]["name"]

def parse_version(text):
    """A resourceVersion of a query as int, 0 if absent. Raises ApiError 400."""
    if text and not re.fullmatch("[0-9]{1,19}", text):
        shown = dumps(text).decode()
        raise bad_request(f"invalid resource version: resourceVersion: Invalid value: {shown}: strconv.ParseUint: "
                          f"parsing {shown}: invalid syntax")
    return int(text or 0)

def in_seconds(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))

def exact_seconds(text):
    """The engine's timestamp as Unix seconds with nine decimals, zero-padded so that such texts compare."""
    fraction = re.search(r"\.(\d+)", text or "")
    return f"{int(seconds_of(text) or 0):010d}.{(fraction[1] if fraction else '')[:9]:0<9}"

def scale_paths(kind):
    """(of spec.replicas, status.replicas, the selector) of a kind with a scale subresource, as paths."""
    given = dig(kind.crd, "subresources.scale", {})
    return [given.get(field, default).lstrip(".").split(".") if given or not kind.crd else None for field, default in (
        ("specReplicasPath", "spec.replicas"), ("statusReplicasPath", "status.replicas"),
        ("labelSelectorPath", "status.selector" if kind.crd else "spec.selector"))]

def to_scale(kind, obj):
    """The autoscaling/v1 Scale of an object."""
    replicas, ready, selector = (dig(obj, path) for path in scale_paths(kind))
    selector = selector_text(selector) if isinstance(selector, dict) else selector
    return {"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": pick(obj["metadata"], ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")),
            "spec": filled(replicas=replicas), "status": {"replicas": ready or 0, **filled(selector=selector)}}

def empty_object(kind):
    """What Go's zero value of a kind is as JSON: what an update is compared with where nothing was before."""
    head = {"kind": kind.name, "apiVersion": group_version(kind)}
    return {**head, **({"metadata": {}} if kind.crd else clean(kind.schema, {}, Findings([], [], [])))}

def continue_token(version, key):
    """Where a list goes on: at a version (-1: whatever is present) after a key. It holds for CONTINUE_S seconds."""
    token = dumps({"v": "meta.k8s.io/v1", "rv": version, "start": "/".join(key), "t": int(time.time())})
    return base64.urlsafe_b64encode(token).decode().rstrip("=")

RENAMED = {"involvedObject": "regarding", "message": "note", "source": "deprecatedSource", "count": "deprecatedCount",
           "firstTimestamp": "deprecatedFirstTimestamp", "lastTimestamp": "deprecatedLastTimestamp",
           "reportingComponent": "reportingController"}         # core Event -> events.k8s.io

def is_stored(kind):
    """Whether objects rest in this version of their kind. Custom ones get the defaults of the present schema, too."""
    return group_version(KIND.get(kind.id, kind)) == group_version(kind)

def converted(kind, obj):
    """An object without the fields that this version of its kind does not have, and with those it always shows."""
    found = (clean_custom if kind.crd else clean)(kind.schema, obj, Findings([], [], []))
    return {**found, "apiVersion": group_version(kind), "metadata": obj["metadata"]}

def to_served(kind, obj):
    """An object at rest as this version of its kind shows it."""
    if kind.crd:
        default_custom(kind.schema, obj)
    if is_stored(kind):
        return obj
    if kind.id == "Event":
        obj = {RENAMED.get(name, name): value for name, value in obj.items()}
    elif kind.id == "HorizontalPodAutoscaler":
        cpu = lambda metrics, word: next((dig(m, f"resource.{word}.averageUtilization") for m in metrics or ()
                                          if dig(m, "resource.name") == "cpu"), None)
        spec, status = obj["spec"], obj.get("status", {})
        wanted, found = cpu(spec.get("metrics"), "target"), cpu(status.get("currentMetrics"), "current")
        obj = {**obj, "spec": {**spec, **filled(targetCPUUtilizationPercentage=wanted)},
               "status": {**status, **filled(currentCPUUtilizationPercentage=found)}}
    return converted(kind, obj)

def to_stored(kind, obj):
    """The other way."""
    home = KIND[kind.id]
    if is_stored(kind):
        return obj
    if kind.id == "Event":
        back = {new: old for old, new in RENAMED.items()}
        obj = {back.get(name, name): value for name, value in obj.items()}
    elif kind.id == "HorizontalPodAutoscaler":
        percent = obj["spec"].get("targetCPUUtilizationPercentage")
        target = {"type": "Utilization", "averageUtilization": percent}
        metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}] if percent else None
        obj = {**obj, "spec": {**obj["spec"], **filled(metrics=metrics)}}
    return converted(home, obj)

def shown(kind, raw, form):
    """An object at rest, as bytes, in the form and version its reader asked for."""
    if not form.kind and is_stored(kind) and not kind.crd:
        return raw
    obj = json.loads(raw)
    return dumps(to_table(kind, [obj], form) if form.kind == "Table" else partial_metadata(obj, form) if form.kind else
                 to_served(kind, obj))

def listed(kind, raws, meta, form):
    """The Answer with a list of objects at rest, of which never all are parsed at once."""
    version, objects, word = form.version or group_version(kind), map(json.loads, raws), b"items"
    head = {"kind": (form.kind or kind.name) + "List", "apiVersion": version, "metadata": meta}
    same = dumps({"kind": kind.name, "apiVersion": version})[:-1] + b","        # what the items leave out
    if form.kind == "Table":
        head, items, word = {**to_table(kind, [], form), "metadata": meta}, table_rows(kind, objects, form), b"rows"
        del head["rows"]
    elif form.kind or kind.crd or not is_stored(kind):
        items = (partial_metadata(obj, form) if form.kind else to_served(kind, obj) for obj in objects)
    else:
        items = (b"{" + raw[len(same):] if raw.startswith(same) else raw for raw in raws)
    items = b",".join(item if isinstance(item, bytes) else dumps(item) for item in items)
    return answer(200, b'%s,"%s":[%s]}\n' % (dumps(head)[:-1], word, items))

def partial_metadata(obj, form):
    return {"kind": "PartialObjectMetadata", "apiVersion": form.version, "metadata": obj["metadata"]}

# -- discovery
def api_group(group, versions):
    each = [{"groupVersion": both, "version": version} for version, both in versions.items()]
    return {"name": group, "versions": each, "preferredVersion": each[0]}

def resource_lists(group, version):
    """The resources of a group version as (plain discovery, aggregated discovery) tells them."""
    plain, aggregated = [], []
    for kind in sorted((k for k in KINDS if (k.group, k.version) == (group, version)), key=lambda k: k.plural):
        own = {"group": group, "version": version} if kind.crd else {"group": "", "version": ""}
        more = filled(shortNames=list(kind.short), categories=[m for m in kind.marks if m not in ("gen", "obj")])
        for name in ("", *sorted(kind.subresources)):
            other, verbs = SUB_KINDS.get(name), {"verbs": SUB_VERBS.get(name) or kind.verbs.split()}
            answers = filled(group=other.group, version=other.group and other.version, kind=other.name) if other else {
                "kind": kind.name + "ProxyOptions" * (name == "proxy")}
            plain.append({"name": kind.plural + f"/{name}" * bool(name), "singularName": "" if name else kind.singular,
                          "namespaced": kind.namespaced, **answers, **verbs, **({} if name else more)})
            answers = {"responseKind": {**own, **answers}, **verbs}
            if name:
                aggregated[-1].setdefault("subresources", []).append({"subresource": name, **answers})
            else:
                aggregated.append({"resource": kind.plural, "scope": "Namespaced" if kind.namespaced else "Cluster",
                                   "singularResource": kind.singular, **answers, **more})
    return plain, aggregated

def tagged(request, body, content_type="application/json"):
    """An answer with its ETag, or 304 if the client has it."""
    data = (body if isinstance(body, bytes) else dumps(body)) + b"\n"
    etag = '"' + hashlib.sha256(data).hexdigest().upper() + '"'
    headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": "public"}
    known = request.headers.get("If-None-Match") == etag
    return answer(304 if known else 200, b"" if known else data, content_type, headers)

# -- Table: the columns and cells of `kubectl get` (pkg/printers/internalversion)
AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "y": 86400 * 365}
AGES = ((120, "s"), (600, "ms"), (10800, "m"), (28800, "hm"), (172800, "h"), (691200, "dh"), (86400 * 730, "d"),
        (86400 * 365 * 8, "yd"), (float("inf"), "y"))       # an age below so many seconds shows these units

def duration(seconds):
    """Seconds as kubectl writes ages: 45s, 5m30s, 3h, 2d4h, 1y20d (apimachinery, HumanDuration)."""
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
def cut(items, none="<none>", most=3, comma=","):
    """The first of these, and how many more there are."""
    return comma.join(items[:most]) + (f" + {len(items) - most} more..." if len(items) > most else "") or none
def ended_text(end):
    return end.get("reason") or (f"Signal:{end['signal']}" if end.get("signal") else f"ExitCode:{end['exitCode']}")

def pod_cells(pod):
    """Ready, Status, Restarts, Readiness Gates (printPod)."""
    status, spec, seen, initializing = pod.get("status") or {}, pod["spec"], [], False
    inits, gates = spec.get("initContainers") or (), spec.get("readinessGates") or ()
    sidecars, ready = {c["name"] for c in sidecars_of(spec)}, 0
    gated = dig(get_condition(pod, "PodScheduled"), "reason") == "SchedulingGated"
    reason = "SchedulingGated" if gated else status.get("reason") or status.get("phase", "")
    for i, s in enumerate(status.get("initContainerStatuses") or ()):
        seen.append(s)
        end, waiting = dig(s, "state.terminated"), dig(s, "state.waiting.reason", "PodInitializing")
        if s["name"] in sidecars and s.get("started") and (not end or end["exitCode"]):
            ready += s["ready"]
        elif not end or end["exitCode"]:
            step = f"{i}/{len(inits)}" if waiting == "PodInitializing" else waiting
            reason, initializing = "Init:" + (ended_text(end) if end else step), True
            break
    if not initializing or is_condition(pod, "Initialized"):
        statuses, error, is_running = status.get("containerStatuses") or [], "", False
        seen = [s for s in seen if s["name"] in sidecars] + statuses
        for s in reversed(statuses):
            end, waiting = dig(s, "state.terminated"), dig(s, "state.waiting.reason")
            if waiting or end:
                reason = waiting or ended_text(end)
                error = reason if not waiting and end["exitCode"] else error
            elif s["ready"] and dig(s, "state.running") is not None:
                is_running, ready = True, ready + 1
        if reason == "Completed":
            is_ready = is_running and is_condition(pod, "Ready")
            reason = "Running" if is_ready else error or ("NotReady" if is_running else reason)
    if is_deleting(pod):
        reason = "Unknown" if status.get("reason") == "NodeLost" else reason if has_ended(pod) else "Terminating"
    restarts = sum(s["restartCount"] for s in seen)
    last = max((seconds_of(dig(s, "lastState.terminated.finishedAt")) or 0 for s in seen), default=0)
    return [f"{ready}/{len(spec['containers']) + len(sidecars)}", reason,
            f"{restarts} ({duration(time.time() - last)} ago)" if restarts and last else str(restarts),
            f"{sum(is_condition(pod, g['conditionType']) for g in gates)}/{len(gates)}" if gates else "<none>"]

def node_cells(node):
    labels, role, ready = node["metadata"].get("labels") or {}, "node-role.kubernetes.io/", get_condition(node, "Ready")
    roles = {key[len(role):] for key in labels if key.startswith(role)} | {labels.get("kubernetes.io/role", "")} - {""}
    return [("Unknown" if not ready else "Ready" if ready["status"] == "True" else "NotReady") +
            (",SchedulingDisabled" if node["spec"].get("unschedulable") else ""), ",".join(sorted(roles)) or "<none>"]

def ingress_ips(obj):
    """The addresses in the status of a Service or an Ingress."""
    found = dig(obj, "status.loadBalancer.ingress", ())
    return sorted({one.get("ip") or one.get("hostname") for one in found} - {None})

def service_cells(service):
    spec, type_ = service["spec"], service["spec"]["type"]
    ips = ingress_ips(service) * (type_ == "LoadBalancer") + (spec.get("externalIPs") or [])
    ports = [f"{p['port']}{':%d' % p['nodePort'] if p.get('nodePort') else ''}/{p['protocol']}"
             for p in spec.get("ports") or ()]
    return [spec.get("externalName", "") if type_ == "ExternalName" else ",".join(ips) or (
        "<pending>" if type_ == "LoadBalancer" else "<none>"), ",".join(ports) or "<none>"]

def ingress_cells(ingress):
    hosts = [rule.get("host") for rule in ingress["spec"].get("rules") or ()]
    named = [i for i, host in enumerate(hosts) if host][:3]     # a rule without host counts among those that are more
    more = f" + {len(hosts) - 3} more..." if len(named) == 3 and named[2] < len(hosts) - 1 else ""
    return [(",".join(hosts[i] for i in named) or "*") + more, ",".join(ingress_ips(ingress)),
            "80, 443" if ingress["spec"].get("tls") else "80"]

def endpoints_cells(obj):
    subsets, host = obj.get("subsets") or (), lambda ip: f"[{ip}]" if ":" in ip else ip
    return [cut([f"{host(one['ip'])}:{port['port']}" if port else one["ip"] for subset in subsets for port in
                 subset.get("ports") or [None] for one in subset.get("addresses") or ()], "<none>" * (not subsets))]
def slice_cells(obj):
    return [cut([str(port.get("port", port.get("name", "*"))) for port in obj.get("ports") or ()], "<unset>"),
            cut([ip for one in obj.get("endpoints") or () for ip in one.get("addresses") or ()], "<unset>")]

def event_cells(event):
    target, source, series = (event.get(field) or {} for field in ("involvedObject", "source", "series"))
    first, name = age(event.get("firstTimestamp") or event.get("eventTime")), target.get("name")
    last = series.get("lastObservedTime") if series else event.get("lastTimestamp")
    host = source.get("host") or event.get("reportingInstance")
    return [age(last) if last or series else first, target.get("kind", "").lower() + (f"/{name}" if name else ""),
            (source.get("component") or event.get("reportingComponent") or "") + (f", {host}" if host else ""),
            (event.get("message") or "").strip(), first, series.get("count", 0) if series else event.get("count") or 1]

ACCESS_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}

def volume_cells(obj):
    """Capacity, Access Modes, Status, Claim, StorageClass of a PersistentVolume, or what a claim has of these."""
    spec, claim, annotations = obj["spec"], obj["spec"].get("claimRef"), obj["metadata"].get("annotations") or {}
    has = spec if "capacity" in spec else obj.get("status") or {} if spec.get("volumeName") else {}
    modes = ",".join(short for mode, short in ACCESS_MODES.items() if mode in (has.get("accessModes") or ()))
    return [dig(has, "capacity.storage", "0" if spec.get("volumeName") else ""), modes,
            "Terminating" if is_deleting(obj) else dig(obj, "status.phase", ""),
            f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
            annotations.get("volume.beta.kubernetes.io/storage-class", spec.get("storageClassName") or "")]
def claim_cells(obj):
    capacity, modes, status, _, class_ = volume_cells(obj)
    return [status, capacity, modes, class_, dig(obj, "spec.volumeAttributesClassName", "<unset>")]

def quota_cells(quota):
    hard, used = (dig(quota, f"status.{field}", {}) for field in ("hard", "used"))
    return [", ".join(f"{name}: {used.get(name, '0')}/{hard[name]}" for name in sorted(hard)
                      if name.startswith("limits.") == limits) for limits in (False, True)]
def revision_cells(obj):
    owner = controller_of(obj)
    group = owner and owner["apiVersion"].rpartition("/")[0]
    return [f"{owner['kind']}{'.' * bool(group)}{group}".lower() + "/" + owner["name"] if owner else "<none>"]

def job_cells(job):
    spec, status = job["spec"], job.get("status") or {}
    began, until = (seconds_of(status.get(field)) for field in ("startTime", "completionTime"))
    one = f"1 of {spec['parallelism']}" if spec.get("parallelism", 0) > 1 else 1
    states = "Complete", "Failed", "Terminating", "Suspended", "FailureTarget", "SuccessCriteriaMet"
    return [next((s for s in states if is_condition(job, s) or s == "Terminating" and is_deleting(job)), "Running"),
            f"{status.get('succeeded', 0)}/{dig(spec, 'completions', one)}",
            "" if began is None else duration((time.time() if until is None else until) - began)]

def metric_text(spec, status):
    """A metric of a HorizontalPodAutoscaler as NAME: CURRENT/TARGET (formatHPAMetrics)."""
    source = spec["type"][:1].lower() + spec["type"][1:]
    target, current = (dig(side, f"{source}.{part}", {}) for side, part in ((spec, "target"), (status, "current")))
    is_average, of_resource = "averageValue" in target, "esource" in source
    field = "averageValue" if is_average else "averageUtilization" if of_resource else "value"
    unit, tail = "%" * (field == "averageUtilization"), " (avg)" * (is_average and source in ("external", "object"))
    unknown = "<nil>" if source in status and not unit and not tail else "<unknown>"
    current, target = (f"{side[field]}{unit}" if field in side else none
                       for side, none in ((current, unknown), (target, "<auto>")))
    return (f"{spec[source]['name']}: " if of_resource else "") + f"{current}/{target}{tail}"
def autoscaler_cells(obj):
    found, metrics = dig(obj, "status.currentMetrics", []), obj["spec"].get("metrics") or ()
    return ["{kind}/{name}".format(**obj["spec"]["scaleTargetRef"]), cut([
        metric_text(one, (found[i:] or [{}])[0]) for i, one in enumerate(metrics)], most=2, comma=", ")]

def class_cells(obj):
    of = obj["spec"].get("parameters")
    return [of["kind"] + (f".{of['apiGroup']}" if "apiGroup" in of else "") + "/" + of["name"] if of else "<none>"]
def storage_class_cells(obj):
    marks = obj["metadata"].get("annotations") or {}
    marks = [marks.get(f"storageclass.{beta}kubernetes.io/is-default-class") for beta in ("", "beta.")]
    return [obj["metadata"]["name"] + (" (default)" if "true" in marks else "")]
def binding_cells(obj):
    return ["{kind}/{name}".format(**obj["roleRef"]), *(", ".join(
        f"{one.get('namespace', '')}/" * (kind == "ServiceAccount") + one["name"] for one in obj.get("subjects") or ()
        if one["kind"] == kind) for kind in ("User", "Group", "ServiceAccount"))]
def ready_cells(obj):
    return [f"{dig(obj, 'status.readyReplicas', 0)}/{obj['spec'].get('replicas', 0)}"]

# Kinds: their columns after Name; " ; " stands between rows. A column is TITLE MARKS =PATH |DEFAULT: _ is a blank; *
# shows it only with -o wide; the other mark see MARKS; a path is one of additionalPrinterColumns without its first
# point. Those without a path, but Age, are what the kind's function in CELLS gives, in this order.
TEMPLATE = "Containers*,=spec.template.spec.containers[*].name Images*,=spec.template.spec.containers[*].image"
WORKLOAD = f"Age {TEMPLATE} Selector*~=spec.selector"
COLUMNS = f"""
Namespace: Status=status.phase Age ; ServiceAccount: Age ; Node: Status Roles Age Version=status.nodeInfo.kubeletVersion
  Internal-IP*=status.addresses[?(@.type=="InternalIP")].address|<none>
  External-IP*=status.addresses[?(@.type=="ExternalIP")].address|<none>
  OS-Image*=status.nodeInfo.osImage|<unknown> Kernel-Version*=status.nodeInfo.kernelVersion|<unknown>
  Container-Runtime*=status.nodeInfo.containerRuntimeVersion|<unknown>
Pod: Ready Status Restarts Age IP*=status.podIP|<none> Node*=spec.nodeName|<none>
  Nominated_Node*=status.nominatedNodeName|<none> Readiness_Gates*
Service: Type=spec.type Cluster-IP=spec.clusterIP|<none> External-IP Port(s) Age Selector*~=spec.selector
Endpoints: Endpoints Age ; EndpointSlice: AddressType=addressType Ports Endpoints Age ; ConfigMap: Data Age
Secret: Type=type Data Age
Event: Last_Seen Type=type Reason=reason Object Subobject*=involvedObject.fieldPath Source* Message First_Seen* Count*
  Name*=metadata.name
PersistentVolume: Capacity Access_Modes Reclaim_Policy=spec.persistentVolumeReclaimPolicy Status Claim StorageClass
  VolumeAttributesClass=spec.volumeAttributesClassName|<unset> Reason=status.reason Age
  VolumeMode*=spec.volumeMode|<unset>
PersistentVolumeClaim: Status Volume=spec.volumeName Capacity Access_Modes StorageClass VolumeAttributesClass Age
  VolumeMode*=spec.volumeMode|<unset>
PodTemplate: Containers,=template.spec.containers[*].name Images,=template.spec.containers[*].image
  Pod_Labels~=template.metadata.labels
LimitRange,Role,ClusterRole,CustomResourceDefinition: Created_At@=metadata.creationTimestamp
ResourceQuota: Request Limit Age
ReplicationController,ReplicaSet: Desired#=spec.replicas Current#=status.replicas Ready#=status.readyReplicas {WORKLOAD}
Deployment: Ready Up-to-date=status.updatedReplicas|0 Available=status.availableReplicas|0 {WORKLOAD}
StatefulSet: Ready Age {TEMPLATE}
DaemonSet: Desired#=status.desiredNumberScheduled Current#=status.currentNumberScheduled Ready#=status.numberReady
  Up-to-date#=status.updatedNumberScheduled Available#=status.numberAvailable
  Node_Selector~=spec.template.spec.nodeSelector {WORKLOAD}
ControllerRevision: Controller Revision=revision|0 Age ; Job: Status Completions Duration {WORKLOAD}
CronJob: Schedule=spec.schedule Timezone=spec.timeZone|<none> Suspend? Active#
  Last_Schedule^=status.lastScheduleTime|<none> {WORKLOAD.replace("=", "=spec.jobTemplate.")}
HorizontalPodAutoscaler: Reference Targets MinPods$=spec.minReplicas|<unset> MaxPods=spec.maxReplicas|0
  Replicas=status.currentReplicas|0 Age ; Ingress: Class=spec.ingressClassName|<none> Hosts Address Ports Age
IngressClass: Controller=spec.controller Parameters Age ; NetworkPolicy: Pod-Selector~=spec.podSelector Age
PodDisruptionBudget: Min_Available$=spec.minAvailable|N/A Max_Unavailable$=spec.maxUnavailable|N/A
  Allowed_Disruptions#=status.disruptionsAllowed Age
RoleBinding,ClusterRoleBinding: Role Age Users* Groups* ServiceAccounts*
StorageClass: Name Provisioner=provisioner ReclaimPolicy=reclaimPolicy|Delete
  VolumeBindingMode=volumeBindingMode|Immediate AllowVolumeExpansion=allowVolumeExpansion|false Age
PriorityClass: Value#=value Global-Default?=globalDefault Age PreemptionPolicy=preemptionPolicy
RuntimeClass: Handler=handler Age ; Lease: Holder=spec.holderIdentity Age
NodeMetrics: cpu=usage.cpu memory=usage.memory Window=window ; PodMetrics: cpu memory Window=window
"""
COLUMNS = {kind: words for kinds, words in (row.split(": ", 1) for row in COLUMNS.replace("\n  ", " ").replace(
    " ; ", "\n").strip().split("\n")) for kind in kinds.split(",")}
CELLS = {
    "Pod": pod_cells, "Node": node_cells, "Service": service_cells, "Endpoints": endpoints_cells, "Event": event_cells,
    "EndpointSlice": slice_cells, "PersistentVolume": volume_cells, "PersistentVolumeClaim": claim_cells,
    "Deployment": ready_cells, "StatefulSet": ready_cells, "ControllerRevision": revision_cells, "Job": job_cells,
    "HorizontalPodAutoscaler": autoscaler_cells, "Ingress": ingress_cells, "IngressClass": class_cells,
    "StorageClass": storage_class_cells, "ResourceQuota": quota_cells, "RoleBinding": binding_cells,
    "ClusterRoleBinding": binding_cells, "Secret": lambda obj: [len(obj.get("data") or ())],
    "ConfigMap": lambda obj: [len(obj.get("data") or ()) + len(obj.get("binaryData") or ())],
    "CronJob": lambda obj: [str(obj["spec"].get("suspend", "<unset>")), len(dig(obj, "status.active", ()))],
    "PodMetrics": lambda obj: [quantity_text(sum(quantity_nanos(c["usage"][name]) for c in obj["containers"]))
                               for name in ("cpu", "memory")]}
# [?(@left op right)], [index], .name
STEP = re.compile(r"\[\?\(@([^!=]*?)(?:\s*([!=]=)\s*(.+?))?\s*\)\]|\[(-?\d+|\*)\]|\.((?:\\.|[^.\[\]\\])+)")

def json_steps(path):
    """A path such as .a[0]['b'][?(@.c=="d")].e[*] as the groups of STEP; None if we cannot read it."""
    path = re.sub(r"\[(['\"])(.*?)\1\]", r".\2", path)
    return None if STEP.sub("", path) else [(*groups, re.sub(r"\\(.)", r"\1", name))
                                            for *groups, name in STEP.findall(path)]

def jsonpath(steps, value):
    """The values at a path. Raises LookupError, TypeError or ValueError."""
    found = [value]
    for left, op, right, index, name in steps:
        if "*" in (name, index):
            found = [item for each in found if each for item in (each.values() if isinstance(each, dict) else each)]
        elif name:
            found = [each[name] for each in found if isinstance(each, dict) and name in each]
        elif index:
            found = [each[int(index)] for each in found if isinstance(each, list)]
        else:
            wanted = json.loads(right.replace("'", '"')) if op else None
            found = [item for each in found for item in each for it in jsonpath(json_steps(left), item)[:1]
                     if not op or (it == wanted) == (op == "==")]
    return found

def first(found):
    return [value for value in found if value not in (None, "")][0]
def custom_cell(type_, found):
    """What a custom kind's column shows; None if that is not of its type (tableconvertor)."""
    value = found[0]
    if type_ == "string" and not isinstance(value, str):
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return "<no value>" if value is None else re.sub("[<>&]", lambda odd: f"\\u{ord(odd[0]):04x}", text)
    if type_ == "date" and isinstance(value, str):
        return age(value) if not value or TIME.fullmatch(value) else "<invalid>"
    types = {"string": (str,), "boolean": (bool,), "integer": (int, float), "number": (int, float)}.get(type_, ())
    return (int(value) if type_ == "integer" else value) if type(value) in types else None

MARKS = {  # mark of a column -> (its type, its default, what it shows of the values found)
    "": ("string", "", first), "#": ("integer", 0, first), "?": ("boolean", False, first), "@": ("date", "", first),
    "$": ("string", "", lambda found: str(first(found))), "^": ("string", "<unknown>", lambda found: age(first(found))),
    ",": ("string", "", ",".join), "~": ("string", "<none>", lambda found: selector_text(first(found)))}
COLUMN = re.compile(r"([^*#?@$^,~=|]+)(\*?)([#?@$^,~]?)=?([^|]*)\|?(.*)")
Column = namedtuple("Column", "name type format priority steps default show")

def columns_of(kind):
    """(the Columns of a kind, the function to the cells without a path)."""
    columns, custom = [], kind.crd is not None
    words = "" if custom else COLUMNS.get(kind.name, "Age").replace("Age", "Age^=metadata.creationTimestamp")
    for word in (words if re.search(r"\bName\b", words) else "Name=metadata.name " + words).split():
        title, wide, mark, path, default = COLUMN.fullmatch(word).groups()
        type_, zero, show = MARKS[mark]
        default = WORDS.get(default, int(default) if default.isdigit() else default or zero)
        columns.append(Column(title.replace("_", " "), type_, "name" * (title == "Name"), len(wide),
                              json_steps("." + path) if path else (), default, show))
    ages = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    for c in (kind.crd.get("additionalPrinterColumns") or [ages]) if custom else ():
        columns.append(Column(c["name"], c["type"], c.get("format", ""), c.get("priority", 0), json_steps(
            c["jsonPath"]), None, lambda found, type_=c["type"]: custom_cell(type_, found)))
    return columns, CELLS.get("" if custom else kind.name, lambda obj: ())

def table_rows(kind, objects, form):
    """The rows of a Table, one after the other."""
    columns, function = columns_of(kind)
    for obj in objects:
        cells, others = [], iter(function(obj))
        for column in columns:
            try:
                cells.append(next(others) if column.steps == () else column.show(jsonpath(column.steps, obj)))
            except (LookupError, TypeError, ValueError):        # nothing there
                cells.append(column.default)
        shown = {"Object": obj, "None": None}.get(form.include, partial_metadata(obj, form))
        yield {"cells": cells, "object": shown}

def to_table(kind, objects, form):
    """A meta.k8s.io Table of objects of one kind."""
    version = objects[0]["metadata"].get("resourceVersion", "") if len(objects) == 1 else ""
    heads = [{**dict(zip(Column._fields, column[:4])), "description": ""} for column in columns_of(kind)[0]]
    return {"kind": "Table", "apiVersion": form.version, "metadata": {"resourceVersion": version},
            "columnDefinitions": heads if form.columns else None, "rows": list(table_rows(kind, objects, form))}

# -- OpenAPI: SCHEMA again, in the words of clients; made when asked for, not kept
OPENAPI_SCALARS = {name: dict(zip(("type", "format"), words)) for name, *words in map(str.split, (
    "string string", "int integer int32", "bool boolean", "bytes string byte", "Raw object", "Time string date-time",
    "MicroTime string date-time", "Quantity string", "Double number double", "IntOrString string int-or-string"))}
OPENAPI_SCALARS["ExtraValue"] = {"type": "array", "items": {"type": "string"}}

PACKAGES = [  # Go's packages of types that are not of the package of the first kind they are part of
    ("apimachinery.pkg.apis.meta.v1", "FieldsV1 ObjectMeta DeleteOptions Condition LabelSelector "
     "FieldSelectorRequirement"), ("apimachinery.pkg.runtime", "RawExtension"), ("api.core.v1", "TopologySelectorTerm"),
    ("apimachinery.pkg.api.resource", "Quantity"), ("apimachinery.pkg.util.intstr", "IntOrString"),
    ("kube-aggregator.pkg.apis.apiregistration.v1", "APIService"), ("apiextensions-apiserver.pkg.apis.apiextensions.v1",
     "CustomResourceDefinition JSON JSONSchemaPropsOrArray JSONSchemaPropsOrBool JSONSchemaPropsOrStringArray")]
BY_NAME = {"fieldsV1": "FieldsV1", "data": "RawExtension", "default": "JSON", "enum": "JSON", "example": "JSON",
           "items": "JSONSchemaPropsOrArray", "additionalItems": "JSONSchemaPropsOrBool",
           "additionalProperties": "JSONSchemaPropsOrBool", "dependencies": "JSONSchemaPropsOrStringArray"}
EITHER = {  # types that `explain` calls by name; in version 2 the first two stand where they are used
    "Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "IntOrString": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    **{name: {"description": "Anything."} if "JSON" in name else {"type": "object"} for name in BY_NAME.values()}}

def is_required(field):
    """Whether clients must write the field: kubectl before 1.25 refuses an object without it."""
    unset = ("Time", "MicroTime", "Quantity", "Raw")
    return "need" in field.rules or field.always and "opt" not in field.rules and (
        not field.pointer and field.default is None and field.type not in unset)

def definition_names():
    """{message: the name of its definition}, which tells the Go package that it is from."""
    of_kinds, out = [(f"api.{kind.group.split('.')[0] or 'core'}.{kind.version}", kind.schema)
                     for kind in KINDS if not kind.crd], {}
    for package, types in PACKAGES + of_kinds:
        todo = types.split()
        for name in todo:                                       # it grows on the way
            if name not in out:
                out[name] = f"io.k8s.{package}.{name.rpartition('.')[2]}"
                todo += MESSAGES.keys() & re.findall(r":(?:\[\]|\{\})?([\w.]+)", MESSAGES.get(name, ""))
    return out

def openapi_field(field, refs, is_v3):
    """The schema of one field of a message; refs: {type: how it is referred to}."""
    name = BY_NAME.get(field.name) if field.type == "Raw" or field.type.startswith("SchemaOr") else field.type
    is_named = name and (name not in SCALARS or is_v3 and name in EITHER)
    base = refs[name] if is_named else OPENAPI_SCALARS.get(field.type, {})
    if field.kind == "{}":
        atomic = {"x-kubernetes-map-type": "atomic"} if field.atomic else {}
        return {"type": "object", "additionalProperties": base, **atomic}
    strategies = ["merge" if field.kind else "replace"] * bool(field.merges) + ["retainKeys"] * field.retain
    out = {"allOf": [base]} if strategies and is_v3 else dict(base)
    if field.kind:
        out = {"type": "array", "items": base, "x-kubernetes-list-type":
               ("map" if field.keys else "set") if field.applies else "atomic"}
        if field.keys and field.applies:
            out["x-kubernetes-list-map-keys"] = list(field.keys)
    told = sorted((rule for rule in field.rules if re.match(r"\?|,?[A-Z]", rule)), key=lambda rule: rule[0] != "?")
    if told and not field.kind:
        out["enum"] = sorted(told[0].lstrip("?").split(","))
    if field.merges and field.keys:
        out["x-kubernetes-patch-merge-key"] = field.keys[0]
    return {**out, "x-kubernetes-patch-strategy": ",".join(strategies)} if strategies else out

MORE = "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#"
KIND_TEXTS = {name: {"type": "string", "description": text + MORE + anchor} for name, anchor, text in (
    ("apiVersion", "resources", "APIVersion defines the versioned schema of this representation of an object. Servers "
     "should convert recognized schemas to the latest internal value, and may reject unrecognized values. "),
    ("kind", "types-kinds", "Kind is a string value representing the REST resource this object represents. Servers may "
     "infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. "))}

def openapi_definitions(kinds, root):
    """Yield (name, schema) of these kinds and all messages they reach."""
    names, is_v3, done = definition_names(), "/components/" in root, set()
    atomic = set(re.findall(r":(?:\[\])?([\w.]+)[?+&]*#", " ".join(MESSAGES.values())))
    refs = {name: {"$ref": root + full} for name, full in names.items()}
    yield from ((names[name], schema) for name, schema in EITHER.items() if "oneOf" not in schema or is_v3)
    named = {kind.schema: kind for kind in KINDS if not kind.crd}
    todo = ["DeleteOptions", "ObjectMeta", *(kind.schema for kind in kinds if not kind.crd)]
    meta = {"allOf": [refs["ObjectMeta"]], "description": f"Standard object's metadata. {MORE}metadata"}
    for kind in [kind for kind in kinds if kind.crd]:
        own = {**KIND_TEXTS, **kind.schema.get("properties", {}), "metadata": meta}
        dropped = ["x-kubernetes-validations"] + [LOOSE] * ("properties" not in kind.schema)
        yield ".".join([*kind.group.split(".")[::-1], kind.version, kind.name]), {
            "type": "object", **without(kind.schema, *dropped), **(
                {"properties": own} if kind.schema.get("properties") or not kind.schema.get(LOOSE) else {}),
            "x-kubernetes-group-version-kind": [gvk(kind)]}
    while todo:
        name = todo.pop()
        if name in done:
            continue
        fields = Message(name).by_name.values()             # not to be kept: most are never needed again
        properties = {field.name: openapi_field(field, refs, is_v3) for field in fields}
        if name in named:
            properties.update(KIND_TEXTS)
        yield names[name], {"type": "object", **filled(
            properties=properties, required=sorted(field.name for field in fields if is_required(field)), **{
                "x-kubernetes-group-version-kind": [gvk(named[name])] if name in named else [],
                "x-kubernetes-map-type": "atomic" if name in atomic else ""})}
        done.add(name)
        todo += [field.type for field in fields if field.type not in SCALARS]

def gvk(kind):
    return {"group": kind.group, "kind": kind.name, "version": kind.version}

PARAMETERS = {  # of the query, by method
    "get": (), **dict.fromkeys(("post", "put"), ("dryRun", "fieldManager", "fieldValidation")),
    "patch": ("dryRun", "fieldManager", "fieldValidation", "force"),
    "delete": ("dryRun", "gracePeriodSeconds", "propagationPolicy")}

def openapi_paths(kinds, scalar):
    """Yield (path, operations) of these kinds; scalar is how a parameter says that it is text."""
    for kind in kinds:
        out = {}
        path = f"/{'apis' if kind.group else 'api'}/{group_version(kind)}/" + (
            "namespaces/{namespace}/" * kind.namespaced) + kind.plural
        for (method, is_one), (_, verb) in VERBS.items():
            if verb in kind.verbs.split() and (method, is_one) != ("POST", True):
                action, method = {"create": "post", "update": "put"}.get(verb, verb), method.lower()
                out.setdefault(path + "/{name}" * is_one, {})[method] = {
                    "operationId": f"{action}{kind.group.title().replace('.', '')}{kind.version.title()}{kind.name}",
                    "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(kind),
                    "parameters": [{"name": name, "in": "query", **scalar} for name in PARAMETERS[method]],
                    "responses": {"200": {"description": "OK"}}}
        yield from out.items()

def joined(pairs):
    """An object whose members come one by one, as JSON: the whole document would be several MB of dicts."""
    return b"{" + b",".join(dumps(name) + b":" + (dumps(value) if isinstance(value, (str, dict)) else joined(value))
                            for name, value in pairs) + b"}"

def openapi(request, parts):
    """The Answer to /openapi/v2, /openapi/v3 and /openapi/v3/GROUP VERSION; None for another path."""
    info, text, by_path = {"title": "Kubernetes", "version": SERVES}, {"type": "string"}, {}
    for kind in KINDS:
        by_path.setdefault(("apis/" if kind.group else "api/") + group_version(kind), []).append(kind)
    if parts == ["v3"]:
        stamp = lambda kinds: hashlib.sha512(dumps([SCHEMA, VERSION, [k.schema if k.crd else k for k in kinds]]))
        return tagged(request, {"paths": {path: {
            "serverRelativeURL": f"/openapi/v3/{path}?hash={stamp(kinds).hexdigest().upper()}"}
            for path, kinds in by_path.items()}}, "text/plain; charset=utf-8")
    if parts[:1] == ["v3"] and "/".join(parts[1:]) in by_path:
        kinds = by_path["/".join(parts[1:])]
        schemas = openapi_definitions(kinds, "#/components/schemas/")
        return tagged(request, joined([("openapi", "3.0.0"), ("info", info), (
            "paths", openapi_paths(kinds, {"schema": text})), ("components", [("schemas", schemas)])]))
    if parts != ["v2"]:
        return None
    document = [("swagger", "2.0"), ("info", info), ("paths", openapi_paths(KINDS, text)),
                ("definitions", openapi_definitions(KINDS, "#/definitions/"))]
    if "protobuf" in request.headers.get("Accept", ""):
        media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
        return answer(200, to_gnostic("Document", document), media)
    return tagged(request, joined(document))

# gnostic's OpenAPIv2.proto, as far as we write it: message -> {JSON key: (field number, message; "" for text)}; "*" is
# any key, "x" one that begins with x-: both are written as a pair of the key and its value.
GNOSTIC = {
    "Document": {"swagger": (1, ""), "info": (2, "Info"), "paths": (8, "Paths"), "definitions": (9, "Definitions")},
    "Info": {"title": (1, ""), "version": (2, "")},
    "Paths": {"*": (2, "PathItem")}, "Definitions": {"*": (1, "Schema")},
    "PathItem": {verb: (number, "Operation") for verb, number in dict(get=2, put=3, post=4, delete=5, patch=8).items()},
    "Operation": {"operationId": (5, ""), "parameters": (8, "Parameter"), "x": (13, "Any")},
    "Query": {"in": (2, ""), "name": (4, ""), "type": (6, "")},
    "Schema": {"$ref": (1, ""), "format": (2, ""), "description": (4, ""), "required": (19, ""),
               "additionalProperties": (21, "Wrapped"), "type": (22, "Text"), "items": (23, "Wrapped"),
               "allOf": (24, "Schema"), "properties": (25, "Definitions"), "x": (31, "Any")}}
WRAPPED = {  # message -> (the fields around what it holds, innermost first; that message, None for a value itself)
    "": ((), None), "Text": ((1,), None), "Any": ((2,), None),  # Any: the value as YAML, of which JSON is a part
    "Wrapped": ((1,), "Schema"),                                # ItemsItem, AdditionalPropertiesItem
    "Parameter": ((3, 2, 1), "Query"),                          # ParametersItem > Parameter > NonBodyParameter > Query
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
        if isinstance(value, bool) and name == "Wrapped":
            return bytes([0x10, value])                         # additionalProperties: true
        numbers, inner = WRAPPED[name]
        data = to_gnostic(inner, value) if inner is not None else dumps(value) if name == "Any" else value.encode()
        for number in numbers:
            data = wire_bytes(number, data)
        return data
    fields, out = GNOSTIC[name], []
    for key, item in value.items() if isinstance(value, dict) else value:
        number, inner = fields.get("*") or fields.get("x" if key.startswith("x-") else key, (0, ""))
        if "*" in fields or number and key.startswith("x-"):
            out.append(wire_bytes(number, wire_bytes(1, key.encode()) + wire_bytes(2, to_gnostic(inner, item))))
        elif number:
            items = item if isinstance(item, list) else [item]
            out += [wire_bytes(number, to_gnostic(inner, each)) for each in items]
    return b"".join(out)

# == 20. Streams =============================================================================
# exec, attach and port-forward. A protocol turns bytes into events and back, and touches no socket; a Session moves the
# bytes. The events:
#   ("open", stream, headers)   ("data", stream, bytes) a piece as it came   ("end" or "reset", stream, b"")
#   ("reply", None, bytes) to be sent back   ("gone", None, b"") the client ends it all
STREAM_BYTES = 256 << 10    # what waits for one side before the other is no longer read
LINGER_S = 5                # how long a client may take to hang up after all was said
CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}          # over a WebSocket

def websocket_frame(opcode, payload):
    """One final, unmasked frame (RFC 6455, 5.2; a server never masks)."""
    size = len(payload)
    length = (struct.pack("!B", size) if size < 126 else struct.pack("!BH", 126, size) if size < 1 << 16 else
              struct.pack("!BQ", 127, size))
    return bytes([0x80 | opcode]) + length + payload

def unmask(data, mask):
    """XOR with the mask over and over, as one large number: Python has nothing faster."""
    whole = (mask * (len(data) // 4 + 1))[:len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(data), "big")

class WebSocket:
    """The server's side of RFC 6455. channels: a message begins with the number of its stream; encoded: the rest is
    base64; closes: the message [255, n] ends stream n (v5). Frames of any length, passed on in pieces."""
    def __init__(self, channels=True, encoded=False, closes=False):
        self.channels, self.encoded, self.closes = channels, encoded, closes
        self.buffer, self.frame = b"", None                     # (final, opcode, bytes still to come, mask)
        self.in_message, self.stream, self.rest = False, None, b""

    def receive(self, data):
        """The events of some bytes from the client. Raises ValueError where they break the protocol."""
        self.buffer += data
        while self.frame or self.read_head():
            final, opcode, left, mask = self.frame
            piece = self.buffer[:left]
            if len(piece) < left and (opcode > 7 or not piece):         # control frames are taken whole
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
        """Take the head of a frame off the buffer; returns whether it was complete."""
        size = self.buffer[1] & 127 if len(self.buffer) > 1 else 0
        at = 2 + {126: 2, 127: 8}.get(size, 0)
        if len(self.buffer) < at + 4:
            return False
        final, opcode, left = self.buffer[0] >> 7, self.buffer[0] & 127, int.from_bytes(self.buffer[2:at], "big")
        self.frame = final, opcode, left if at > 2 else size, self.buffer[at:at + 4]
        if opcode not in ((0, 8, 9, 10) if self.in_message else (1, 2, 8, 9, 10)) or not self.buffer[1] >> 7 or (
                opcode > 7 and (size > 125 or not final)):
            raise ValueError("not a frame of a WebSocket's client")
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
        return b""                                              # nothing can be said of one stream alone
    def goodbye(self):
        return websocket_frame(8, struct.pack("!H", 1000))

SPDY_WORDS = b"".join(struct.pack(">I", len(word)) + word.replace("_", " ").encode() for word in (    # SPDY/3, 2.6.10.1
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin").split()) + (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    b"Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
    b"Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
    b"00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    b"application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8"
    b"charset=iso-8859-1,utf-,*,enq=0.")
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7

class Spdy:
    """The server's side of SPDY/3.1 as Kubernetes uses it: its library (moby/spdystream) neither sends nor heeds
    WINDOW_UPDATE, so that the flow is TCP's to control."""
    channels = False

    def __init__(self):
        import zlib
        self.buffer, self.left, self.stream, self.final, self.last, self.zlib = b"", 0, 0, False, 0, zlib
        self.inflate, self.deflate = zlib.decompressobj(zdict=SPDY_WORDS), zlib.compressobj(zdict=SPDY_WORDS)

    def receive(self, data):
        """The events of some bytes from the client. Raises ValueError where they break the protocol."""
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
                self.stream, self.left, self.final, self.buffer = word, size, bool(flags & 1), self.buffer[8:]
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
            self.last, no_headers = stream, self.deflate.compress(bytes(4)) + self.deflate.flush(self.zlib.Z_SYNC_FLUSH)
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

TERMINAL = {
    "websocket": {"v5.channel.k8s.io": {"closes": True},
                  **dict.fromkeys(("v4.channel.k8s.io", "channel.k8s.io", ""), {}),
                  **dict.fromkeys(("v4.base64.channel.k8s.io", "base64.channel.k8s.io"), {"encoded": True})},
    "spdy/3.1": [version + "channel.k8s.io" for version in ("v4.", "v3.", "v2.", "")]}
UPGRADES = {  # subresource -> {what Upgrade says, in lower case: the subprotocols, those of a WebSocket with its form}
    "exec": TERMINAL, "attach": TERMINAL,
    "portforward": {"websocket": {"SPDY/3.1+portforward.k8s.io": None}, "spdy/3.1": ["portforward.k8s.io"]},
    "log": {"websocket": {**dict.fromkeys(("binary.k8s.io", ""), {"channels": False}),
                          "base64.binary.k8s.io": {"channels": False, "encoded": True}}}}

def upgrade(headers, subresource):
    """(protocol, the subprotocol's name, the head of the 101) for a request that wants one of the UPGRADES of a
    subresource. Raises ApiError 400, 403."""
    wanted = headers.get("Upgrade", "").lower()
    known = UPGRADES[subresource].get(wanted)
    if not known or "upgrade" not in headers.get("Connection", "").lower():
        raise bad_request("Upgrade request required")
    field = "Sec-WebSocket-Protocol" if wanted == "websocket" else "X-Stream-Protocol-Version"
    offered = [name.strip() for name in headers.get(field, "").split(",")]
    name = next((name for name in offered if name in known), None)
    if name is None:
        raise ApiError(403, "Forbidden", "unable to upgrade: unable to negotiate protocol: client supports "
                       f"[{' '.join(offered)}], server accepts [{' '.join(filter(None, known))}]")
    head = {"Connection": "Upgrade", "Upgrade": wanted.replace("spdy", "SPDY"), **filled(**{field: name})}
    if wanted != "websocket":
        return Spdy(), name, head
    key = headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"        # RFC 6455, 4.2.2
    head["Sec-WebSocket-Accept"] = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    return Tunnel() if known[name] is None else WebSocket(**known[name]), name, head

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

class Far:
    """A socket at a container's end, and what waits to be written to it. ended: no more will come; lasting: it is not
    told of that; deaf: it takes no more; streams: the client's streams that belong to it, by their kind."""
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
        except OSError:                                         # it hears no more, but may still have something to say
            self.deaf = True
            self.out.clear()

    def close(self):
        self.deaf = True
        self.out.clear()
        if self.sock:
            self.sock.close()

class Session:
    """One client, and what it is connected to: a loop over all the sockets in the thread of the request, none of which
    is ever waited for alone. What one side does not take is soon not read from the other."""
    def __init__(self, protocol, head):
        self.protocol, self.head, self.out, self.fars, self.gone = protocol, head, bytearray(), [], False

    def serve(self, handler):
        """Take over a request's connection until the session ends. Raises OSError where the client has gone."""
        handler.take_over(101, self.head)
        self.sock = handler.sock
        self.sock.setblocking(False)
        try:
            self.receive(handler.connection.buffer)
            self.run()
        except ValueError as error:
            log(f"{handler.request.path}: {error}")
        finally:
            for far in self.fars:
                far.close()

    def turn(self, timeout=None):
        """Wait until something can be moved, at most so many seconds, and move it. Raises OSError, ValueError."""
        hungry = sum(len(far.out) for far in self.fars) < STREAM_BYTES and len(self.out) < 2 * STREAM_BYTES
        poll, fars, pending = select.poll(), {}, hungry and self.sock.pending()
        poll.register(self.sock, (select.POLLIN if hungry else select.POLLRDHUP) | select.POLLOUT * bool(self.out))
        for far in self.fars:
            wish = (select.POLLIN * (len(self.out) < STREAM_BYTES) |
                    select.POLLOUT * bool(far.out or far.ended and not far.deaf))
            if far.sock and wish:
                fars[far.sock.fileno()] = far
                poll.register(far.sock, wish)
        ready = dict(poll.poll(0 if pending else timeout and max(0, timeout) * 1000))
        if ready.pop(self.sock.fileno(), 0) & ~select.POLLOUT or pending:
            data = unblocked(self.sock.recv, 65536) if hungry else b""       # else it hung up with much still unread
            self.gone = data == b""
            self.receive(data or b"")
        for fd, mask in ready.items():
            if mask & select.POLLOUT:
                fars[fd].write()
            if mask & ~select.POLLOUT and fars[fd] in self.fars:
                try:
                    data = unblocked(fars[fd].sock.recv, 65536)
                except OSError:                                 # reset
                    data = b""
                if data:
                    self.on_far(fars[fd], data)
                elif data is not None:
                    self.drop(fars[fd])
        send(self.sock, self.out)

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
        """Say goodbye, and let the client be the one who hangs up: what it still sends would reset the connection."""
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
    """exec or attach: one far end, which begins with the engine's answer to a call. wanted: the names of the streams;
    target: the path of the exec or the container; as_json: how the client wants the status."""
    def __init__(self, engine, protocol, head, call, tty, wanted, target, as_json):
        super().__init__(protocol, head)
        self.engine, self.call, self.tty, self.wanted, self.target = engine, call, tty, wanted, target
        self.as_json, self.buffer, self.sizes, self.size = as_json, b"", b"", None
        self.streams, self.far = dict(CHANNELS) if protocol.channels else {}, Far()
        self.fars, self.far.deaf = [self.far], "stdin" not in wanted

    def run(self):
        until, status = time.monotonic() + 30, {"metadata": {}, "status": "Success"}
        while not self.gone and self.wanted - self.streams.keys():
            self.turn(until - time.monotonic())
            if time.monotonic() > until:
                raise ValueError("timed out waiting for client to create streams")
        if self.protocol.channels:                              # an empty message says that we are there
            self.out += self.protocol.data(min(CHANNELS[name] for name in self.wanted - {"stdin"}), b"")
        try:
            self.far.sock, _, rest = self.engine.stream(*self.call, headers=("Connection: Upgrade", "Upgrade: tcp"))
            self.far.sock.setblocking(False)
            self.on_far(self.far, rest)
            self.resize()
            # The engine attaches to what has ended too, and would wait for its next start.
            info = self.engine.call("GET", self.target + "/json") if self.target.startswith("/containers") else {}
            ended = info and not info["State"]["Running"]
            # At the end of a stdin that may come again, the engine would leave us; the container's is open anyway.
            self.far.lasting = bool(info) and not info["Config"]["StdinOnce"]
            until = time.monotonic() + 1 if ended else float("inf")
            while not self.gone and self.fars and time.monotonic() < until:
                self.turn(1 if ended else None)
            if ended and self.fars:
                raise EngineError(409, "container is in CONTAINER_EXITED state")
            if self.target.startswith("/exec"):
                status = self.exit_status() or status
        except EngineError as error:
            what = "executing command in" if self.target.startswith("/exec") else "attaching to"
            text = f"error {what} container: {error}"
            status = failure("InternalError", "Internal error occurred: " + text, {"message": text}, code=500)
        text = dumps(status) if self.as_json else status.get("message", "").encode()
        self.out += self.protocol.data(self.streams["error"], text) if text else b""
        for name in self.wanted - {"stdin", "resize"}:
            self.out += self.protocol.end(self.streams[name])
        self.finish()

    def on_client(self, what, stream, text):
        if what == "open":
            self.streams.update({text["streamtype"]: stream} if text.get("streamtype") in CHANNELS else {})
        elif stream == self.streams.get("stdin", -1):
            self.far.take(what, text)
        elif stream == self.streams.get("resize", -1):
            *sizes, self.sizes = (self.sizes + text)[-4096:].split(b"}")
            self.size = json.loads(sizes[-1] + b"}") if sizes else self.size
            if self.far.sock and sizes:
                self.resize()

    def resize(self):
        """Tell the engine the terminal's size; what has ended by now needs none."""
        if self.size and self.tty:
            self.engine.call("POST", f"{self.target}/resize?h={int(self.size['Height'])}&w={int(self.size['Width'])}",
                             expect=(400, 404, 409, 500))

    def on_far(self, far, data):
        frames, self.buffer = log_frames(self.buffer + data, self.tty)
        for number, text in frames:
            name = "stderr" if number == 2 else "stdout"
            self.out += self.protocol.data(self.streams[name], text) if text and name in self.wanted else b""

    def exit_status(self):
        """The Status of a command that failed, once it has ended; None for one that did well."""
        pause, info = 0.01, self.engine.call("GET", self.target + "/json")
        while info["Running"] and not self.gone:                # it may have closed its output and go on
            self.turn(pause)
            pause, info = min(pause * 2, 1), self.engine.call("GET", self.target + "/json")
        code = info.get("ExitCode")
        text = f"command terminated with non-zero exit code: command terminated with exit code {code}"
        return failure("NonZeroExitCode", text, {"reason": "ExitCode", "message": str(code)}) if code else None

def failure(reason, message, cause, **more):
    """What an error stream says of what went wrong: a Status without its kind."""
    return {"metadata": {}, "status": "Failure", "message": message, "reason": reason, "details": {"causes": [cause]},
            **more}

def connect_inside(pid, port):
    """A connection to a port of the loopback that a process sees; a server there may listen on nothing else. Made in a
    thread that ends at once, so that none of ours is ever left in that network namespace. Raises OSError."""
    found = []
    def connect():
        try:
            with open(f"/proc/{pid}/ns/net") as namespace:
                if hasattr(os, "setns"):                        # Python 3.12
                    os.setns(namespace.fileno(), os.CLONE_NEWNET)
                else:
                    import ctypes
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000):
                        raise OSError(ctypes.get_errno(), "setns: " + os.strerror(ctypes.get_errno()))
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

class Forward(Session):
    """port-forward: a far end for each pair of a data and an error stream with the same requestid."""
    def __init__(self, protocol, head, pod, containers):
        super().__init__(protocol, head)
        self.pod, self.containers = pod, containers             # containers() -> the Founds of the pod
        self.pairs = {}                                         # requestid -> a Far that lacks a stream

    def run(self):
        while not self.gone:
            self.turn()
        self.finish()

    def on_client(self, what, stream, text):
        if what != "open":
            for far in [far for far in self.fars if far.streams.get("data") == stream]:
                far.take(what, text) if what != "reset" else self.drop(far)
            return
        kind, port = text.get("streamtype"), text.get("port", "")
        if kind not in ("data", "error") or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536 or (
                len(self.fars) >= CONNECTIONS):
            self.out += self.protocol.end(stream)
            return
        # clients of old send no requestid, but the error stream first
        id_ = text.get("requestid") or stream - 2 * (kind == "data")
        if id_ not in self.pairs:
            self.pairs[id_] = Far()                             # data may come before the error stream is there
            self.fars.append(self.pairs[id_])
        self.pairs[id_].streams[kind] = stream
        if len(self.pairs[id_].streams) == 2:
            self.connect(self.pairs.pop(id_), int(port))

    def connect(self, far, port):
        try:
            far.sock = connect_inside(next((found.pid for found in self.containers() if found.running), 0), port)
            far.sock.setblocking(False)
        except OSError as error:
            self.out += self.protocol.data(far.streams["error"], (
                f"error forwarding port {port} to pod {self.pod}, uid : failed to connect to localhost:{port} inside "
                f"its network namespace: {(error.strerror or str(error)).lower()}").encode())
            self.drop(far)

    def on_far(self, far, data):
        self.out += self.protocol.data(far.streams["data"], data)

    def drop(self, far):
        super().drop(far)
        self.pairs = {id_: each for id_, each in self.pairs.items() if each is not far}
        for stream in far.streams.values():
            self.out += self.protocol.end(stream)

# == 21. Server ==============================================================================
# Sockets. The hub waits for all of them in one thread without ever blocking; a request, once its head is complete, is
# lent a thread, and its connection comes back to the hub when the answer is out.
HEAD_END = re.compile(rb"\r?\n\r?\n")

class Connection:
    """One client's TLS connection. It has one owner at a time: the hub, or the thread of its present request."""
    __slots__ = ("sock", "state", "buffer", "deadline", "watch", "mask", "timed")

    def __init__(self, sock):
        self.sock, self.state, self.buffer, self.deadline, self.watch = sock, "handshake", b"", None, None
        self.mask, self.timed = 0, False

class Hub:
    """The one thread that waits: connections between requests, watches, timers, DNS, the engine's events. Without a
    timer due it sleeps until something happens. after() and call() are for any thread; all else is the hub's own."""
    def __init__(self, store):
        self.store, self.selector = store, selectors.DefaultSelector()
        self.timers, self.order, self.lock = [], 0, threading.Lock()        # lock: guards these two
        self.ears, self.mouth = socket.socketpair()
        self.ears.setblocking(False)
        self.mouth.setblocking(False)
        self.selector.register(self.ears, selectors.EVENT_READ, lambda ears, mask: ears.recv(4096))
        self.requests = WorkQueue("request", self.serve, REQUEST_THREADS, self)
        self.connections, self.parked, self.running, self.bookmarks_due = set(), {}, True, False

    # -- for any thread
    def call(self, function, *args):
        """Have the hub call function(*args) soon, after what it was told to call before."""
        self.after(0, function, *args)

    def after(self, seconds, function, *args):
        """Have the hub call function(*args) in so many seconds."""
        with self.lock:
            self.order += 1
            timer = time.monotonic() + seconds, self.order, function, args
            heapq.heappush(self.timers, timer)
            if self.timers[0] is timer and threading.current_thread().name != "hub":
                self.mouth.send(b".")

    def run(self):
        while self.running:
            with self.lock:
                # epoll counts in milliseconds of 32 bits: a timer further away is looked at again in between
                wait = min(max(0, self.timers[0][0] - time.monotonic()), 86400) if self.timers else None
            for key, mask in self.selector.select(wait):
                self.guard(key.data, key.fileobj, mask)
            due, begun = [], time.monotonic()
            with self.lock:
                while self.timers and self.timers[0][0] <= begun:
                    due.append(heapq.heappop(self.timers))
            for _, _, function, args in due:
                self.guard(function, *args)

    @staticmethod
    def guard(function, *args):
        """What the function returns; a fault in one connection or timer is logged and costs the others nothing."""
        try:
            return function(*args)
        except Exception:
            import traceback
            log(f"{threading.current_thread().name}: {traceback.format_exc()}")

    # -- listening and handshakes
    def listen(self, port, context, handle):
        """Serve https on all addresses; handle(connection) runs in a request thread. Raises OSError."""
        self.context, self.handle, dual = context, handle, socket.has_dualstack_ipv6()      # False without IPv6
        listener = socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, backlog=128,
                                        dualstack_ipv6=dual)
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)          # the connections inherit all three
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 120)
        self.selector.register(listener, selectors.EVENT_READ, self.on_accept)

    def on_accept(self, listener, mask):
        for _ in range(16):
            try:
                raw, _ = listener.accept()
                raw.setblocking(False)
                connection = Connection(self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False))
            except OSError:                                     # nobody more now, or one who has gone already
                return
            self.connections.add(connection)
            self.expect(connection, HEAD_SECONDS)
            if len(self.connections) > CONNECTIONS:
                self.close(next(iter(self.parked), connection))     # the one idle for longest
            self.on_ready(connection)

    def expect(self, connection, seconds):
        """Close the connection unless it gets on before the deadline."""
        connection.deadline = time.monotonic() + seconds
        if not connection.timed:
            connection.timed = True
            self.after(seconds, self.on_deadline, connection)

    def on_deadline(self, connection):
        """One timer a connection, however many requests: where the deadline has moved on, wait again."""
        connection.timed = False
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
            self.selector.register(connection.sock, mask, lambda sock, ready: self.on_ready(connection))
        connection.mask = mask

    def forget(self, connection):
        self.want(connection, 0)
        self.parked.pop(connection, None)
        connection.deadline = None

    def close(self, connection):
        self.forget(connection)
        self.connections.discard(connection)
        connection.state = "closed"
        if connection.watch:
            self.store.unwatch(connection.watch)
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
        except OSError:                                         # reset, no TLS at all, an unknown certificate authority
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
        self.call(self.on_ready, connection)                    # many small records: let the others have their turn

    # -- requests
    def release(self, connection):
        """A connection's thread goes on, but no longer counts as one that answers a request."""
        connection.state = "streaming"
        self.requests.allow(1)

    def serve(self, connection):
        """A request thread: answer what is asked on this connection, then give it back."""
        connection.sock.settimeout(IO_SECONDS)
        self.call(self.give_back, connection, self.guard(self.handle, connection))

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
                    if watch.out_bytes > WATCH_BYTES:           # its reader does not drain, or does not even begin to
                        self.store.unwatch(watch)
                        watch.ended = True
        for watch in watches:
            if watch.connection and watch.out:
                self.on_ready(watch.connection)

    def send_events(self, connection, watch):
        """Send what a watch has to say; notice that its client has gone."""
        while watch.out:
            sent = connection.sock.send(watch.out[0])
            watch.out_bytes -= sent
            rest = watch.out.pop(0)[sent:]
            watch.out[:0] = [rest] if rest else []
        if not watch.ended:
            connection.sock.recv(4096)                          # a watch's client has nothing more to say, or has gone
        self.close(connection)

    def end_watch(self, watch):
        if watch.connection:
            watch.out.append(b"0\r\n\r\n")
            watch.ended = True
            self.on_ready(watch.connection)

    def bookmarks(self):
        """Tell watches that asked for it which version they have reached; called while versions move."""
        self.bookmarks_due = False
        for watch in list(self.store.watches):
            if watch.bookmarks and watch.connection and not watch.out and watch.sent < self.store.version:
                watch.sent = self.store.version
                watch.out.append(watch.bookmark(watch.sent))
                self.on_ready(watch.connection)

    # -- DNS
    def serve_dns(self, address, resolve):
        """Answer DNS by UDP at address, on a port of the kernel's choice, which is returned."""
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_IP, 15, 1)                # IP_FREEBIND: the bridge may not be there yet
        udp.setblocking(False)
        udp.bind((address, 0))
        def on_query(sock, mask):
            with suppress(OSError):                             # nothing more to read, or nobody to answer
                for _ in range(64):
                    data, sender = sock.recvfrom(4096)
                    found = answer_dns(data, resolve)
                    if found:
                        sock.sendto(found, sender)
        self.selector.register(udp, selectors.EVENT_READ, on_query)
        return udp.getsockname()[1]

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
            for line in filter(bytes.strip, lines):
                self.guard(on_line, line)
            if got == b"":
                self.selector.unregister(sock)
                sock.close()
                on_end()
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, on_data)
        on_data(sock, 0)

class Headers(dict):
    """Header fields by lower-case name; values of a repeated field joined by commas (RFC 9110, 5.3)."""
    def get(self, name, default=None):
        return super().get(name.lower(), default)

def parse_head(data):
    """(method, target, minor version, Headers) of a request's head (RFC 9112, 2 to 5). Raises ApiError 400."""
    first, *lines = data.decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n")
    found, headers = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.([01])", first), Headers()
    if not found:
        raise bad_request(f"malformed request line {first[:80]!r}")
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):      # no folded lines either
            raise bad_request(f"malformed header line {line[:80]!r}")
        name, value = name.lower(), value.strip()
        if name in headers and name in ("content-length", "transfer-encoding", "host", "authorization"):
            raise bad_request(f"the header {name} may be there once")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if "content-length" in headers and "transfer-encoding" in headers:
        raise bad_request("Content-Length and Transfer-Encoding exclude each other")
    return found[1], found[2], int(found[3]), headers

class Handler:
    """One request: read, answered, and no more."""
    def __init__(self, connection, k2d):
        self.connection, self.k2d, self.sock = connection, k2d, connection.sock
        self.keep, self.wish, self.request, self.method, self.headers = False, False, None, "", Headers()

    def run(self):
        """Serve one request; returns whether the connection can serve another."""
        try:
            try:
                found = self.respond()
            except ApiError as error:
                found = answer(error.code, error.status)
            if not isinstance(found, Answer):
                found(self)
            else:
                kind, body = found.content_type, found.body if self.method != "HEAD" and found.code != 304 else b""
                if kind == "application/json" and self.headers.get("Accept", "").startswith("application/yaml"):
                    kind = "application/yaml"
                self.write_head(found.code, {"Content-Type": kind, **found.headers,
                                             "Content-Length": str(len(found.body))}, body)
            return self.keep
        except OSError:                                         # the client went away
            return False

    def respond(self):
        """The Answer, or for one that goes on a function that sends it. Raises ApiError, OSError."""
        data, end = self.connection.buffer, HEAD_END.search(self.connection.buffer)
        if not end or end.end() > HEAD_BYTES:
            raise ApiError(431, "", f"the head of the request is larger than {HEAD_BYTES} bytes")
        self.connection.buffer = data[end.end():]
        self.method, target, minor, self.headers = parse_head(data[:end.start()])
        wish, path = self.headers.get("Connection", "").lower(), target.partition("?")[0]
        self.wish = "close" not in wish and (minor == 1 or "keep-alive" in wish)
        has_body = self.headers.get("Content-Length", "0") != "0" or self.headers.get("Transfer-Encoding")
        self.keep = self.wish and not has_body                  # a stranger's body is not read
        if path in ("/healthz", "/livez", "/readyz", "/livez/ping", "/readyz/ping") and self.method in ("GET", "HEAD"):
            check = path.strip("/").partition("/")[0]
            text = f"[+]ping ok\n[+]store ok\n{check} check passed\n" if "verbose" in target else "ok"
            return answer(200, text.encode(), "text/plain; charset=utf-8")
        if path == "/version" and self.method in ("GET", "HEAD"):
            return self.k2d.api.version()
        try:
            request = self.request = Request(self.method, target, self.headers, self.k2d.access.user(self.headers))
            self.k2d.api.admit(request)
            request.body = self.read_body()
            if request.kind:
                return self.k2d.api.handle(request)
            parts = [part for part in request.path.split("/") if part]
            return request.method in ("GET", "HEAD") and (
                self.k2d.api.discovery(request) or parts[:1] == ["openapi"] and openapi(request, parts[1:])
                ) or answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
        except (ApiError, OSError):
            raise
        except Exception:                                       # a fault of ours: the log says where
            import traceback
            log(f"{self.method} {path}: {traceback.format_exc()}")
            raise ApiError(500, "InternalError", "Internal error occurred: the log of k2d says more")

    def read_body(self):
        """The whole body, by Content-Length or chunked. Raises ApiError 400, 413, 501; OSError where it ends early."""
        self.deadline, parts, total = time.monotonic() + IO_SECONDS, [], 0
        chunked, text = self.headers.get("Transfer-Encoding", "").lower(), self.headers.get("Content-Length", "0")
        if chunked not in ("", "chunked"):
            raise ApiError(501, "", f"Transfer-Encoding {chunked[:40]!r} is not supported")
        while True:
            if chunked:
                text = self.read_line().partition(b";")[0].decode("ascii", "replace")
            if not re.fullmatch("[0-9a-fA-F]{1,8}" if chunked else "[0-9]{1,15}", text):
                raise bad_request(f"the length {text[:40]!r} of the body or of a chunk of it is no number")
            size = int(text, 16 if chunked else 10)
            total += size
            if total > BODY_BYTES:
                raise ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {BODY_BYTES}")
            parts.append(self.read(size))
            if not chunked or not size:
                break
            if self.read(2) != b"\r\n":
                raise bad_request("a chunk of the body does not end where it says")
        while chunked and self.read_line():                     # trailers
            continue
        self.keep = self.wish
        self.sock.settimeout(IO_SECONDS)
        return b"".join(parts)

    def receive(self):
        self.sock.settimeout(max(0.01, self.deadline - time.monotonic()))      # for all, not for each bit
        got = self.sock.recv(65536)
        if not got:
            raise OSError("hung up in the middle of a request")
        return got

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
        lines = [f"HTTP/1.1 {code} {HTTPStatus(code).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        for warning in dict.fromkeys(self.request.warnings if self.request else ()):
            text = re.sub(r"[\x00-\x1f\x7f]", " ", warning)[:256].replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'Warning: 299 - "{text}"')
        self.sock.sendall("\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body)

    # -- answers that go on
    def take_over(self, code, headers):
        """Begin an answer that may go on for days, to the end of the connection."""
        self.keep = code == 101                                 # such a head says itself what becomes of the connection
        self.write_head(code, headers)
        self.keep = False
        self.k2d.hub.call(self.k2d.hub.release, self.connection)

    def serve_watch(self, watch, first, seconds):
        """Send the first events of a watch, then leave it to the hub; watch None: that was all."""
        self.keep = False                                       # for the client: its end is the connection's
        try:
            self.write_head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}, b"".join(first))
        except OSError:
            self.k2d.store.unwatch(watch)
            raise
        if watch:
            self.connection.watch, watch.connection = watch, self.connection
            self.k2d.hub.after(seconds, self.k2d.hub.end_watch, watch)
            self.keep = True                                    # the hub goes on with it

    def serve_proxy(self, sock, data):
        """Send data, a whole request, and pass the answer on as it comes, until it ends."""
        self.keep = False
        with sock:
            sock.settimeout(IO_SECONDS)
            sock.sendall(data)
            head, found = b"", None
            while not found:
                got = sock.recv(65536)
                if not got or len(head) > HEAD_BYTES:
                    raise OSError("hung up before it answered, or does not come to the end of its head")
                head += got
                found = HEAD_END.search(head)
            lines = [line for line in head[:found.start()].split(b"\n") if not line.lower().startswith(b"connection:")]
            self.sock.sendall(b"\n".join(lines).rstrip(b"\r") + b"\r\nConnection: close\r\n\r\n" + head[found.end():])
            for got in iter(lambda: sock.recv(65536), b""):
                self.sock.sendall(got)

    def serve_log(self, sock, buffer, tty, stamped, limit, follow, skip, protocol=None, head=None):
        """Pass a container's log on, without its first lines to skip, until it ends, the client goes (or says anything
        while it follows), or limit bytes are out. protocol, head: of its WebSocket, if it has one. Who reads slowly is
        waited for, and nothing more is read meanwhile."""
        ends = select.poll()
        for end in (sock, self.sock):
            ends.register(end, select.POLLIN)
        has_more = lambda: not follow or not any(end == self.sock.fileno() for end, _ in ends.poll())
        with sock:
            self.take_over(101 if protocol else 200,
                           head or {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"})
            self.sock.settimeout(None)                               # a pager may stand still for long
            for text in log_text(sock, buffer, tty, stamped, has_more):
                lines = text.split(b"\n", skip) if skip else [text]
                skip -= len(lines) - 1
                text = b"" if skip else lines[-1][:limit]
                if text:
                    self.sock.sendall(protocol.data(None, text) if protocol else chunk(text))
                    limit = None if limit is None else limit - len(text)
                if limit == 0:
                    break
            self.sock.sendall(protocol.goodbye() if protocol else b"0\r\n\r\n")

# == 22. Command line ========================================================================
# The wiring, and the commands.
class K2d:
    """All the parts of one running k2d, and the few things that concern several of them: the node and the Events."""
    def __init__(self, settings):
        self.settings, self.engine_info = settings, {}
        os.makedirs(settings.data_path, 0o700, exist_ok=True)
        self.store = Store(settings.path("k2d.db"))
        self.access = Access(settings, self.store)
        self.ca, self.hub, self.engine = self.access.ca, Hub(self.store), Engine(settings.docker_host)
        self.network, self.names = Network(settings, self.engine, self.store), Names(settings, self.store)
        self.api = Api(self)
        self.pods, self.usage, self.controllers = Pods(self), Usage(self), Controllers(self)
        self.store.listeners += [self.on_change, self.controllers.observe]
        self.retry_s, self.ready = 1, threading.Event()
        self.images = []    # status.images of the node: the largest, as the kubelet tells them
        self.told = {}      # (uid, source) -> (Events it may still tell, when that was, {what was told: Event's name})

    def on_change(self, changes, watches):
        """Watches hear of changes; while versions move, those that want bookmarks get one a minute, else nothing wakes.
        Runs in the writer's thread."""
        if watches:
            self.hub.call(self.hub.deliver, changes, watches)
        if not self.hub.bookmarks_due and any(watch.bookmarks for watch in watches):
            self.hub.bookmarks_due = True
            self.hub.after(60, self.hub.bookmarks)

    # -- start and end
    def serve(self):
        self.network.check_overlap()
        self.bootstrap()
        self.network.dns_port = self.hub.serve_dns(self.settings.gateway, self.names.resolve)
        self.pods.load()
        threading.Thread(target=self.hub.run, name="hub", daemon=True).start()
        self.connect_engine()
        self.ready.wait(10)                 # what is listed should be true from the first answer on
        try:
            self.hub.listen(self.settings.port, self.access.context(), lambda client: Handler(client, self).run())
        except OSError as error:
            raise SystemExit(f"k2d: port {self.settings.port}: {os.strerror(error.errno)}")
        write_file(self.settings.path("kubeconfig"), self.access.kubeconfig().encode())
        log(f"serving https://{self.settings.host_ip}:{self.settings.port}")
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        log("stopping; containers go on")
        self.hub.running = False
        self.hub.call(lambda: None)
        self.controllers.queue.close()
        self.pods.queue.close()
        self.store.close()
        os._exit(0)                         # not by way of the interpreter's end, which daemon threads would disturb

    def bootstrap(self):
        """The objects that every cluster has."""
        with self.store.transaction():
            def make(kind, name, labels=None, namespace="", **fields):
                if not self.store.row(kind, (namespace, name)):
                    self.api.create(KIND[kind], namespace, {"metadata": {"name": name, "labels": labels}, **fields})
            for name in (*SYSTEM_NAMESPACES, "kube-node-lease"):
                make("Namespace", name)
            make("Service", "kubernetes", {"component": "apiserver", "provider": "kubernetes"}, "default", spec={
                "type": "ClusterIP", "clusterIP": self.settings.kubernetes_ip,
                "ports": [{"name": "https", "port": 443, "targetPort": self.settings.port}]})
            for name, rules in ROLES.items():
                make("ClusterRole", name, BOOTSTRAP, rules=rules)
            group = {"apiGroup": "rbac.authorization.k8s.io"}
            for name, names in GRANTED.items():
                make("ClusterRoleBinding", name, BOOTSTRAP, roleRef={**group, "kind": "ClusterRole", "name": name},
                     subjects=[{**group, "kind": "Group", "name": each} for each in names])
            for name, value, text in (
                    ("cluster", 2 * 10 ** 9, "run in the cluster, but can be moved to another node if necessary"),
                    ("node", 2 * 10 ** 9 + 1000, "not be moved from their current node")):
                make("PriorityClass", f"system-{name}-critical", value=value,
                     description=f"Used for system critical pods that must {text}.")
            # Immediate: one node gives nothing to wait for, and `helm --wait` waits for claims that no pod uses, too.
            make("StorageClass", "local", metadata={"name": "local", "annotations": {IS_DEFAULT: "true"}},
                 provisioner=PROVISIONER, volumeBindingMode="Immediate", allowVolumeExpansion=True)
            for crd in self.store.list("CustomResourceDefinition"):
                if is_condition(crd, "Established"):
                    register(crd)
            ip, port = self.settings.host_ip, {"name": "https", "port": self.settings.port, "protocol": "TCP"}
            for kind, labels, body in (
                    ("Endpoints", {COMPUTED[0]: "k2d"}, {"subsets": [{"addresses": [{"ip": ip}], "ports": [port]}]}),
                    ("EndpointSlice", {COMPUTED[1]: "k2d", "kubernetes.io/service-name": "kubernetes"}, {
                        "addressType": "IPv4", "ports": [port],
                        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}}]})):
                self.controllers.derive(kind, "default", "kubernetes", labels, None, body)

    # -- the engine, as it comes and goes
    def connect_engine(self):
        threading.Thread(target=self.connect_once, name="engine", daemon=True).start()

    def connect_once(self):
        """Greet the engine, hear its events, then look at everything: in this order, so that nothing falls between."""
        sock = None
        try:
            self.engine.negotiate()
            self.engine_info = self.engine.call("GET", "/info")
            self.network.ensure()
            self.update_node(True)
            filters = urllib.parse.quote(json.dumps({"type": ["container"], "event": list(EVENT_ACTIONS)}))
            sock, _, rest = self.engine.stream("GET", "/events?filters=" + filters)
            self.hub.call(self.hub.follow, sock, rest, self.pods.on_event, self.on_engine_gone)
            again = self.pods.digested
            self.pods.list_all()
            self.retry_s = 1
            if again:
                self.controllers.start()
        except (EngineError, ApiError, OSError, ValueError, KeyError, TypeError) as error:
            log(f"{error}; trying again in {self.retry_s} s")
            if sock:
                sock.shutdown(socket.SHUT_RDWR)                 # the hub sees it end, and calls us again
            else:
                self.hub.after(self.retry_s, self.connect_engine)
            self.retry_s = min(self.retry_s * 2, 30)
            self.ready.set()

    def on_engine_gone(self):
        log("the engine hung up; its containers and our rules stay as they are")
        self.pods.known, self.pods.lost_at = False, time.time()
        threading.Thread(target=self.update_node, args=(False,), daemon=True).start()
        self.hub.after(self.retry_s, self.connect_engine)

    def update_node(self, ready):
        """The Node object: this machine as the engine describes it."""
        info, s, trouble = self.engine_info, self.settings, self.network.problem
        machine = ARCHITECTURES.get(info.get("Architecture"), info.get("Architecture", ""))
        disk = os.statvfs(s.data_path)
        capacity = {"cpu": str(info.get("NCPU", 1)), "memory": f"{info.get('MemTotal', 0) >> 10}Ki", "pods": "110",
                         "ephemeral-storage": f"{disk.f_blocks * disk.f_frsize >> 10}Ki"}
        conditions = [
            ("NetworkUnavailable", "True" if trouble else "False", "NoNAT" if trouble else "RulesInstalled",
             trouble or "Services are rules of the kernel's NAT"),
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", "the engine has sufficient memory available"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure", "the engine has no disk pressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID", "the engine has sufficient PID available"),
            ("Ready", "True" if ready else "Unknown", "KubeletReady" if ready else "NodeStatusUnknown",
             "the engine answers" if ready else "the engine does not answer")]
        if ready:
            images = [((image.get("RepoDigests") or []) + (image.get("RepoTags") or []), image["Size"])
                      for image in self.engine.call("GET", "/images/json")]
            self.images = [{"names": names, "sizeBytes": size} for names, size in sorted(
                images, key=lambda image: -image[1]) if names][:50]
        with self.store.transaction():
            node = self.store.get("Node", "", s.node) or {
                "kind": "Node", "apiVersion": "v1",
                "metadata": {"name": s.node, "uid": new_uid(), "creationTimestamp": now()},
                "spec": {"podCIDR": str(s.pod_cidr), "podCIDRs": [str(s.pod_cidr)]}}
            capacity.update((name, amount) for name, amount in dig(node, "status.capacity", {}).items()
                            if "/" in name)                     # what somebody has said that it has besides
            node["metadata"].setdefault("labels", {}).update({
                "kubernetes.io/hostname": s.node, "kubernetes.io/os": "linux", "kubernetes.io/arch": machine,
                "node-role.kubernetes.io/control-plane": ""})
            told = [condition(dig(node, "status.conditions"), *each, lastHeartbeatTime=None) for each in conditions]
            node["status"] = {
                "capacity": capacity, "allocatable": capacity, "daemonEndpoints": {"kubeletEndpoint": {"Port": s.port}},
                "conditions": [{**each, "lastHeartbeatTime": each["lastTransitionTime"]} for each in told],
                "addresses": [{"type": "InternalIP", "address": s.host_ip}, {"type": "Hostname", "address": s.node}],
                **filled(images=self.images), "nodeInfo": {
                    "machineID": first_line("/etc/machine-id"), "systemUUID": first_line("/etc/machine-id"),
                    "bootID": first_line("/proc/sys/kernel/random/boot_id"), "architecture": machine,
                    "kernelVersion": info.get("KernelVersion", ""), "osImage": info.get("OperatingSystem", ""),
                    "containerRuntimeVersion": f"docker://{info.get('ServerVersion', '')}",
                    "kubeletVersion": f"{SERVES}+k2d{VERSION}", "kubeProxyVersion": "", "operatingSystem": "linux"}}
            self.store.put(KIND["Node"], node)

    def renew_lease(self):
        """The node's Lease, renewed when somebody looks: what it says is that k2d answers, and no clock must tick."""
        name, namespace = self.settings.node, "kube-node-lease"
        with self.store.transaction():
            lease = self.store.get("Lease", namespace, name) or {
                "kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
                "metadata": {"name": name, "namespace": namespace, "uid": new_uid(), "creationTimestamp": now()},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}}
            lease["spec"]["renewTime"] = now("micro")
            self.store.put(KIND["Lease"], lease)

    # -- Events
    def event(self, obj, type_, reason, text, container=None, component="kubelet"):
        """Record an Event about an object; one that repeats is counted. In memory, for an hour."""
        meta, stamp, host = obj["metadata"], now(), self.settings.node if component == "kubelet" else ""
        namespace, path = meta.get("namespace") or "default", next((
            f"spec{at.partition('[')[0]}{{{container}}}" for at, c in (containers_of(obj["spec"]) if container else ())
            if c["name"] == container), "")
        at, what = time.monotonic(), (reason, text, container)
        with self.store.transaction():
            left, then, names = self.told.pop((meta["uid"], component), (EVENT_BURST, at, {}))
            left = min(EVENT_BURST, left + (at - then) / EVENT_REFILL_S)
            self.told[meta["uid"], component] = left - (left >= 1), at, names
            if left < 1:
                return                          # a crash loop: enough has been said
            if len(self.told) > EVENTS:
                del self.told[next(iter(self.told))]
            if len(names) > 2 * EVENT_BURST:
                names.clear()
            # names rise with time, as the kubelet's do: clients show Events of the same second in their order
            name = names.setdefault(what, f"{meta['name']}.{time.time_ns():x}")
            event = self.store.get("Event", namespace, name) or {
                "kind": "Event", "apiVersion": "v1",
                "metadata": {"name": name, "namespace": namespace, "uid": new_uid(), "creationTimestamp": stamp},
                "involvedObject": {"kind": obj["kind"], "namespace": meta.get("namespace", ""), "name": meta["name"],
                                   "uid": meta["uid"], "apiVersion": obj["apiVersion"],
                                   "resourceVersion": meta.get("resourceVersion", ""), **filled(fieldPath=path)},
                "reason": reason, "message": text[:1024], "source": {"component": component, **filled(host=host)},
                "firstTimestamp": stamp, "lastTimestamp": stamp, "count": 0, "type": type_, "eventTime": None,
                "reportingComponent": component, "reportingInstance": host}
            event.update(count=event["count"] + 1, lastTimestamp=stamp)
            self.store.put(KIND["Event"], event)

def serve(settings):
    """Serve until SIGTERM; the containers outlive it."""
    if os.geteuid():
        raise SystemExit("k2d: serve needs root, for the engine's socket and the NAT rules")
    os.umask(0o022)
    sys.setrecursionlimit(500)              # no honest object is deeper; deeper JSON must not use up a small stack
    threading.stack_size(512 << 10 if sys.version_info < (3, 13) else 8 << 20)     # 3.13's json has a limit of its own
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})     # for sigwait; threads inherit it
    K2d(settings).serve()

def kubeconfig(settings):
    """Print the admin's kubeconfig."""
    try:
        print(read_text(settings.path("kubeconfig")), end="")
    except OSError as error:
        raise SystemExit(f"k2d: {error.filename}: {error.strerror}; has `k2d.py serve` run with this data path?")

def reset(settings):
    """Remove all that k2d made on this host: containers of its pods, network, NAT rules, data."""
    engine, path = Engine(settings.docker_host), settings.path("k2d.db")
    if os.path.exists(path):
        store = Store(path)                 # refuses while a k2d runs
        uids = {store.get("Pod", *key)["metadata"]["uid"] for key in store.keys("Pod")} | store.buried
        engine.negotiate()
        for info in engine.call("GET", "/containers/json?all=1"):
            networks = dig(info, "NetworkSettings.Networks", {})
            if (info.get("Labels") or {}).get(POD_UID) in uids:
                engine.call("DELETE", f"/containers/{info['Id']}?force=1&v=1")
            elif settings.network in networks:
                engine.call("POST", f"/networks/{settings.network}/disconnect",
                            {"Container": info["Id"], "Force": True})
        for uid in uids:
            remove_volumes(settings, uid)
        for pv in store.list("PersistentVolume"):           # those that are to be retained are left
            if is_ours(pv) and pv["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
                engine.call("DELETE", "/volumes/" + pv["metadata"]["name"], expect=(404,))
        Network(settings, engine, store).remove()
        store.close()
        for name in ("k2d.db", "k2d.db-wal", "k2d.db-shm", "k2d.pyc", "token", "kubeconfig", "pki", "pods"):
            remove_tree(settings.path(name))
        if not os.listdir(settings.data_path):
            os.rmdir(settings.data_path)
    elif os.path.isdir(settings.data_path) and os.listdir(settings.data_path):
        raise SystemExit(f"k2d: {settings.data_path} is not a data path of k2d; nothing was removed")
    log(f"removed pods, network {settings.network}, NAT rules and {settings.data_path}")

COMMANDS = {"serve": serve, "kubeconfig": kubeconfig, "reset": reset}

def usage():
    """What --help prints: the commands by their docstrings, the options by their table."""
    commands = [f"  k2d.py {name:<11} {command.__doc__.splitlines()[0]}" for name, command in COMMANDS.items()]
    options = [f"  --{flag:<18} {variable:<19} {text}{f' ({default})' if default else ''}"
               for flag, variable, default, text in OPTIONS]
    return "\n".join(["k2d: the Kubernetes API on a container engine", "", *commands, "", *options])

def lean(argv):
    """Start again from compiled code, with a malloc that gives back what it does not need: compiling this file in the
    serving process would cost it 20 MB for life. The code rests in the data path: no other folder is written to."""
    import py_compile
    settings = Settings(argv[2:], os.environ)
    compiled = settings.path("k2d.pyc")
    os.makedirs(settings.data_path, 0o700, exist_ok=True)
    py_compile.compile(os.path.abspath(__file__), compiled, doraise=True, optimize=2)
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
    os.execve(sys.executable, [sys.executable, compiled, *argv[1:]], {**os.environ, **malloc})

def main(argv):
    command = argv[1] if len(argv) > 1 else "--help"
    if command in ("--help", "-h", "help") or "--help" in argv:
        print(usage())
    elif command in ("version", "--version"):
        print(f"k2d {VERSION}, Kubernetes {SERVES}")
    elif command not in COMMANDS:
        raise SystemExit(f"k2d: {command}: no such command\n\n{usage()}")
    elif command == "serve" and not argv[0].endswith(".pyc"):
        lean(argv)
    else:
        COMMANDS[command](Settings(argv[2:], os.environ))

if __name__ == "__main__":
    main(sys.argv)
