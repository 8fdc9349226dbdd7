#!/usr/bin/env python3
"""k2d: the Kubernetes API on one side, a Docker engine on the other, as a cluster of one node.

A request:  Hub (TLS, until the head is complete) -> Handler -> route() -> KINDS row -> admission -> Store, one
            transaction -> watchers; then reconcile() -> engine -> Store -> watchers.
Sections:   1 Settings  2 Kinds and schemas  3 Quantities, names, selectors  4 Errors  5 Bodies  6 Patches
            7 Store and watch  8 Engine client  9 Pod -> container  10 Container -> pod  11 Volumes
            12 Network and names  13 Pod worker  14 Controllers  15 Access  16 Admission, verbs, discovery, Table, OpenAPI
            17 Server  18 Command line                                            (search for "# ==" to walk through them)
Threads:    the hub owns every connection until a request is complete, and all watches, timers, DNS and the engine's
            events; one thread per request in progress; up to four workers start and stop containers; one thread runs
            the controllers. A connection has one owner at any time.
Promises:   what was answered 200 or 201 is on disk; a field that cannot be honoured is refused by name or answered with
            a Warning, never dropped; k2d is not in the data path, so kill it or upgrade it while everything runs.
Needs:      Linux, root, Python 3.9 or newer, the programs openssl and iptables; PyYAML only to read YAML bodies.
"""
import base64
import binascii
import hashlib
import hmac
import heapq
import http.client
import http.server
import io
import ipaddress
import json
import os
import random
import re
import select
import selectors
import shutil
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
from calendar import timegm
from collections import deque, namedtuple
from contextlib import contextmanager

# == 1. Settings =============================================================================
# What the command line or the environment decides, and the limits that hold for every client.

VERSION = "0.1.0"
SERVES = "v1.35.4"          # the Kubernetes whose answers we give; clients read it from /version

OPTIONS = [
    # flag                environment            default                        meaning
    ("port",              "K2D_PORT",            "6443",                        "https port of the API"),
    ("advertise-address", "K2D_ADVERTISE_ADDR",  "",                            "address that clients use (default: this host's)"),
    ("data-path",         "K2D_DATA_PATH",       "/var/lib/k2d",                "the only folder k2d writes to"),
    ("secret",            "K2D_SECRET",          "",                            "admin bearer token (default: made at first start)"),
    ("docker-host",       "DOCKER_HOST",         "unix:///var/run/docker.sock", "the engine's socket"),
    ("network",           "K2D_NETWORK",         "k2d",                         "name of the engine network and its bridge"),
    ("pod-cidr",          "K2D_POD_CIDR",        "10.42.0.0/16",                "addresses of pods"),
    ("service-cidr",      "K2D_SERVICE_CIDR",    "10.43.0.0/16",                "addresses of Services"),
]
CLUSTER_DOMAIN = "cluster.local"
NODE_PORTS = range(30000, 32768)
BODY_BYTES = 3 << 20        # the API server's own limit
HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10           # from accept to a complete handshake, and from a request's first byte to its complete head
IO_SECONDS = 60             # for one read or write of a request's body or answer
CONNECTIONS = 512           # beyond it the longest idle connection is closed
REQUEST_THREADS = 64
WATCH_BYTES = 4 << 20       # unsent bytes at which a watch that does not drain is dropped
RING_EVENTS, RING_BYTES = 1000, 1 << 19     # what a watch can resume from
EVENT_SECONDS, EVENTS = 3600, 500           # Events live in memory, for an hour


class Settings:
    """The options as attributes: settings.port (int), settings.data_path, settings.pod_cidr (IPv4Network), ..."""

    def __init__(self, args, environ):
        given = dict(zip(args[::2], args[1::2]))
        for flag, variable, default, _ in OPTIONS:
            value = given.pop("--" + flag, None)
            setattr(self, flag.replace("-", "_"), value if value is not None else environ.get(variable) or default)
        if given or len(args) % 2:
            raise SystemExit(f"k2d: unknown or incomplete option {' '.join(given) or args[-1]}; see --help")
        try:
            self.port = int(self.port)
            self.pod_cidr, self.service_cidr = map(ipaddress.IPv4Network, (self.pod_cidr, self.service_cidr))
        except ValueError as error:
            raise SystemExit(f"k2d: {error}")
        if not re.fullmatch("[a-z][a-z0-9]{0,12}", self.network):
            raise SystemExit(f"k2d: --network {self.network}: at most 13 lower case letters and digits, for it names a bridge")
        if self.pod_cidr.prefixlen > 20 or self.service_cidr.prefixlen > 24:
            raise SystemExit("k2d: --pod-cidr wants a /20 or larger network, --service-cidr a /24 or larger")
        self.data_path = os.path.abspath(self.data_path)
        self.gateway = str(self.pod_cidr[1])                # the host, as pods see it
        self.engine_range = str(list(self.pod_cidr.subnets(new_prefix=24))[-1])   # what the engine may give to others
        self.kubernetes_ip, self.dns_ip, self.upstream_ip = (str(self.service_cidr[n]) for n in (1, 10, 11))
        self.node = re.sub("[^a-z0-9.-]", "-", socket.gethostname().lower()).strip("-.") or "node"

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


def log(message):
    """One line for the journal; never a secret, a token or a body."""
    print("k2d: " + message, file=sys.stderr, flush=True)


def run(*argv, stdin=b""):
    """Run a program of the host, wait for it, return (exit code, what it printed on both streams).

    Without the subprocess module, which would cost 0.4 MB for the whole life of the process.
    """
    given, taken = os.memfd_create("stdin"), os.memfd_create("output")
    try:
        os.write(given, stdin)
        os.lseek(given, 0, os.SEEK_SET)
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=[
            (os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, taken, 1), (os.POSIX_SPAWN_DUP2, taken, 2)])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, os.pread(taken, os.fstat(taken).st_size, 0)
    except FileNotFoundError:
        return 127, f"{argv[0]}: program not found".encode()
    finally:
        os.close(given)
        os.close(taken)


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
    return timegm([int(part) for part in found.groups()[:6]]) + float(found[7] or 0) - offset


def dig(value, *path, default=None):
    """value[path[0]][path[1]]... or the default where a step is missing or null."""
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return default if value is None else value


def dumps(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


# == 2. Kinds and schemas ====================================================================
# Words only. KINDS says which resources there are; SCHEMA says what their objects look like. Routing, discovery, storage
# and Table read the first; protobuf, validation, defaults, patches and OpenAPI read the second.

READ, ALL = "get list watch", "create delete deletecollection get list patch update watch"
UNIQUE = ALL.replace(" deletecollection", "")

Kind = namedtuple("Kind", "name group version plural singular short namespaced verbs subresources categories kept")
KINDS = [  # kept: "disk" whole; "spec" without its status, which we compute; "memory" not at all; "pod" see durable()
    #    name              group  version  plural                 singular         short        namespaced  verbs   subresources            categories  kept
    Kind("Namespace",      "",     "v1", "namespaces",            "namespace",     ("ns",),     False,      UNIQUE, ("finalize", "status"), (),         "disk"),
    Kind("Node",           "",     "v1", "nodes",                 "node",          ("no",),     False,      ALL,    ("status",),            (),         "spec"),
    Kind("Pod",            "",     "v1", "pods",                  "pod",           ("po",),     True,       ALL,    ("log", "status"),      ("all",),   "pod"),
    Kind("ConfigMap",      "",     "v1", "configmaps",            "configmap",     ("cm",),     True,       ALL,    (),                     (),         "disk"),
    Kind("Secret",         "",     "v1", "secrets",               "secret",        (),          True,       ALL,    (),                     (),         "disk"),
    Kind("Service",        "",     "v1", "services",              "service",       ("svc",),    True,       ALL,    ("status",),            ("all",),   "disk"),
    Kind("Endpoints",      "",     "v1", "endpoints",             "endpoints",     ("ep",),     True,       ALL,    (),                     (),         "disk"),
    Kind("Event",          "",     "v1", "events",                "event",         ("ev",),     True,       ALL,    (),                     (),         "memory"),
    Kind("ServiceAccount", "",     "v1", "serviceaccounts",       "serviceaccount", ("sa",),    True,       ALL,    (),                     (),         "disk"),
    Kind("Deployment",     "apps", "v1", "deployments",           "deployment",    ("deploy",), True,       ALL,    ("scale", "status"),    ("all",),   "spec"),
    Kind("ReplicaSet",     "apps", "v1", "replicasets",           "replicaset",    ("rs",),     True,       ALL,    ("scale", "status"),    ("all",),   "spec"),
    Kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices", "endpointslice", (),      True,       ALL,    (),                     (),         "disk"),
]
KIND = {kind.name: kind for kind in KINDS}
RESOURCES = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}


def group_version(kind):
    return f"{kind.group}/{kind.version}" if kind.group else kind.version


# SCHEMA: a line per message, a token per field:   flags number name :type /keys =default
#   flags   * printed even when empty   ~ a hint only: accepted with a Warning   ! the object would be wrong without it: 422
#   number  the protobuf field number; a token without name is a struct that Go embeds: its fields stand in this message
#   type    string if absent; [] list, {} map by string, + always printed (a plain struct in Go), ? a pointer (its zero is
#           a value), & retainKeys (strategic merge), # one value to server-side apply
#   /keys   a list merged by these keys, the first of them in strategic merge; / alone a set; ^ strategic merge only,
#           _ server-side apply only
#   =       the default where the field is absent
# Field numbers and list types are those of k8s.io/api 0.35.
SCHEMA = """
ObjectMeta: 1name 2generateName 3namespace 4selfLink 5uid 6resourceVersion 7generation:int 8creationTimestamp:Time
  9deletionTimestamp:Time? 10deletionGracePeriodSeconds:int? 11labels:{} 12annotations:{}
  13ownerReferences:[]OwnerReference#/uid 14finalizers:[]/ 17managedFields:[]ManagedFieldsEntry
OwnerReference: *5apiVersion *1kind *3name *4uid 6controller:bool? 7blockOwnerDeletion:bool?
ManagedFieldsEntry: 1manager 2operation 3apiVersion 4time:Time? 6fieldsType 7fieldsV1:Raw? 8subresource
LabelSelector: 1matchLabels:{} 2matchExpressions:[]LabelSelectorRequirement
LabelSelectorRequirement: *1key *2operator 3values:[]
DeleteOptions: 1gracePeriodSeconds:int? 2preconditions:Preconditions 3orphanDependents:bool?
  4propagationPolicy:string? 5dryRun:[] 6ignoreStoreReadErrorWithClusterBreakingPotential:bool?
Preconditions: 1uid:string? 2resourceVersion:string?
Namespace: 1metadata:ObjectMeta+ 2spec:NamespaceSpec+ 3status:NamespaceStatus+
NamespaceSpec: 1finalizers:[]
NamespaceStatus: 1phase=Active 2conditions:[]NamespaceCondition/type
NamespaceCondition: *1type *2status *4lastTransitionTime:Time 5reason 6message
Node: 1metadata:ObjectMeta+ 2spec:NodeSpec+ 3status:NodeStatus+
NodeSpec: 1podCIDR 7podCIDRs:[]/ 3providerID 4unschedulable:bool 5taints:[]Taint 6configSource:NodeConfigSource
  2externalID
Taint: *1key 2value *3effect 4timeAdded:Time?
NodeConfigSource: 2configMap:ConfigMapNodeConfigSource
ConfigMapNodeConfigSource: *1namespace *2name 3uid 4resourceVersion *5kubeletConfigKey
NodeStatus: 1capacity:{}Quantity 2allocatable:{}Quantity 3phase 4conditions:[]NodeCondition/type
  5addresses:[]NodeAddress/type 6daemonEndpoints:NodeDaemonEndpoints+ 7nodeInfo:NodeSystemInfo+
  8images:[]ContainerImage 9volumesInUse:[] 10volumesAttached:[]AttachedVolume 11config:NodeConfigStatus
  12runtimeHandlers:[]NodeRuntimeHandler 13features:NodeFeatures 14declaredFeatures:[]
NodeCondition: *1type *2status *3lastHeartbeatTime:Time *4lastTransitionTime:Time 5reason 6message
NodeAddress: *1type *2address
NodeDaemonEndpoints: 1kubeletEndpoint:DaemonEndpoint+
DaemonEndpoint: *1Port:int
NodeSystemInfo: *1machineID *2systemUUID *3bootID *4kernelVersion *5osImage *6containerRuntimeVersion *7kubeletVersion
  *8kubeProxyVersion *9operatingSystem *10architecture 11swap:NodeSwapStatus
NodeSwapStatus: 1capacity:int?
ContainerImage: *1names:[] 2sizeBytes:int
AttachedVolume: *1name *2devicePath
NodeConfigStatus: 1assigned:NodeConfigSource 2active:NodeConfigSource 3lastKnownGood:NodeConfigSource 4error
NodeRuntimeHandler: *1name 2features:NodeRuntimeHandlerFeatures
NodeRuntimeHandlerFeatures: 1recursiveReadOnlyMounts:bool? 2userNamespaces:bool?
NodeFeatures: 1supplementalGroupsPolicy:bool?
Pod: 1metadata:ObjectMeta+ 2spec:PodSpec+ 3status:PodStatus+
PodSpec: 1volumes:[]Volume&/name !20initContainers:[]Container/name *2containers:[]Container/name
  !34ephemeralContainers:[]EphemeralContainer/name 3restartPolicy=Always 4terminationGracePeriodSeconds:int?=30
  !5activeDeadlineSeconds:int? 6dnsPolicy=ClusterFirst 7nodeSelector:{}# 8serviceAccountName 9serviceAccount
  21automountServiceAccountToken:bool? 10nodeName 11hostNetwork:bool 12hostPID:bool 13hostIPC:bool
  27shareProcessNamespace:bool? 14securityContext:PodSecurityContext={}
  ~15imagePullSecrets:[]LocalObjectReference#/name 16hostname ~17subdomain ~18affinity:Affinity
  19schedulerName=default-scheduler 22tolerations:[]Toleration 23hostAliases:[]HostAlias/ip ~24priorityClassName
  25priority:int? 26dnsConfig:PodDNSConfig !28readinessGates:[]PodReadinessGate !29runtimeClassName:string?
  30enableServiceLinks:bool? 31preemptionPolicy:string? ~32overhead:{}Quantity
  ~33topologySpreadConstraints:[]TopologySpreadConstraint/topologyKey,whenUnsatisfiable !35setHostnameAsFQDN:bool?
  36os:PodOS !37hostUsers:bool? !38schedulingGates:[]PodSchedulingGate/name !39resourceClaims:[]PodResourceClaim&/name
  !40resources:ResourceRequirements !41hostnameOverride:string? ~42workloadRef:WorkloadReference
Volume: *1name 2:VolumeSource
VolumeSource: 1hostPath:HostPathVolumeSource 2emptyDir:EmptyDirVolumeSource !3gcePersistentDisk:Raw
  !4awsElasticBlockStore:Raw !5gitRepo:Raw 6secret:SecretVolumeSource !7nfs:NFSVolumeSource !8iscsi:Raw
  !9glusterfs:Raw !10persistentVolumeClaim:PersistentVolumeClaimVolumeSource !11rbd:Raw !12flexVolume:Raw
  !13cinder:Raw !14cephfs:Raw !15flocker:Raw !16downwardAPI:DownwardAPIVolumeSource !17fc:Raw !18azureFile:Raw
  19configMap:ConfigMapVolumeSource !20vsphereVolume:Raw !21quobyte:Raw !22azureDisk:Raw !23photonPersistentDisk:Raw
  !26projected:ProjectedVolumeSource !24portworxVolume:Raw !25scaleIO:Raw !27storageos:Raw !28csi:CSIVolumeSource
  !29ephemeral:EphemeralVolumeSource !30image:ImageVolumeSource
HostPathVolumeSource: *1path 2type:string?=
EmptyDirVolumeSource: !1medium ~2sizeLimit:Quantity?
SecretVolumeSource: 1secretName 2items:[]KeyToPath 3defaultMode:int?=420 4optional:bool?
KeyToPath: *1key *2path 3mode:int?
NFSVolumeSource: *1server *2path 3readOnly:bool
PersistentVolumeClaimVolumeSource: *1claimName 2readOnly:bool
DownwardAPIVolumeSource: 1items:[]DownwardAPIVolumeFile 2defaultMode:int?=420
DownwardAPIVolumeFile: *1path 2fieldRef:ObjectFieldSelector# 3resourceFieldRef:ResourceFieldSelector# 4mode:int?
ObjectFieldSelector: 1apiVersion=v1 *2fieldPath
ResourceFieldSelector: 1containerName *2resource *3divisor:Quantity
ConfigMapVolumeSource: 1:LocalObjectReference 2items:[]KeyToPath 3defaultMode:int?=420 4optional:bool?
LocalObjectReference: 1name
ProjectedVolumeSource: *1sources:[]VolumeProjection 2defaultMode:int?=420
VolumeProjection: 1secret:SecretProjection 2downwardAPI:DownwardAPIProjection 3configMap:ConfigMapProjection
  4serviceAccountToken:ServiceAccountTokenProjection 5clusterTrustBundle:ClusterTrustBundleProjection
  6podCertificate:PodCertificateProjection
SecretProjection: 1:LocalObjectReference 2items:[]KeyToPath 4optional:bool?
DownwardAPIProjection: 1items:[]DownwardAPIVolumeFile
ConfigMapProjection: 1:LocalObjectReference 2items:[]KeyToPath 4optional:bool?
ServiceAccountTokenProjection: 1audience 2expirationSeconds:int?=3600 *3path
ClusterTrustBundleProjection: 1name:string? 2signerName:string? 3labelSelector:LabelSelector# 5optional:bool? *4path
PodCertificateProjection: 1signerName 2keyType 3maxExpirationSeconds:int? 4credentialBundlePath 5keyPath
  6certificateChainPath 7userAnnotations:{}
CSIVolumeSource: *1driver 2readOnly:bool? 3fsType:string? 4volumeAttributes:{}
  5nodePublishSecretRef:LocalObjectReference#
EphemeralVolumeSource: 1volumeClaimTemplate:PersistentVolumeClaimTemplate
PersistentVolumeClaimTemplate: 1metadata:ObjectMeta+ 2spec:PersistentVolumeClaimSpec+
PersistentVolumeClaimSpec: 1accessModes:[] 4selector:LabelSelector# 2resources:VolumeResourceRequirements+ 3volumeName
  5storageClassName:string? 6volumeMode:string?=Filesystem 7dataSource:TypedLocalObjectReference#
  8dataSourceRef:TypedObjectReference 9volumeAttributesClassName:string?
VolumeResourceRequirements: 1limits:{}Quantity 2requests:{}Quantity
TypedLocalObjectReference: *1apiGroup:string? *2kind *3name
TypedObjectReference: *1apiGroup:string? *2kind *3name 4namespace:string?
ImageVolumeSource: 1reference 2pullPolicy
Container: *1name 2image 3command:[] 4args:[] 5workingDir 6ports:[]ContainerPort/containerPort,protocol
  19envFrom:[]EnvFromSource 7env:[]EnvVar/name 8resources:ResourceRequirements+
  ~23resizePolicy:[]ContainerResizePolicy !24restartPolicy:string? !25restartPolicyRules:[]ContainerRestartRule
  9volumeMounts:[]VolumeMount/mountPath !21volumeDevices:[]VolumeDevice/devicePath ~10livenessProbe:Probe
  ~11readinessProbe:Probe ~22startupProbe:Probe !12lifecycle:Lifecycle 13terminationMessagePath=/dev/termination-log
  20terminationMessagePolicy=File 14imagePullPolicy 15securityContext:SecurityContext 16stdin:bool 17stdinOnce:bool
  18tty:bool
ContainerPort: 1name 2hostPort:int *3containerPort:int 4protocol=TCP 5hostIP
EnvFromSource: 1prefix 2configMapRef:ConfigMapEnvSource 3secretRef:SecretEnvSource
ConfigMapEnvSource: 1:LocalObjectReference 2optional:bool?
SecretEnvSource: 1:LocalObjectReference 2optional:bool?
EnvVar: *1name 2value 3valueFrom:EnvVarSource
EnvVarSource: 1fieldRef:ObjectFieldSelector# 2resourceFieldRef:ResourceFieldSelector#
  3configMapKeyRef:ConfigMapKeySelector# 4secretKeyRef:SecretKeySelector# !5fileKeyRef:FileKeySelector#
ConfigMapKeySelector: 1:LocalObjectReference *2key 3optional:bool?
SecretKeySelector: 1:LocalObjectReference *2key 3optional:bool?
FileKeySelector: *1volumeName *2path *3key 4optional:bool?=false
ResourceRequirements: 1limits:{}Quantity 2requests:{}Quantity !3claims:[]ResourceClaim/name_
ResourceClaim: *1name 2request
ContainerResizePolicy: *1resourceName *2restartPolicy
ContainerRestartRule: 1action 2exitCodes:ContainerRestartRuleOnExitCodes
ContainerRestartRuleOnExitCodes: 1operator 2values:[]int/_
VolumeMount: *1name 2readOnly:bool ~7recursiveReadOnly:string? *3mountPath !4subPath 5mountPropagation:string?
  !6subPathExpr
VolumeDevice: *1name *2devicePath
Probe: 1:ProbeHandler 2initialDelaySeconds:int 3timeoutSeconds:int=1 4periodSeconds:int=10 5successThreshold:int=1
  6failureThreshold:int=3 7terminationGracePeriodSeconds:int?
ProbeHandler: 1exec:ExecAction 2httpGet:HTTPGetAction 3tcpSocket:TCPSocketAction 4grpc:GRPCAction
ExecAction: 1command:[]
HTTPGetAction: 1path=/ *2port:IntOrString 3host 4scheme=HTTP 5httpHeaders:[]HTTPHeader
HTTPHeader: *1name *2value
TCPSocketAction: *1port:IntOrString 2host
GRPCAction: *1port:int *2service:string?=
Lifecycle: 1postStart:LifecycleHandler 2preStop:LifecycleHandler 3stopSignal:string?
LifecycleHandler: 1exec:ExecAction 2httpGet:HTTPGetAction 3tcpSocket:TCPSocketAction 4sleep:SleepAction
SleepAction: *1seconds:int
SecurityContext: 1capabilities:Capabilities 2privileged:bool? ~3seLinuxOptions:SELinuxOptions
  ~10windowsOptions:WindowsSecurityContextOptions 4runAsUser:int? 8runAsGroup:int? 5runAsNonRoot:bool?
  6readOnlyRootFilesystem:bool? 7allowPrivilegeEscalation:bool? !9procMount:string? 11seccompProfile:SeccompProfile
  ~12appArmorProfile:AppArmorProfile
Capabilities: 1add:[] 2drop:[]
SELinuxOptions: 1user 2role 3type 4level
WindowsSecurityContextOptions: 1gmsaCredentialSpecName:string? 2gmsaCredentialSpec:string? 3runAsUserName:string?
  4hostProcess:bool?
SeccompProfile: *1type !2localhostProfile:string?
AppArmorProfile: *1type 2localhostProfile:string?
EphemeralContainer: 1:Container 2targetContainerName
PodSecurityContext: ~1seLinuxOptions:SELinuxOptions ~8windowsOptions:WindowsSecurityContextOptions 2runAsUser:int?
  6runAsGroup:int? 3runAsNonRoot:bool? 4supplementalGroups:[]int ~12supplementalGroupsPolicy:string? 5fsGroup:int?
  7sysctls:[]Sysctl ~9fsGroupChangePolicy:string? 10seccompProfile:SeccompProfile ~11appArmorProfile:AppArmorProfile
  ~13seLinuxChangePolicy:string?
Sysctl: *1name *2value
Affinity: 1nodeAffinity:NodeAffinity 2podAffinity:PodAffinity 3podAntiAffinity:PodAntiAffinity
NodeAffinity: 1requiredDuringSchedulingIgnoredDuringExecution:NodeSelector#
  2preferredDuringSchedulingIgnoredDuringExecution:[]PreferredSchedulingTerm
NodeSelector: *1nodeSelectorTerms:[]NodeSelectorTerm
NodeSelectorTerm: 1matchExpressions:[]NodeSelectorRequirement 2matchFields:[]NodeSelectorRequirement
NodeSelectorRequirement: *1key *2operator 3values:[]
PreferredSchedulingTerm: *1weight:int 2preference:NodeSelectorTerm+#
PodAffinity: 1requiredDuringSchedulingIgnoredDuringExecution:[]PodAffinityTerm
  2preferredDuringSchedulingIgnoredDuringExecution:[]WeightedPodAffinityTerm
PodAffinityTerm: 1labelSelector:LabelSelector# 2namespaces:[] *3topologyKey 4namespaceSelector:LabelSelector#
  5matchLabelKeys:[] 6mismatchLabelKeys:[]
WeightedPodAffinityTerm: *1weight:int 2podAffinityTerm:PodAffinityTerm+
PodAntiAffinity: 1requiredDuringSchedulingIgnoredDuringExecution:[]PodAffinityTerm
  2preferredDuringSchedulingIgnoredDuringExecution:[]WeightedPodAffinityTerm
Toleration: 1key 2operator 3value 4effect 5tolerationSeconds:int?
HostAlias: *1ip 2hostnames:[]
PodDNSConfig: 1nameservers:[] 2searches:[] 3options:[]PodDNSConfigOption
PodDNSConfigOption: 1name 2value:string?
PodReadinessGate: *1conditionType
TopologySpreadConstraint: *1maxSkew:int *2topologyKey *3whenUnsatisfiable 4labelSelector:LabelSelector#
  5minDomains:int? 6nodeAffinityPolicy:string? 7nodeTaintsPolicy:string? 8matchLabelKeys:[]
PodOS: *1name
PodSchedulingGate: *1name
PodResourceClaim: *1name 3resourceClaimName:string? 4resourceClaimTemplateName:string?
WorkloadReference: *1name *2podGroup 3podGroupReplicaKey
PodStatus: 17observedGeneration:int 1phase 2conditions:[]PodCondition/type 3message 4reason 11nominatedNodeName
  5hostIP 16hostIPs:[]HostIP/ip^ 6podIP 12podIPs:[]PodIP/ip 7startTime:Time? 10initContainerStatuses:[]ContainerStatus
  8containerStatuses:[]ContainerStatus 9qosClass 13ephemeralContainerStatuses:[]ContainerStatus 14resize
  15resourceClaimStatuses:[]PodResourceClaimStatus&/name 18extendedResourceClaimStatus:PodExtendedResourceClaimStatus
  19allocatedResources:{}Quantity 20resources:ResourceRequirements
PodCondition: *1type 7observedGeneration:int *2status *3lastProbeTime:Time *4lastTransitionTime:Time 5reason 6message
HostIP: *1ip
PodIP: *1ip
ContainerStatus: *1name 2state:ContainerState+ 3lastState:ContainerState+ *4ready:bool *5restartCount:int *6image
  *7imageID 8containerID 9started:bool? 10allocatedResources:{}Quantity 11resources:ResourceRequirements
  12volumeMounts:[]VolumeMountStatus/mountPath 13user:ContainerUser 14allocatedResourcesStatus:[]ResourceStatus/name
  15stopSignal:string?
ContainerState: 1waiting:ContainerStateWaiting 2running:ContainerStateRunning 3terminated:ContainerStateTerminated
ContainerStateWaiting: 1reason 2message
ContainerStateRunning: *1startedAt:Time
ContainerStateTerminated: *1exitCode:int 2signal:int 3reason 4message *5startedAt:Time *6finishedAt:Time 7containerID
VolumeMountStatus: *1name *2mountPath 3readOnly:bool 4recursiveReadOnly:string?
ContainerUser: 1linux:LinuxContainerUser
LinuxContainerUser: *1uid:int *2gid:int 3supplementalGroups:[]int
ResourceStatus: *1name 2resources:[]ResourceHealth/resourceID_
ResourceHealth: *1resourceID 2health
PodResourceClaimStatus: *1name 2resourceClaimName:string?
PodExtendedResourceClaimStatus: *1requestMappings:[]ContainerExtendedResourceRequest *2resourceClaimName
ContainerExtendedResourceRequest: *1containerName *2resourceName *3requestName
ConfigMap: 1metadata:ObjectMeta+ 4immutable:bool? 2data:{} 3binaryData:{}bytes
Secret: 1metadata:ObjectMeta+ 5immutable:bool? 2data:{}bytes 4stringData:{} 3type=Opaque
Service: 1metadata:ObjectMeta+ 2spec:ServiceSpec+ 3status:ServiceStatus+
ServiceSpec: 1ports:[]ServicePort/port,protocol 2selector:{}# 3clusterIP 18clusterIPs:[] 4type=ClusterIP
  !5externalIPs:[] 7sessionAffinity=None ~8loadBalancerIP !9loadBalancerSourceRanges:[] 10externalName
  11externalTrafficPolicy ~12healthCheckNodePort:int 13publishNotReadyAddresses:bool
  14sessionAffinityConfig:SessionAffinityConfig 19ipFamilies:[] 17ipFamilyPolicy:string?
  20allocateLoadBalancerNodePorts:bool? ~21loadBalancerClass:string? 22internalTrafficPolicy:string?
  23trafficDistribution:string?
ServicePort: 1name 2protocol=TCP 6appProtocol:string? *3port:int *4targetPort:IntOrString 5nodePort:int
SessionAffinityConfig: 1clientIP:ClientIPConfig
ClientIPConfig: 1timeoutSeconds:int?
ServiceStatus: 1loadBalancer:LoadBalancerStatus+ 2conditions:[]Condition/type
LoadBalancerStatus: 1ingress:[]LoadBalancerIngress
LoadBalancerIngress: 1ip 2hostname 3ipMode:string? 4ports:[]PortStatus
PortStatus: *1port:int *2protocol 3error:string?
Condition: *1type *2status 3observedGeneration:int *4lastTransitionTime:Time *5reason *6message
Endpoints: 1metadata:ObjectMeta+ 2subsets:[]EndpointSubset
EndpointSubset: 1addresses:[]EndpointAddress 2notReadyAddresses:[]EndpointAddress 3ports:[]EndpointPort
EndpointAddress: *1ip 3hostname 4nodeName:string? 2targetRef:ObjectReference#
ObjectReference: 1kind 2namespace 3name 4uid 5apiVersion 6resourceVersion 7fieldPath
EndpointPort: 1name *2port:int 3protocol=TCP 4appProtocol:string?
EndpointSlice: 1metadata:ObjectMeta+ *4addressType *2endpoints:[]Endpoint *3ports:[]discovery.EndpointPort
Endpoint: *1addresses:[]/_ 2conditions:EndpointConditions+ 3hostname:string? 4targetRef:ObjectReference#
  5deprecatedTopology:{} 6nodeName:string? 7zone:string? 8hints:EndpointHints
EndpointConditions: 1ready:bool? 2serving:bool? 3terminating:bool?
EndpointHints: 1forZones:[]ForZone 2forNodes:[]ForNode
ForZone: *1name
ForNode: *1name
discovery.EndpointPort: 1name:string?= 2protocol:string?=TCP 3port:int? 4appProtocol:string?
Event: 1metadata:ObjectMeta+ 2involvedObject:ObjectReference+# 3reason 4message 5source:EventSource+
  *6firstTimestamp:Time *7lastTimestamp:Time 8count:int 9type *10eventTime:MicroTime 11series:EventSeries 12action
  13related:ObjectReference# *14reportingComponent *15reportingInstance
EventSource: 1component 2host
EventSeries: 1count:int *2lastObservedTime:MicroTime
ServiceAccount: 1metadata:ObjectMeta+ 2secrets:[]ObjectReference#/name 3imagePullSecrets:[]LocalObjectReference
  4automountServiceAccountToken:bool?
Deployment: 1metadata:ObjectMeta+ 2spec:DeploymentSpec+ 3status:DeploymentStatus+
DeploymentSpec: 1replicas:int?=1 *2selector:LabelSelector# 3template:PodTemplateSpec+ 4strategy:DeploymentStrategy+&
  5minReadySeconds:int 6revisionHistoryLimit:int?=10 7paused:bool 9progressDeadlineSeconds:int?=600
PodTemplateSpec: 1metadata:ObjectMeta+ 2spec:PodSpec+
DeploymentStrategy: 1type=RollingUpdate 2rollingUpdate:RollingUpdateDeployment
RollingUpdateDeployment: 1maxUnavailable:IntOrString?=25% 2maxSurge:IntOrString?=25%
DeploymentStatus: 1observedGeneration:int 2replicas:int 3updatedReplicas:int 7readyReplicas:int 4availableReplicas:int
  5unavailableReplicas:int 9terminatingReplicas:int? 6conditions:[]DeploymentCondition/type 8collisionCount:int?
DeploymentCondition: *1type *2status *6lastUpdateTime:Time *7lastTransitionTime:Time 4reason 5message
ReplicaSet: 1metadata:ObjectMeta+ 2spec:ReplicaSetSpec+ 3status:ReplicaSetStatus+
ReplicaSetSpec: 1replicas:int?=1 4minReadySeconds:int *2selector:LabelSelector# 3template:PodTemplateSpec+
ReplicaSetStatus: *1replicas:int 2fullyLabeledReplicas:int 4readyReplicas:int 5availableReplicas:int
  7terminatingReplicas:int? 3observedGeneration:int 6conditions:[]ReplicaSetCondition/type
ReplicaSetCondition: *1type *2status *3lastTransitionTime:Time 4reason 5message
Scale: 1metadata:ObjectMeta+ 2spec:ScaleSpec+ 3status:ScaleStatus+
ScaleSpec: 1replicas:int
ScaleStatus: *1replicas:int 2selector
"""

Field = namedtuple("Field", "number name kind type pointer plain retain atomic keys merges default always flag")
TOKEN = re.compile(r"([*~!]*)(\d+)([\w$-]*)(?::(\[\]|\{\})?([\w.]*)([?+&#]*))?(?:(/)([A-Za-z,]*)([\^_]?))?(?:(=)(\S*))?")
SCALARS = {"string", "int", "bool", "float", "bytes", "Time", "MicroTime", "Duration", "Quantity", "IntOrString", "Raw"}
MESSAGES = {line.split(":", 1)[0]: line.split(":", 1)[1]
            for line in SCHEMA.replace("\n  ", " ").strip().split("\n")}       # name -> its tokens, unparsed


class Message:
    """The fields of one message: by_name (embedded structs resolved), by_number (as on the protobuf wire)."""

    def __init__(self, name):
        self.name, self.by_name, self.by_number = name, {}, {}
        for token in MESSAGES[name].split():
            flags, number, field_name, kind, type_, marks, slash, keys, only, given, default = TOKEN.fullmatch(token).groups("")
            field = Field(int(number), field_name, kind, type_ or "string", "?" in marks, "+" in marks, "&" in marks,
                          "#" in marks, tuple(keys.split(",")) if keys else (), slash and only != "_",
                          parse_default(type_, default) if given else None, "*" in flags, flags.strip("*"))
            self.by_number[field.number] = field
            if field_name:
                self.by_name[field_name] = field
            else:
                self.by_name.update(message(field.type).by_name)


def parse_default(type_, text):
    if text == "{}":
        return {}
    return int(text) if type_ in ("int", "IntOrString") and text.isdigit() else text == "true" if type_ == "bool" else text


def message(name, parsed={}):
    """The Message called name; parsed at its first use and kept (a GIL-atomic dict, so any thread may ask)."""
    if name not in parsed:
        parsed[name] = Message(name)
    return parsed[name]


class Findings:
    """What reading an object brought to light, each a list of paths or sentences for its sender."""

    def __init__(self):
        self.unknown, self.hints, self.refused = [], [], []


class Mismatch(ValueError):
    """A value of the wrong type, worded as by Go's decoder."""


JSON_TYPE = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
GO_TYPE = {"int": "int32", "float": "float64", "bytes": "[]uint8", "IntOrString": "intstr.IntOrString"}
ZERO = {"string": "", "int": 0, "bool": False, "float": 0, "bytes": "", "IntOrString": 0, "Quantity": "0"}


def clean(type_, value, findings, path="", owner="", kind=""):
    """The value as the API server would hold it: fields checked against SCHEMA, unknown ones and nulls dropped, quantities
    in canonical form. What was dropped or cannot be honoured goes to findings.

    path   where the value stands, such as "spec.containers[0].name"; owner is the message it stands in.
    Raises Mismatch.
    """
    if kind == "[]" and isinstance(value, list):
        return [clean(type_, item, findings, f"{path}[{i}]", owner) for i, item in enumerate(value)]
    if kind == "{}" and isinstance(value, dict):
        return {key: clean(type_, item, findings, f"{path}.{key}", owner) for key, item in value.items() if item is not None}
    if not kind and type_ in SCALARS:
        if type_ in CHECKS:
            return CHECKS[type_](value)
        if type_ == "Raw" or type(value) is PYTHON_TYPE[type_]:
            return value
    elif not kind and isinstance(value, dict):
        return clean_message(message(type_), value, findings, path)
    bare = re.sub(r"\[\d+\]", "", path)
    go = {"[]": "[]", "{}": "map[string]"}.get(kind, "") + (GO_TYPE.get(type_, type_) if type_ in SCALARS else "v1." + type_)
    raise Mismatch(f"json: cannot unmarshal {JSON_TYPE.get(type(value), 'null')} into Go struct field "
                   f"{owner}.{bare} of type {go}")


PYTHON_TYPE = {"string": str, "int": int, "bool": bool, "float": float, "Duration": str}


def clean_message(fields, value, findings, path):
    out = {}
    for name, item in value.items():
        field = fields.by_name.get(name)
        where = f"{path}.{name}" if path else name
        if field is None:
            if path or name not in ("kind", "apiVersion"):
                findings.unknown.append(where)
                continue
        elif item is None:
            continue
        else:
            item = clean(field.type, item, findings, where, fields.name, field.kind)
            if not item and not field.always and not field.pointer:
                if field.kind or item == ZERO.get(field.type):
                    continue                              # Go's omitempty: a zero that is no pointer is not there
            if field.flag:
                (findings.hints if field.flag == "~" else findings.refused).append(where)
        out[name] = item
    for field in fields.by_name.values():
        if (field.plain or field.always) and field.name not in out:
            out[field.name] = {} if field.plain else None if field.kind or field.pointer else ZERO.get(field.type)
    return out


def fill_defaults(type_, value):
    """Set the defaults of SCHEMA in place, in this message and those below it."""
    for field in message(type_).by_name.values():
        if field.default is not None and field.name not in value:
            value[field.name] = {} if field.default == {} else field.default
        if field.name in value and field.type not in SCALARS:
            found = value[field.name]
            for item in found if field.kind == "[]" else found.values() if field.kind else (found,):
                fill_defaults(field.type, item)


# == 3. Quantities, names, selectors =========================================================
# Pure functions over single values; the wording of their refusals is that of k8s.io/apimachinery.

QUANTITY = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?")
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def quantity_nanos(text):
    """A resource.Quantity in units of 10^-9, rounded up: "500m" -> 500_000_000. Raises Mismatch."""
    text = str(text)
    found = QUANTITY.fullmatch(text)
    if not found or not (found[2] or found[3]) or len(found[5] or "") > 3 or len(text) > 64:
        raise Mismatch("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    sign, whole, fraction, suffix, exponent = (part or "" for part in found.groups())
    digits, scale = int(whole + fraction or 0), 9 - len(fraction)
    scale += int(exponent) if exponent else DECIMAL.get(suffix, 0)
    digits <<= BINARY.get(suffix, 0)
    nanos = digits * 10 ** scale if scale >= 0 else -(-digits // 10 ** -scale)
    return -nanos if sign == "-" else nanos


def quantity_value(text):
    """A quantity as a whole number, rounded up: bytes of memory, say."""
    return -(-quantity_nanos(text) // 10 ** 9)


def canonical_quantity(text):
    """The one spelling that the API server answers: no fraction, the largest suffix; "0.5" -> "500m", "1024Mi" -> "1Gi"."""
    nanos, found = quantity_nanos(text), QUANTITY.fullmatch(str(text))
    if found[5] or not nanos:
        return str(text) if found[5] else "0"
    if found[4] in BINARY and nanos % 10 ** 9 == 0:
        value = nanos // 10 ** 9
        for suffix, bits in reversed(BINARY.items()):
            if value % (1 << bits) == 0:
                return f"{value >> bits}{suffix}"
        return str(value)
    for suffix, power in reversed(DECIMAL.items()):
        if nanos % 10 ** (power + 9) == 0:
            return f"{nanos // 10 ** (power + 9)}{suffix}"


def check_bytes(value):
    try:
        base64.b64decode(value, validate=True)
        return value
    except (binascii.Error, ValueError, TypeError):
        bad = next((i for i, c in enumerate(value) if not re.match("[A-Za-z0-9+/=]", c)), len(value)) if value else 0
        raise Mismatch(f"illegal base64 data at input byte {bad}")


def check_time(value):
    if not isinstance(value, str):
        raise Mismatch(f"json: cannot unmarshal {JSON_TYPE[type(value)]} into Go value of type string")
    if not TIME.fullmatch(value):
        raise Mismatch(f'parsing time {dumps(value).decode()} as "2006-01-02T15:04:05Z07:00": cannot parse '
                       f'{dumps(value).decode()} as "2006"')
    return value


def check_int_or_string(value):
    if type(value) not in (int, str):
        raise Mismatch(f"json: cannot unmarshal {JSON_TYPE[type(value)]} into Go value of type int32")
    return value


def check_quantity(value):
    if type(value) not in (int, float, str):
        raise Mismatch("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    return canonical_quantity(value)


CHECKS = {"Quantity": check_quantity, "bytes": check_bytes, "Time": check_time, "MicroTime": check_time,
          "IntOrString": check_int_or_string}

LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = LABEL + r"(\." + LABEL + ")*"
QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
NAME_RULES = {  # rule -> (regular expression, longest, refusal)
    "subdomain": (SUBDOMAIN, 253, "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
                  "and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
                  "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"),
    "label": (LABEL, 63, "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
              "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
              "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"),
    "rfc1035": ("[a-z]([-a-z0-9]*[a-z0-9])?", 63, "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start "
                "with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
                "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"),
    "key": ("[-._a-zA-Z0-9]+", 253, "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  "
            "or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"),
    "labelvalue": (f"({QUALIFIED})?", 63, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
                   "'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex "
                   "used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"),
    "qualified": (QUALIFIED, 63, "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
                  "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
                  "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"),
}
KIND_NAMES = {"Namespace": "label", "Service": "rfc1035"}       # the others: subdomain


def name_faults(rule, value):
    """What is wrong with a name, a sentence each; [] if nothing is."""
    pattern, longest, refusal = NAME_RULES[rule]
    faults = [f"must be no more than {longest} {'bytes' if rule != 'key' else 'characters'}"] if len(value) > longest else []
    return faults + ([] if re.fullmatch(pattern, value) else [refusal])


def label_key_faults(key):
    """A label key is NAME or PREFIX/NAME."""
    prefix, slash, name = key.rpartition("/")
    faults = [f"prefix part {fault}" for fault in (name_faults("subdomain", prefix) if slash else [])]
    return faults + (name_faults("qualified", name) if name else ["name part must be non-empty"])


Requirement = namedtuple("Requirement", "key op values")         # op: in, notin, exists, absent
SELECTOR_TERM = re.compile(r"\s*(?:!\s*(?P<absent>[^\s!=,()]+)|(?P<key>[^\s!=,()]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)|"
                           r"\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)")


def parse_selector(text):
    """A label selector of a query, "a=b,c!=d,e in (x,y),f,!g", as Requirements. Raises ApiError 400."""
    requirements, at = [], 0
    while at < len(text):
        found = SELECTOR_TERM.match(text, at)
        if not found:
            rest = text[at:].strip()
            odd = re.search(r"[!=,()]+", rest)
            raise bad_request(f"unable to parse requirement: found '{odd[0][-1] if odd else rest}', expected: identifier")
        key = found["absent"] or found["key"]
        values = {v.strip() for v in found["values"].split(",")} if found["set"] else {found["value"]}
        op = ("absent" if found["absent"] else found["set"] or {"!=": "notin", None: "exists"}.get(found["op"], "in"))
        for fault in label_key_faults(key):
            raise bad_request(f'unable to parse requirement: <nil>: Invalid value: "{key}": {fault}')
        requirements.append(Requirement(key, op, values))
        at = found.end()
    return requirements


def selector_of(selector):
    """A LabelSelector object, or the plain map of Services and ReplicationControllers, as Requirements."""
    if selector and not ("matchLabels" in selector or "matchExpressions" in selector):
        return [Requirement(key, "in", {value}) for key, value in selector.items()]
    ops = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
    return ([Requirement(key, "in", {value}) for key, value in (dig(selector, "matchLabels") or {}).items()] +
            [Requirement(term["key"], ops[term["operator"]], set(term.get("values") or ()))
             for term in dig(selector, "matchExpressions") or ()])


def selects(requirements, labels):
    """Whether labels ({} or None for none) meet every requirement."""
    for key, op, values in requirements:
        value = labels.get(key) if labels else None
        if not {"in": value in values and value is not None, "notin": value not in values,
                "exists": value is not None, "absent": value is None}[op]:
            return False
    return True


def selector_text(selector):
    """A selector as kubectl prints it, "a=b,c in (d)"; <none> if empty."""
    terms = [{"in": f"{r.key}={next(iter(r.values))}" if len(r.values) == 1 else f"{r.key} in ({','.join(sorted(r.values))})",
              "notin": f"{r.key} notin ({','.join(sorted(r.values))})", "exists": r.key, "absent": "!" + r.key}[r.op]
             for r in selector_of(selector)]
    return ",".join(sorted(terms)) or "<none>"


# What a field selector may name, besides metadata.name and metadata.namespace.
FIELD_LABELS = {
    "Pod": "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase status.podIP "
           "status.nominatedNodeName",
    "Event": "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion "
             "involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type",
    "Secret": "type", "Namespace": "status.phase", "Node": "spec.unschedulable", "Service": "spec.clusterIP spec.type",
    "ReplicaSet": "status.replicas",
}


def parse_field_selector(kind, text):
    """"a.b=c,d!=e" as [(path, equal, value)]. Raises ApiError 400 for a field that the kind cannot select by."""
    terms = []
    for term in filter(None, text.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if not found:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        known = ["metadata.name"] + ["metadata.namespace"] * kind.namespaced + FIELD_LABELS.get(kind.name, "").split()
        if found[1] not in known:
            raise bad_request(f"field label not supported: {found[1]}")
        terms.append((found[1], found[2] != "!=", found[3]))
    return terms


def field_matches(terms, obj):
    for path, equal, value in terms:
        found = dig(obj, *path.split("."))
        if path == "source":
            found = dig(found, "component") or obj.get("reportingComponent")
        text = str(found).lower() if isinstance(found, bool) else str(found or "")
        if path in ("spec.hostNetwork", "spec.unschedulable"):
            text = text or "false"
        if (text == value) != equal:
            return False
    return True


# == 4. Errors ===============================================================================
# Every refusal is an ApiError, raised where the fact is known; Handler.answer() alone turns it into bytes.


class ApiError(Exception):
    """A refusal the client should read, as a Kubernetes Status (API conventions, "Response Status Kind")."""

    def __init__(self, code, reason, message, details=None, retry_after=None):
        super().__init__(message)
        self.code = code
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
        if reason:
            self.status["reason"] = reason
        if retry_after is not None:
            details = dict(details or {}, retryAfterSeconds=retry_after)
        if details is not None:
            self.status["details"] = details
        self.status["code"] = code


def bad_request(message):
    return ApiError(400, "BadRequest", message)


def about(kind, name, word="plural"):
    """The details of a Status: which object it is about."""
    details = {"name": name, "group": kind.group, "kind": getattr(kind, word)}
    return {key: value for key, value in details.items() if value}


def resource_name(kind):
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def not_found(kind, name):
    return ApiError(404, "NotFound", f'{resource_name(kind)} "{name}" not found', about(kind, name))


def already_exists(kind, name):
    return ApiError(409, "AlreadyExists", f'{resource_name(kind)} "{name}" already exists', about(kind, name))


def conflict(kind, name, why="the object has been modified; please apply your changes to the latest version and try again"):
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {resource_name(kind)} "{name}": {why}', about(kind, name))


def forbidden(kind, name, why, causes=None):
    return ApiError(403, "Forbidden", f'{resource_name(kind)} "{name}" is forbidden: {why}',
                    dict(about(kind, name), **({"causes": causes} if causes else {})))


def no_such_resource():
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def wrong_method():
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


REASONS = {"Invalid value": "FieldValueInvalid", "Required value": "FieldValueRequired", "Duplicate value": "FieldValueDuplicate",
           "Unsupported value": "FieldValueNotSupported", "Forbidden": "FieldValueForbidden", "Not found": "FieldValueNotFound",
           "Too long": "FieldValueTooLong"}


class Faults(list):
    """The causes of a 422, gathered field by field: faults.add(path, "Invalid value", found, why)."""

    def add(self, field, what, found=None, why=""):
        shown = "" if found is None else f": {dumps(found).decode()}"
        text = what + shown + (f": {why}" if why else "")
        self.append({"reason": REASONS[what], "message": text, "field": field})

    def one_of(self, field, found, allowed):
        if found not in allowed:
            self.add(field, "Unsupported value", found, "supported values: " + ", ".join(f'"{a}"' for a in sorted(allowed)))

    def between(self, field, found, low, high):
        if found is not None and not low <= found <= high:
            self.add(field, "Invalid value", found, f"must be between {low} and {high}, inclusive")

    def at_least(self, field, found, low=0):
        if found is not None and found < low:
            self.add(field, "Invalid value", found, f"must be greater than or equal to {low}")

    def name(self, field, found, rule, empty="Required value"):
        if not found:
            self.add(field, empty)
        else:
            for fault in name_faults(rule, found):
                self.add(field, "Invalid value", found, fault)

    def check(self, kind, name):
        """Raise ApiError 422 if anything was found. kind: a Kind, or for the options of a request their name."""
        if self:
            shown = f"{kind.name}.{kind.group}" if kind.group else kind.name
            texts = [f"{fault['field']}: {fault['message']}" for fault in self]
            text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
            raise ApiError(422, "Invalid", f'{shown} "{name}" is invalid: {text}',
                           dict(about(kind, name, "name"), causes=list(self)))


def check_options(kind_name, query):
    """Refuse query options that the API server would refuse, in its words (kind_name: "CreateOptions", ...)."""
    faults, options = Faults(), Kind(kind_name, "meta.k8s.io", "", "", "", (), False, "", (), (), "")
    if query.get("dryRun", "All") != "All":
        faults.add("dryRun", "Unsupported value", [query["dryRun"]], 'supported values: "All"')
    if query.get("fieldValidation", "") not in ("", "Ignore", "Strict", "Warn"):
        faults.add("fieldValidation", "Unsupported value", query["fieldValidation"],
                   'supported values: "", "Ignore", "Strict", "Warn"')
    if query.get("propagationPolicy", "Background") not in ("Foreground", "Background", "Orphan"):
        faults.add("propagationPolicy", "Unsupported value", query["propagationPolicy"],
                   'supported values: "Foreground", "Background", "Orphan", "nil"')
    if kind_name == "PatchOptions" and "force" in query:
        faults.add("force", "Forbidden", why="may not be specified for non-apply patch")
    if query.get("sendInitialEvents") and query.get("resourceVersionMatch") != "NotOlderThan":
        faults.add("resourceVersionMatch", "Forbidden", why="sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    elif query.get("resourceVersionMatch") and "sendInitialEvents" not in query and not query.get("resourceVersion"):
        faults.add("resourceVersionMatch", "Forbidden", why="resourceVersionMatch is forbidden unless resourceVersion is provided")
    faults.check(options, "")


# == 5. Bodies ===============================================================================
# Bytes of a request -> dict. What comes out has been through clean(): whatever the encoding, the same object.


def read_pairs(pairs, duplicates):
    out = dict(pairs)
    if len(out) != len(pairs):
        seen = set()
        duplicates.extend(key for key, _ in pairs if key in seen or seen.add(key))
    return out


def no_constant(name):
    raise ValueError(f"invalid literal {name}")


def parse_json(data, duplicates=None):
    """JSON as Go reads it: UTF-8, no NaN or Infinity; keys that occur twice go to duplicates. Raises ValueError."""
    if duplicates is None:
        return json.loads(data, parse_constant=no_constant)
    return json.loads(data, parse_constant=no_constant, object_pairs_hook=lambda pairs: read_pairs(pairs, duplicates))


def parse_yaml(data):
    try:
        import yaml
    except ImportError:
        raise ApiError(415, "UnsupportedMediaType", "YAML bodies need PyYAML on the host (Debian: python3-yaml); send JSON")

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        """Dates stay text, as in JSON."""
        yaml_implicit_resolvers = {first: [(tag, regexp) for tag, regexp in found if tag != "tag:yaml.org,2002:timestamp"]
                                   for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    try:
        return yaml.load(data, Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise bad_request(f"error converting YAML to JSON: {error}")


def varint(data, at):
    """(value, next position) of a base-128 varint. Raises IndexError where the data ends too soon."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        if shift > 63:
            raise ValueError("varint too long")


def wire_fields(data):
    """The (field number, value) pairs of a protobuf message; value is int or bytes. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = struct.unpack("<d" if wire == 1 else "<f", data[at:at + size])[0], at + size
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise ValueError("truncated message")
        yield key >> 3, value


def signed(value):
    return value - (1 << 64) if value >> 63 else value


def wire_time(data, digits=0):
    found = dict(wire_fields(data))
    seconds, nanos = signed(found.get(1, 0)), found.get(2, 0)
    if not found or seconds < -62135596800 + 1 or seconds > 253402300799:
        return None                                       # Go's zero time is null in JSON
    fraction = f".{nanos // 1000:06d}" if digits else ""
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{fraction}Z"


def wire_int_or_string(data):
    found = dict(wire_fields(data))
    return found.get(3, b"").decode() if found.get(1) else signed(found.get(2, 0))


WIRE = {  # how a scalar stands on the wire -> its JSON value
    "string": lambda value: value.decode(), "int": signed, "bool": bool, "float": float,
    "bytes": lambda value: base64.b64encode(value).decode(), "Time": wire_time, "MicroTime": lambda data: wire_time(data, 6),
    "Duration": lambda data: f"{dict(wire_fields(data)).get(1, 0) / 1e9:g}s",
    "Quantity": lambda data: dict(wire_fields(data)).get(1, b"0").decode(), "IntOrString": wire_int_or_string,
    "Raw": lambda data: parse_json(dict(wire_fields(data)).get(1, b"null")),
}


def from_protobuf(fields, data):
    """One protobuf message as the dict its JSON would be, by SCHEMA; fields is a Message. Raises ValueError, IndexError."""
    out = {}
    for number, value in wire_fields(data):
        field = fields.by_number.get(number)
        if field is None:
            continue
        read = WIRE.get(field.type) or (lambda data, inner=field.type: from_protobuf(message(inner), data))
        if not field.name:
            out.update(read(value))
        elif field.kind == "{}":
            entry = dict(wire_fields(value))
            out.setdefault(field.name, {})[entry.get(1, b"").decode()] = read(entry.get(2, b""))
        elif field.kind and field.type == "int" and isinstance(value, bytes):      # packed
            at = 0
            while at < len(value):
                item, at = varint(value, at)
                out.setdefault(field.name, []).append(signed(item))
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


def parse_body(data, content_type, type_, duplicates=None):
    """A request's body as a dict, not yet cleaned; type_ names its message in SCHEMA. Raises ApiError 400, 415."""
    media = content_type.partition(";")[0].strip().lower() or "application/json"
    if media == "application/vnd.kubernetes.protobuf":
        return parse_protobuf(data, type_)
    if media in ("application/yaml", "text/yaml"):
        body = parse_yaml(data)
    elif media == "application/json":
        try:
            body = parse_json(data, duplicates)
        except (ValueError, RecursionError) as error:
            shown = data[:200].decode("utf-8", "replace") or "<empty>"
            at_end = not data.strip() or getattr(error, "pos", 0) >= len(data.rstrip())
            raise bad_request(f"the object provided is unrecognized (must be of type {type_}): couldn't get version/kind; json parse "
                              f"error: {'unexpected end of JSON input' if at_end else error} ({shown})")
    else:
        raise ApiError(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: "
                       "application/json, application/yaml, application/vnd.kubernetes.protobuf")
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {type_}): couldn't get version/kind; "
                          "json: cannot unmarshal into Go value: the body is no object")
    return body


# == 6. Patches ==============================================================================
# Pure: (present object, patch) -> new object; the arguments are never changed. RFC 6902, RFC 7386, strategic merge.


def unprocessable():
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {})


def json_patch(current, operations):
    """Apply a JSON patch (RFC 6902). Raises ApiError 422 where an operation does not apply."""
    document = json.loads(dumps(current))

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

    def take(pointer):
        where, last = parent(pointer)
        return where[last]

    def drop(pointer):
        where, last = parent(pointer)
        return where.pop(last)

    def put(pointer, value):
        where, last = parent(pointer)
        if isinstance(where, list):
            where.insert(last, value)
        else:
            where[last] = value

    try:
        for operation in operations:
            op, path = operation["op"], operation["path"]
            if op == "add":
                put(path, operation["value"])
            elif op == "remove":
                drop(path)
            elif op == "replace":
                where, last = parent(path)
                where[last]                               # must be there: RFC 6902, 4.3
                where[last] = operation["value"]
            elif op == "move":
                put(path, drop(operation["from"]))
            elif op == "copy":
                put(path, json.loads(dumps(take(operation["from"]))))
            elif op != "test" or dumps(take(path)) != dumps(operation["value"]):
                raise unprocessable()
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise unprocessable()
    return document


def merge_patch(current, patch):
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    out = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def strategic_merge(type_, current, patch):
    """Apply a strategic merge patch to a message, by SCHEMA's merge keys (Kubernetes: strategic-merge-patch.md)."""
    if not isinstance(patch, dict):
        raise bad_request(f"cannot restore slice from map: {type_} wants an object")
    directive = patch.get("$patch", "merge")
    if directive in ("replace", "delete"):
        return {key: value for key, value in patch.items() if key != "$patch"} if directive == "replace" else {}
    if directive != "merge":
        raise bad_request(f"Unknown patch type found: {directive}")
    fields = message(type_).by_name if type_ in MESSAGES else {}
    out = dict(current) if isinstance(current, dict) else {}
    if "$retainKeys" in patch:
        out = {key: value for key, value in out.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith(("$setElementOrder/", "$deleteFromPrimitiveList/")):
            directive, name = key.split("/", 1)
            field = fields.get(name)
            if directive[1] == "d" and isinstance(out.get(name), list):
                out[name] = [item for item in out[name] if item not in value]
            elif directive[1] == "s" and name not in patch and field and isinstance(out.get(name), list):
                out[name] = in_order(out[name], value, field.keys[:1])
        elif key in ("$patch", "$retainKeys"):
            continue
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = merge_field(fields.get(key), out.get(key), value, patch.get("$setElementOrder/" + key))
    return out


def merge_field(field, current, value, order):
    """The new value of one field; order is its $setElementOrder or None."""
    if isinstance(value, dict):
        if field and not field.kind and field.type in MESSAGES:
            return strategic_merge(field.type, current, value)
        return strategic_merge("", current, value)
    if not isinstance(value, list) or not field or not field.merges:
        return value
    current = current if isinstance(current, list) else []
    if not field.keys:                                    # a set of scalars
        return in_order(current + [item for item in value if item not in current], order, ())
    key, out = field.keys[0], list(current)
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in value):
        return [item for item in value if item.get("$patch") != "replace"]
    for item in value:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {dumps(item).decode()} does not contain declared merge key: {key}")
        at = next((i for i, old in enumerate(out) if dig(old, key) == item[key]), None)
        if item.get("$patch") == "delete":
            out = [old for old in out if dig(old, key) != item[key]]
        elif at is None:
            out.append({name: inner for name, inner in item.items() if name != "$patch"})
        else:
            out[at] = strategic_merge(field.type, out[at], item)
    return in_order(out, order, (key,))


def in_order(items, order, keys):
    """Items of a merged list in the order of $setElementOrder; those it does not name keep their place before their successor."""
    if not isinstance(order, list):
        return items
    identity = (lambda item: dig(item, keys[0])) if keys else (lambda item: item)
    rank = {str(identity(item)): i for i, item in enumerate(order)}
    named = iter(sorted((item for item in items if str(identity(item)) in rank), key=lambda item: rank[str(identity(item))]))
    return [next(named) if str(identity(item)) in rank else item for item in items]


# == 7. Store and watch ======================================================================
# Objects rest in memory as compact JSON bytes; what must survive a power cut rests in SQLite too, synced before the answer.
# The Store knows nothing of Kubernetes but metadata, and nothing of sockets: it tells its listeners what changed.

FOREIGN = "k2d.io/container"    # annotation: this pod is a container that somebody else started; holds its name
COMPUTED = ("endpoints.kubernetes.io/managed-by", "endpointslice.kubernetes.io/managed-by")     # labels of what controllers derive

Row = namedtuple("Row", "raw version labels kept")      # kept: hash of what is on disk of it, None if nothing is
Change = namedtuple("Change", "version kind type key raw labels old")    # type as in a watch; old: the Row before, or None


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
    """Objects by kind, (namespace, name); transactions; versions; the ring of recent changes.

    Every method may be called from any thread. A transaction belongs to one thread at a time; readers never wait for it,
    nor for the disk.
    """

    def __init__(self, path):
        self.rows = {kind.name: {} for kind in KINDS}
        self.writing = threading.RLock()    # held for a whole transaction, disk included
        self.view = threading.Lock()        # held while rows, version and ring change together; never across I/O
        self.writer, self.pending, self.listeners = None, {}, []
        self.ring, self.ring_bytes, self.watches = deque(), 0, set()
        self.db = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
        os.chmod(path, 0o600)
        try:
            self.db.executescript("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                                  "PRAGMA cache_size=-256; CREATE TABLE IF NOT EXISTS objects (kind TEXT, namespace TEXT, "
                                  "name TEXT, object TEXT, PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;"
                                  "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;")
            start = int(self.fact("starts") or 0) + 1
            self.set_fact("starts", str(start))
        except sqlite3.OperationalError as error:
            raise SystemExit(f"k2d: {path}: {error}; does another k2d use this data path?")
        self.version = self.floor = start << 32           # monotonic without a clock; older versions than floor are gone
        self.buried = {name[5:] for name, in self.db.execute("SELECT name FROM facts WHERE name LIKE 'gone/%'")}
        for name, namespace, key, text in self.db.execute("SELECT kind, namespace, name, object FROM objects"):
            if name in KIND:
                self.load(KIND[name], (namespace, key), json.loads(text))

    def load(self, kind, key, obj):
        kept = dumps(obj)
        if kind.kept != "disk":                           # its answer holds recomputed status: a fresh version
            self.version += 1
            obj["metadata"]["resourceVersion"] = str(self.version)
        self.rows[kind.name][key] = Row(dumps(obj), int(obj["metadata"]["resourceVersion"]), obj["metadata"].get("labels"),
                                        hash(self.unversioned(kept)))

    @staticmethod
    def unversioned(raw):
        return re.sub(rb'"resourceVersion":"\d*",?', b"", raw, count=1)

    # -- reading

    def get(self, kind, namespace, name):
        """The object as a dict of the caller's own, or None."""
        row = self.row(kind, (namespace, name))
        return json.loads(row.raw) if row else None

    def row(self, kind, key):
        if self.writer == threading.get_ident() and (kind, key) in self.pending:
            return self.pending[kind, key]
        return self.rows[kind].get(key)

    def keys(self, kind, namespace=None):
        """Sorted keys of a kind, or of its objects in one namespace."""
        keys = set(self.rows[kind])
        if self.writer == threading.get_ident():
            for (pending_kind, key), row in self.pending.items():
                if pending_kind == kind:
                    keys.discard(key) if row is None else keys.add(key)
        return sorted(key for key in keys if namespace is None or key[0] == namespace)

    def list(self, kind, namespace=None, selector=None, holding=b""):
        """Objects as dicts; selector: Requirements on labels; holding: bytes that must occur, which spares a parse."""
        for key in self.keys(kind, namespace):
            row = self.row(kind, key)
            if row and holding in row.raw and (selector is None or selects(selector, row.labels)):
                yield json.loads(row.raw)

    def snapshot(self, kind, namespace, watch=None):
        """(version, [(key, Row)]) at one moment. A watch given is registered at that same moment."""
        with self.view:
            rows = [(key, row) for key, row in self.rows[kind].items() if namespace is None or key[0] == namespace]
            if watch:
                self.watches.add(watch)
            version = self.version
        return version, sorted(rows)

    def since(self, version, watch):
        """Register a watch and return (present version, the changes after version). Raises ApiError 410 if they are gone."""
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

    # -- writing

    @contextmanager
    def transaction(self):
        """All puts and removes inside become visible, and durable, together or not at all. Nests within one thread."""
        with self.writing:
            if self.writer is not None:
                yield self
                return
            self.writer, self.pending, self.changes, self.statements = threading.get_ident(), {}, [], []
            self.next_version = self.version
            try:
                yield self
                if self.changes:
                    self.commit()
            finally:
                self.writer, self.pending = None, {}

    def put(self, kind, obj, keep=False):
        """Create or replace an object inside a transaction; returns it with its version. An object that is the same as
        before is not written and keeps its version. keep: store it even though it is derived (client metadata of foreign
        containers)."""
        meta = obj["metadata"]
        key = meta.get("namespace", ""), meta["name"]
        old = self.row(kind.name, key)
        if old:
            meta["resourceVersion"] = str(old.version)
            if dumps(obj) == old.raw and not (keep and old.kept is None):
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
                self.statements.append(("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (kind.name, *key, text.decode())))
        row = Row(raw, self.next_version, meta.get("labels"), kept)
        self.pending[kind.name, key] = row
        self.changes.append(Change(row.version, kind, "MODIFIED" if old else "ADDED", key, raw, row.labels, old))
        return obj

    def remove(self, kind, obj):
        """Remove an object inside a transaction; returns it as its watchers see it last."""
        key = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        old = self.row(kind.name, key)
        if old:
            self.next_version += 1
            obj["metadata"]["resourceVersion"] = str(self.next_version)
            if old.kept is not None:
                self.statements.append(("DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", (kind.name, *key)))
            self.pending[kind.name, key] = None
            self.changes.append(Change(self.next_version, kind, "DELETED", key, dumps(obj), obj["metadata"].get("labels"), old))
        return obj

    def bury(self, uid):
        """Remember, in this transaction, that a pod removed by force may have left containers behind."""
        self.statements.append(("INSERT OR REPLACE INTO facts VALUES (?, '')", ("gone/" + uid,)))
        self.buried.add(uid)

    def gone(self, uid):
        return uid in self.buried

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
                    self.rows[kind][key] = row
                else:
                    self.rows[kind].pop(key, None)
            self.version = self.next_version
            for change in self.changes:
                self.ring.append(change)
                self.ring_bytes += len(change.raw)
            while len(self.ring) > RING_EVENTS or self.ring_bytes > RING_BYTES:
                gone = self.ring.popleft()
                self.floor, self.ring_bytes = gone.version, self.ring_bytes - len(gone.raw)
            watches = [watch for watch in self.watches if any(watch.kind is change.kind for change in self.changes)]
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
        """The chunk that tells of a change, or None. memo, shared by all watches of a change, saves encoding it twice."""
        old = bool(change.old) and self.matches(change.key, change.old.raw, change.old.labels)
        new = change.type != "DELETED" and self.matches(change.key, change.raw, change.labels)
        if not old and not new:
            return None
        type_ = "DELETED" if not new else "MODIFIED" if old else "ADDED"
        key = type_, self.form
        if key not in memo:
            raw = change.raw
            if type_ == "DELETED" and change.type != "DELETED":     # it left the selection: as it was, at this version
                obj = json.loads(change.old.raw)
                obj["metadata"]["resourceVersion"] = str(change.version)
                raw = dumps(obj)
            memo[key] = self.encode(type_, raw)
        return memo[key]

    def encode(self, type_, raw):
        if self.form.kind and type_ != "BOOKMARK":
            raw = shown(self.kind, raw, self.form)
        return chunk(b'{"type":"%s","object":%s}\n' % (type_.encode(), raw))

    def bookmark(self, version, initial=False):
        meta = {"resourceVersion": str(version)}
        if initial:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        return self.encode("BOOKMARK", dumps({"kind": self.kind.name, "apiVersion": group_version(self.kind), "metadata": meta}))


def chunk(data):
    """One chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


# == 8. Engine client ========================================================================
# HTTP/1.1 to Docker or Podman over its socket, a connection a call. Engine API 1.40 to 1.52.


class EngineError(Exception):
    """The engine answered with an error; str() is its message."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class EngineGone(EngineError):
    """The engine could not be reached, or hung up."""

    def __init__(self, error):
        super().__init__(0, f"the container engine does not answer: {error}")


class EngineConnection(http.client.HTTPConnection):
    def __init__(self, engine, timeout):
        super().__init__("localhost", timeout=timeout)
        self.engine = engine

    def connect(self):
        self.sock = self.engine.connect(self.timeout)


class Engine:
    """Calls to the engine at DOCKER_HOST; every method may be called from any thread and blocks its caller."""

    def __init__(self, host):
        scheme, _, rest = host.partition("://")
        if scheme not in ("unix", "tcp") or not rest:
            raise SystemExit(f"k2d: DOCKER_HOST {host}: want unix:///path or tcp://host:port")
        self.address = rest if scheme == "unix" else (rest.rpartition(":")[0], int(rest.rpartition(":")[2].strip("/")))
        self.prefix = ""                                    # "/v1.41" once the engine has said what it speaks

    def connect(self, timeout):
        sock = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        try:
            sock.settimeout(timeout)
            sock.connect(self.address)
            return sock
        except OSError:
            sock.close()
            raise

    def negotiate(self):
        """Learn the API version; the engine's own if ours is newer. Engines before 19.03 (1.40) are refused."""
        _, headers = self.request("GET", "/_ping", timeout=10)
        spoken = headers.get("Api-Version") or "1.40"
        version = min((tuple(map(int, text.split("."))) for text in (spoken, "1.52")))
        if version < (1, 40):
            raise EngineError(400, f"the engine speaks API {spoken}; k2d needs 1.40, Docker 19.03 or Podman 4.3")
        self.prefix = "/v{}.{}".format(*version)

    def request(self, method, path, body=None, timeout=60, headers=()):
        """(decoded body or None, headers) of a call that answers at once. Raises EngineError, EngineGone."""
        connection = EngineConnection(self, timeout)
        try:
            kind = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, self.prefix + path, body and dumps(body), {**kind, "Connection": "close", **dict(headers)})
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineGone(error)
        finally:
            connection.close()
        if response.status >= 400:
            raise EngineError(response.status, self.words(data) or response.reason)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return (json.loads(data) if data and is_json else data or None), response.headers

    def get(self, path, **options):
        return self.request("GET", path, **options)[0]

    def post(self, path, body=None, **options):
        return self.request("POST", path, body, **options)[0]

    @staticmethod
    def words(data):
        try:
            return json.loads(data)["message"]
        except (ValueError, KeyError, TypeError):
            return data.decode("utf-8", "replace").strip()

    def stream(self, method, path, headers=(), timeout=None):
        """(socket, first bytes of the body) of an answer that goes on: by HTTP/1.0, so that it is not chunked and ends
        with the connection. Raises EngineError, EngineGone."""
        try:
            sock = self.connect(timeout)
            try:
                lines = "".join(f"{name}: {value}\r\n" for name, value in dict(headers).items())
                sock.sendall(f"{method} {self.prefix}{path} HTTP/1.0\r\nHost: localhost\r\n{lines}\r\n".encode())
                data = b""
                while b"\r\n\r\n" not in data:
                    got = sock.recv(65536)
                    if not got:
                        raise OSError("hung up before it answered")
                    data += got
                head, _, rest = data.partition(b"\r\n\r\n")
                status = int(head.split(None, 2)[1])
                if status >= 400:
                    rest += b"".join(iter(lambda: sock.recv(65536), b""))
                    raise EngineError(status, self.words(rest))
                return sock, rest
            except BaseException:
                sock.close()
                raise
        except (OSError, ValueError) as error:
            raise EngineGone(error)

    def pull(self, image, auth=None):
        """Pull an image, blocking until it is there. Raises EngineError with the registry's words."""
        query = urllib.parse.urlencode(dict(zip(("fromImage", "tag"), split_image(image))))
        sock, text = self.stream("POST", "/images/create?" + query, {"X-Registry-Auth": auth} if auth else {}, timeout=600)
        with sock:
            try:
                while True:                                 # one JSON object a line; an error comes with status 200
                    *lines, text = text.split(b"\n")
                    for line in filter(bytes.strip, lines):
                        if json.loads(line).get("error"):
                            raise EngineError(500, json.loads(line)["error"])
                    got = sock.recv(65536)
                    if not got:
                        return
                    text += got
            except (OSError, ValueError) as error:
                raise EngineGone(error)


def split_image(image):
    """"host:5000/a/b:tag" -> ("host:5000/a/b", "tag"); a digest is a tag to the engine; no tag is latest."""
    if "@" in image:
        return tuple(image.split("@", 1))
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def log_frames(buffer, tty):
    """(frames, rest) of the bytes of a log or attach stream; a frame is (1 stdout | 2 stderr, bytes). A tty has no frames
    (Engine API, "Stream format": one byte stream, three zeros, four bytes of length, big endian)."""
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


# == 9. Pod -> container =====================================================================
# Pure: Kubernetes dicts in, engine dicts out, nothing read, nothing sent. Section 10 goes the other way. The spelling
# tells the side: camelCase keys are Kubernetes, PascalCase are the engine's.

POD_NAME, POD_NAMESPACE, POD_UID, CONTAINER_NAME = (    # the labels of our containers, those of the kubelet
    "io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid", "io.kubernetes.container.name")
RESTART = {"Always": "unless-stopped",      # "always" would undo a `docker stop` when the engine restarts
           "OnFailure": "on-failure", "Never": "no"}
PROPAGATION = {"HostToContainer": "rslave", "Bidirectional": "rshared"}


class ConfigError(Exception):
    """A container that cannot be created as its pod stands: (reason of its waiting state, message)."""

    def __init__(self, message, reason="CreateContainerConfigError"):
        super().__init__(message)
        self.reason = reason


def container_name(pod, name):
    return f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_{name}"


def expand(text, env):
    """Replace $(NAME) by its value, leave unknown ones, turn $$ into $ (Kubernetes: third_party/forked/golang/expansion)."""
    return re.sub(r"\$(\$|\(([^()]*)\))", lambda found: "$" if found[1] == "$" else str(env.get(found[2], found[0])), text)


def pod_field(pod, path, host_ip):
    """What a fieldRef names, as text; None if the downward API does not know it."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    entry = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if entry:
        return (meta.get(entry[1]) or {}).get(entry[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        return "\n".join(f"{key}={dumps(value).decode()}" for key, value in sorted((meta.get(path[9:]) or {}).items()))
    return {"metadata.name": meta["name"], "metadata.namespace": meta["namespace"], "metadata.uid": meta["uid"],
            "spec.nodeName": spec.get("nodeName", ""), "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "status.hostIP": host_ip, "status.hostIPs": host_ip,
            "status.podIP": status.get("podIP", ""), "status.podIPs": status.get("podIP", "")}.get(path)


def resource_field(pod, container, reference, capacity):
    """What a resourceFieldRef names, as text; without a limit it is what the node has."""
    spec = next((c for c in pod["spec"]["containers"] if c["name"] == reference.get("containerName")), container)
    kind, _, resource = reference["resource"].partition(".")
    resources = spec.get("resources", {})
    value = dig(resources, kind, resource) or (dig(resources, "limits", resource) or capacity.get(resource) if kind == "limits" else "0")
    divisor = quantity_nanos(reference.get("divisor") or "0") or 10 ** 9
    return str(-(-quantity_nanos(value or "0") // divisor))


def environment(pod, container, lookup, host_ip, capacity, cluster):
    """The container's environment as {"NAME": "value"}, references resolved, in the order Kubernetes sets them.

    lookup(kind name, name) -> the data of a ConfigMap or Secret of the pod's namespace as {key: bytes}, or None.
    cluster: what every pod is told. Raises ConfigError where something that is not optional is missing.
    """
    env, namespace = dict(cluster), pod["metadata"]["namespace"]

    def find(kind, reference, key=None):
        data = lookup(kind, reference.get("name", ""))
        if data is None and not reference.get("optional"):
            raise ConfigError(f'{kind.lower()} "{reference.get("name", "")}" not found')
        if key is not None and data is not None and key not in data and not reference.get("optional"):
            raise ConfigError(f"couldn't find key {key} in {kind} {namespace}/{reference.get('name', '')}")
        text = {name: value.decode("utf-8", "replace") for name, value in (data or {}).items()}
        return text if key is None else text.get(key)

    for source in container.get("envFrom") or ():
        for kind in ("ConfigMap", "Secret"):
            reference = source.get(kind[0].lower() + kind[1:] + "Ref")
            if reference is not None:
                env.update((source.get("prefix", "") + key, value) for key, value in find(kind, reference).items())
    for entry in container.get("env") or ():
        source = entry.get("valueFrom")
        if not source:
            value = expand(entry.get("value", ""), env)
        elif "fieldRef" in source:
            value = pod_field(pod, source["fieldRef"].get("fieldPath", ""), host_ip)
            if value is None:
                raise ConfigError(f"unsupported fieldPath: {source['fieldRef'].get('fieldPath')}")
        elif "resourceFieldRef" in source:
            value = resource_field(pod, container, source["resourceFieldRef"], capacity)
        elif "configMapKeyRef" in source:
            value = find("ConfigMap", source["configMapKeyRef"], source["configMapKeyRef"]["key"])
        else:
            value = find("Secret", source["secretKeyRef"], source["secretKeyRef"]["key"])
        if value is not None:
            env[entry["name"]] = value
    return env


def dns_options(pod, settings):
    """Dns, DnsSearch and DnsOptions of the engine's create call, by dnsPolicy and dnsConfig."""
    spec, config = pod["spec"], pod["spec"].get("dnsConfig") or {}
    servers, searches, options = [], [], []
    if spec.get("dnsPolicy") in ("ClusterFirst", "ClusterFirstWithHostNet") and not spec.get("hostNetwork"):
        servers = [settings.dns_ip, settings.upstream_ip]      # the first refuses what is not ours; the engine asks the second
        searches = [f"{pod['metadata']['namespace']}.svc.{CLUSTER_DOMAIN}", "svc." + CLUSTER_DOMAIN, CLUSTER_DOMAIN]
        options = ["ndots:1"]       # short forms are answered as they stand; Kubernetes' 5 costs eight questions an outside name
    servers = (servers if config.get("nameservers") is None else servers + config["nameservers"])
    options += [f"{o['name']}:{o['value']}" if o.get("value") else o["name"] for o in config.get("options") or ()]
    return {"Dns": servers, "DnsSearch": searches + (config.get("searches") or []), "DnsOptions": options}


def security_options(pod, container):
    """User, Privileged, CapAdd ... of the engine's create call; a container's own setting wins over its pod's."""
    both = {**dig(pod, "spec", "securityContext", default={}), **(container.get("securityContext") or {})}
    user = "" if both.get("runAsUser") is None else str(both["runAsUser"])
    if both.get("runAsGroup") is not None:
        user = f"{user or 0}:{both['runAsGroup']}"
    groups = [str(group) for group in [*(both.get("supplementalGroups") or ()), both.get("fsGroup")] if group is not None]
    options = ["no-new-privileges"] if both.get("allowPrivilegeEscalation") is False else []
    if dig(both, "seccompProfile", "type") == "Unconfined":
        options.append("seccomp=unconfined")
    return user, {
        "Privileged": bool(both.get("privileged")), "ReadonlyRootfs": bool(both.get("readOnlyRootFilesystem")),
        "CapAdd": dig(both, "capabilities", "add", default=[]), "CapDrop": dig(both, "capabilities", "drop", default=[]),
        "GroupAdd": groups, "SecurityOpt": options,
        "Sysctls": {each["name"]: each["value"] for each in both.get("sysctls") or ()},
    }


def to_docker_mount(mount, source):
    """One of HostConfig.Mounts: unlike Binds, it fails instead of making a folder where the source is missing."""
    out = {"Type": "bind", "Source": source, "Target": mount["mountPath"], "ReadOnly": bool(mount.get("readOnly"))}
    if mount.get("mountPropagation") in PROPAGATION:
        out["BindOptions"] = {"Propagation": PROPAGATION[mount["mountPropagation"]]}
    return out


def cpu_shares(quantity):
    """requests.cpu -> CpuShares by the kubelet's formula (MilliCPUToShares): 1024 a core, at least 2."""
    return max(2, quantity_nanos(quantity) // 10 ** 6 * 1024 // 1000)


def to_docker_container(pod, container, env, sources, settings):
    """The body of the engine's create call for one container of a pod.

    env      {"NAME": "value"}, references resolved.
    sources  {volume name: path on the host}, with "etc-hosts" the pod's hosts file.
    """
    meta, spec, limits = pod["metadata"], pod["spec"], dig(container, "resources", "limits", default={})
    user, security = security_options(pod, container)
    host_network = spec.get("hostNetwork")
    network = "host" if host_network else settings.network
    hosts = [] if host_network else [to_docker_mount({"mountPath": "/etc/hosts"}, sources["etc-hosts"])]
    return {
        "Image": container["image"],
        # With Entrypoint set, the engine ignores the image's Cmd: just what command without args means to Kubernetes.
        "Entrypoint": [expand(word, env) for word in container.get("command") or ()] or None,
        "Cmd": [expand(word, env) for word in container.get("args") or ()] or None,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "WorkingDir": container.get("workingDir", ""),
        "Hostname": "" if host_network else (spec.get("hostname") or meta["name"])[:63].rstrip("-."),
        "Labels": {POD_NAME: meta["name"], POD_NAMESPACE: meta["namespace"], POD_UID: meta["uid"], CONTAINER_NAME: container["name"]},
        "Tty": bool(container.get("tty")), "OpenStdin": bool(container.get("stdin")), "StdinOnce": bool(container.get("stdinOnce")),
        "User": user,
        "Healthcheck": {"Test": ["NONE"]},                 # Kubernetes knows no HEALTHCHECK, and each one costs an exec
        "HostConfig": {
            "NetworkMode": network,
            "PidMode": "host" if spec.get("hostPID") else "", "IpcMode": "host" if spec.get("hostIPC") else "",
            "RestartPolicy": {"Name": RESTART[spec["restartPolicy"]]},         # the engine restarts, even while k2d is down
            "Memory": quantity_value(limits.get("memory", "0")),              # 0 is no limit, like an absent one
            "NanoCpus": quantity_nanos(limits.get("cpu", "0")),
            "CpuShares": cpu_shares(dig(container, "resources", "requests", "cpu", default="0")),
            "Mounts": [to_docker_mount(mount, sources[mount["name"]]) for mount in container.get("volumeMounts") or ()] + hosts,
            **dns_options(pod, settings), **security,
        },
        "NetworkingConfig": {"EndpointsConfig": {} if host_network else
                             {network: {"IPAMConfig": {"IPv4Address": pod["status"]["podIP"]}}}},
    }


# == 10. Container -> pod ====================================================================
# Pure: what the engine told -> statuses, phases, conditions; and whole pods for containers that somebody else started.

STATES = {"created", "running", "paused", "restarting", "exited", "dead", "removing"}


def engine_time(text):
    """The engine's "2026-01-02T03:04:05.678901234Z" cut to whole seconds; None for its zero time."""
    return None if not text or text.startswith("0001") else text[:19] + "Z"


class Found:
    """One container as its last inspect showed it: what we need of the engine's several kilobytes."""

    __slots__ = ("id", "name", "image", "image_id", "uid", "container", "state", "pid", "exit_code", "error", "oom", "restarts",
                 "started_at", "finished_at", "run_began", "tty", "policy", "ip", "last", "counted")

    def __init__(self, info, before=None):
        state, labels = info["State"], dig(info, "Config", "Labels", default={})
        self.id, self.name, self.tty = info["Id"], info["Name"].lstrip("/"), bool(info["Config"].get("Tty"))
        self.image, self.image_id = info["Config"]["Image"], info["Image"]
        self.uid, self.container = labels.get(POD_UID), labels.get(CONTAINER_NAME)
        self.state, self.pid = state.get("Status", "exited"), state.get("Pid") or 0
        self.exit_code, self.error, self.oom = state.get("ExitCode", 0), state.get("Error", ""), bool(state.get("OOMKilled"))
        self.started_at, self.finished_at = state.get("StartedAt", ""), state.get("FinishedAt", "")
        self.policy = dig(info, "HostConfig", "RestartPolicy", "Name", default="no")
        networks = dig(info, "NetworkSettings", "Networks", default={})
        self.ip = next((n.get("IPAddress") or dig(n, "IPAMConfig", "IPv4Address") for n in networks.values()), None) or ""
        # The engine counts its own restarts, and forgets them at `docker restart`; Kubernetes counts every new run.
        self.restarts, self.last, self.run_began = info.get("RestartCount", 0), None, ""
        if self.running and engine_time(self.finished_at):
            self.run_began = self.finished_at                # a run's log begins where the previous run ended
        if before and before.id == self.id:
            self.last, self.run_began = before.last, self.run_began or before.run_began
            new_run = self.started_at != before.started_at and engine_time(before.started_at)
            self.restarts = max(self.restarts, before.restarts + bool(new_run))
            if before.state == "exited" and new_run:
                self.last = before.terminated()

    @property
    def running(self):
        return self.state in ("running", "paused")

    def terminated(self, exit_code=None, finished_at=None):
        """state.terminated of the run that ended."""
        code = self.exit_code if exit_code is None else exit_code
        reason = "OOMKilled" if self.oom else "Completed" if code == 0 else "Error"
        out = {"exitCode": code, "reason": reason, "startedAt": engine_time(self.started_at),
               "finishedAt": engine_time(finished_at or self.finished_at), "containerID": "docker://" + self.id}
        if self.error:
            out.update(reason="StartError", message=self.error, exitCode=128, finishedAt=out["finishedAt"] or now())
        return out


def container_status(pod, container, found, problem):
    """One of status.containerStatuses. problem: (reason, message) why it waits, or None; found: a Found, or None."""
    status = {"name": container["name"], "state": {}, "lastState": {}, "ready": False, "restartCount": 0,
              "image": container.get("image", ""), "imageID": ""}
    if found:
        status.update(restartCount=found.restarts, imageID="docker://" + found.image_id, containerID="docker://" + found.id)
        last = found.last
        if found.state == "restarting":
            meta = pod["metadata"]
            last = last or found.terminated()
            problem = problem or ("CrashLoopBackOff", "back-off restarting failed container="
                                  f"{container['name']} pod={meta['name']}_{meta['namespace']}({meta['uid']})")
        if last:
            status["lastState"] = {"terminated": last}
        if found.running:
            status["state"] = {"running": {"startedAt": engine_time(found.started_at)}}
            status.update(ready=found.state == "running", started=True)
        elif found.state in ("exited", "dead", "removing") and engine_time(found.started_at):
            status["state"] = {"terminated": found.terminated()}
    if not status["state"]:
        reason, text = problem or ("ContainerCreating", "")
        status["state"] = {"waiting": {"reason": reason, **({"message": text} if text else {})}}
    status.setdefault("started", False)
    return status


def pod_phase(policy, statuses):
    """The kubelet's getPhase over container statuses."""
    states = [(s["state"], s["lastState"]) for s in statuses]
    if any("waiting" in state and not last for state, last in states) or not states:
        return "Pending"
    if any("running" in state for state, _ in states) or policy == "Always":
        return "Running"
    codes = [dig(state, "terminated", "exitCode") for state, _ in states]
    if all(code == 0 for code in codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def condition(conditions, type_, status, reason="", text="", **more):
    """A condition as it should be now, keeping lastTransitionTime while its status stays; conditions: the present list."""
    old = next((c for c in conditions or () if c["type"] == type_), {})
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    out = {"type": type_, **more, "status": status, "lastTransitionTime": since or now()}
    return {**out, **({"reason": reason} if reason else {}), **({"message": text} if text else {})}


def pod_status(pod, found, problems, host_ip):
    """The status of a bound pod. found: {container name: Found}; problems: {container name: (reason, message)}."""
    spec, old = pod["spec"], pod.get("status", {})
    statuses = [container_status(pod, c, found.get(c["name"]), problems.get(c["name"])) for c in spec["containers"]]
    for status in statuses:                                    # a container that is gone keeps its count
        before = next((s for s in old.get("containerStatuses") or () if s["name"] == status["name"]), None)
        if before and "containerID" not in status and "containerID" in before:
            status["restartCount"] = before["restartCount"]
    phase = pod_phase(spec["restartPolicy"], statuses)
    unready = [s["name"] for s in statuses if not s["ready"]]
    ended = phase in ("Succeeded", "Failed")
    reason, text = ("", "") if not unready else ("PodCompleted", "") if phase == "Succeeded" else ("PodFailed", "") if ended else (
        "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    ready, conditions = "False" if unready else "True", old.get("conditions")
    created = "True" if any("containerID" in s for s in statuses) and not ended else "False"
    probed = {"lastProbeTime": None}
    ip = host_ip if spec.get("hostNetwork") else old.get("podIP") or next((f.ip for f in found.values() if f.ip), "")
    out = {
        "observedGeneration": pod["metadata"].get("generation", 1), "phase": phase,
        "conditions": [condition(conditions, "PodReadyToStartContainers", created, **probed),
                       condition(conditions, "Initialized", "True", "PodCompleted" if phase == "Succeeded" else "", **probed),
                       condition(conditions, "Ready", ready, reason, text, **probed),
                       condition(conditions, "ContainersReady", ready, reason, text, **probed),
                       condition(conditions, "PodScheduled", "True", **probed)],
        "hostIP": host_ip, "hostIPs": [{"ip": host_ip}], "podIP": ip, "podIPs": [{"ip": ip}] if ip else None,
        "startTime": old.get("startTime") or now(), "containerStatuses": statuses, "qosClass": qos_class(spec),
    }
    return {key: value for key, value in out.items() if value not in (None, "")}


def qos_class(spec):
    """Guaranteed, Burstable or BestEffort (Kubernetes: Pod Quality of Service Classes)."""
    pairs = [(dig(c, "resources", "requests", default={}), dig(c, "resources", "limits", default={})) for c in spec["containers"]]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    equal = all(limits.get(r) and requests.get(r, limits[r]) == limits[r] for requests, limits in pairs for r in ("cpu", "memory"))
    return "Guaranteed" if equal else "Burstable"


def foreign_name(name, id_, taken):
    """A pod name for a container's name: lower case, other characters "-", five characters of the id where it is taken."""
    clean_name = re.sub("-{2,}", "-", re.sub("[^a-z0-9-]", "-", name.lower())).strip("-")[:57].strip("-") or "container"
    return f"{clean_name}-{id_[:5]}" if clean_name in taken else clean_name


def from_docker_container(info, name, node):
    """The pod that a container of plain `docker run` is, named name, in namespace default; without status."""
    config, host, id_ = info["Config"], info["HostConfig"], info["Id"]
    labels = config.get("Labels") or {}
    valid = {k: v for k, v in labels.items() if not label_key_faults(k) and not name_faults("labelvalue", v)}
    other = {k: v for k, v in labels.items() if k not in valid and not label_key_faults(k)}
    ports = []
    for port in sorted(set(config.get("ExposedPorts") or ()) | set(host.get("PortBindings") or ())):
        number, _, protocol = port.partition("/")
        bound = dig(host, "PortBindings", port, default=[{}])
        ports.append({"containerPort": int(number), "protocol": (protocol or "tcp").upper(),
                      **({"hostPort": int(bound[0]["HostPort"])} if bound and bound[0].get("HostPort") else {})})
    binds = [mount for mount in info.get("Mounts") or () if mount.get("Source")]
    container = {
        "name": name[:63], "image": config["Image"], "command": config.get("Entrypoint"), "args": config.get("Cmd"),
        "workingDir": config.get("WorkingDir"), "ports": ports,
        "env": [dict(zip(("name", "value"), pair.split("=", 1))) for pair in config.get("Env") or ()],
        "resources": {"limits": {"memory": str(host["Memory"])}} if host.get("Memory") else {},
        "volumeMounts": [{"name": f"mount-{i}", "mountPath": m["Destination"], **({} if m.get("RW") else {"readOnly": True})}
                         for i, m in enumerate(binds)],
        "imagePullPolicy": "IfNotPresent", "stdin": config.get("OpenStdin"), "tty": config.get("Tty"),
    }
    policy = dig(host, "RestartPolicy", "Name", default="no")
    return {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "uid": f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:32]}",
                     "generation": 1, "creationTimestamp": engine_time(info["Created"]), **({"labels": valid} if valid else {}),
                     "annotations": {FOREIGN: info["Name"].lstrip("/"), **other}},
        "spec": {"volumes": [{"name": f"mount-{i}", "hostPath": {"path": m["Source"], "type": ""}} for i, m in enumerate(binds)],
                 "containers": [{key: value for key, value in container.items() if value or key == "resources"}],
                 "restartPolicy": {"always": "Always", "unless-stopped": "Always", "on-failure": "OnFailure"}.get(policy, "Never"),
                 "terminationGracePeriodSeconds": config.get("StopTimeout") or 10, "dnsPolicy": "Default", "nodeName": node,
                 **({"hostNetwork": True} if host.get("NetworkMode") == "host" else {}), "securityContext": {},
                 "schedulerName": "docker"},
        "status": {},
    }


# == 11. Volumes =============================================================================
# Each volume of a pod is a path of the host; most are folders under DATA/pods/UID/volumes. A container can plant symlinks
# in them, so k2d never follows one it did not make.


def pod_folder(settings, uid, *parts):
    return settings.path("pods", uid, *parts)


def data_of(obj):
    """The data of a ConfigMap or Secret as {key: bytes}; None for None."""
    if obj is None:
        return None
    if obj["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    return {**{key: value.encode() for key, value in (obj.get("data") or {}).items()},
            **{key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}}


def volume_files(kind, source, lookup):
    """The files of a configMap or secret volume: {relative path: (bytes, mode)}. Raises ConfigError."""
    name = source.get("name") or source.get("secretName", "")
    data, optional, mode = lookup(kind, name), source.get("optional"), source.get("defaultMode", 0o644)
    if data is None:
        if not optional:
            raise ConfigError(f'{kind.lower()} "{name}" not found')
        return {}
    if not source.get("items"):
        return {key: (value, mode) for key, value in data.items()}
    missing = [item["key"] for item in source["items"] if item["key"] not in data]
    if missing and not optional:
        raise ConfigError(f"references non-existent {kind.lower()} key: {missing[0]}")
    return {item["path"]: (data[item["key"]], item.get("mode", mode)) for item in source["items"] if item["key"] in data}


def project_files(folder, files, group=None):
    """Make a folder show exactly these files, all at once for its readers, as the kubelet's AtomicWriter does: files live in
    a folder of their own, "..data" points to it, each name points through "..data". Unchanged files are left alone."""
    for path in files:
        if path.startswith("/") or ".." in path.split("/") or path.startswith(".."):
            raise ConfigError(f"invalid path {path}: must be relative and without '..'")
    os.makedirs(folder, 0o755, exist_ok=True)
    present = os.path.join(folder, "..data")
    stamp = hashlib.sha256(dumps([[path, base64.b64encode(data).decode(), mode, group] for path, (data, mode)
                                  in sorted(files.items())])).hexdigest()[:16]
    target = "..k2d-" + stamp
    if os.path.islink(present) and os.readlink(present) == target:
        return
    before = os.readlink(present) if os.path.islink(present) else None
    shutil.rmtree(os.path.join(folder, target), ignore_errors=True)
    os.mkdir(os.path.join(folder, target), 0o755)
    for path, (data, mode) in files.items():
        full = os.path.join(folder, target, path)
        os.makedirs(os.path.dirname(full), 0o755, exist_ok=True)
        with open(full, "wb") as file:
            os.fchmod(file.fileno(), mode if group is None else mode | 0o040)
            if group is not None:
                os.fchown(file.fileno(), 0, group)
            file.write(data)
    os.symlink(target, present + "_tmp")
    os.replace(present + "_tmp", present)
    tops = {path.split("/")[0] for path in files}
    for name in os.listdir(folder):
        full = os.path.join(folder, name)
        if not name.startswith("..") and name not in tops and os.path.islink(full):
            os.unlink(full)
    for name in tops:
        if not os.path.lexists(os.path.join(folder, name)):
            os.symlink(os.path.join("..data", name), os.path.join(folder, name))
    if before:
        shutil.rmtree(os.path.join(folder, before), ignore_errors=True)


HOST_PATH_TYPES = {"Directory": stat.S_ISDIR, "File": stat.S_ISREG, "Socket": stat.S_ISSOCK, "CharDevice": stat.S_ISCHR,
                   "BlockDevice": stat.S_ISBLK}


def prepare_host_path(source):
    """Check or make what a hostPath volume names; returns the path. Raises ConfigError in the kubelet's words."""
    path, type_ = source["path"], source.get("type", "")
    if type_ in ("", "DirectoryOrCreate") and not os.path.lexists(path):
        os.makedirs(path, 0o755, exist_ok=True)
    elif type_ == "FileOrCreate" and not os.path.lexists(path):
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    wanted = type_.replace("OrCreate", "")
    try:
        if wanted and not HOST_PATH_TYPES[wanted](os.stat(path).st_mode):
            raise ConfigError(f"hostPath type check failed: {path} is not a {wanted.lower()}")
    except OSError:
        raise ConfigError(f"hostPath type check failed: {path} is not a {wanted.lower()}")
    return path


def prepare_volumes(pod, settings, lookup):
    """Bring all volumes of a pod up to date and return {volume name: path on the host}. Raises ConfigError, OSError."""
    sources, group = {}, dig(pod, "spec", "securityContext", "fsGroup")
    for volume in pod["spec"].get("volumes") or ():
        folder = pod_folder(settings, pod["metadata"]["uid"], "volumes", volume["name"])
        try:
            if "hostPath" in volume:
                sources[volume["name"]] = prepare_host_path(volume["hostPath"])
                continue
            sources[volume["name"]] = folder
            if "configMap" in volume:
                project_files(folder, volume_files("ConfigMap", volume["configMap"], lookup), group)
            elif "secret" in volume:
                project_files(folder, volume_files("Secret", volume["secret"], lookup), group)
            elif not os.path.isdir(folder):
                os.makedirs(folder)
                os.chmod(folder, 0o777 if group is None else 0o2777)      # makedirs would subtract our umask
                os.chown(folder, -1, -1 if group is None else group)
        except (ConfigError, OSError) as error:
            raise ConfigError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}', "ContainerCreating")
    return sources


# == 12. Network and names ===================================================================
# One flat bridge for all pods. Services are NAT rules of the kernel, names are lines in each pod's /etc/hosts: both work
# while k2d is down. DNS answers those who ask DNS alone, and what changes too often for a file.

ServicePort = namedtuple("ServicePort", "ip protocol port node_port endpoints affinity_s")    # endpoints: [(ip, port)]
HostPort = namedtuple("HostPort", "ip protocol port endpoint")                                # ip "" is every address


def service_ports(service, endpoints):
    """The ServicePorts of a Service, by its Endpoints object (or None); [] for one without a cluster IP."""
    spec, out = service["spec"], []
    if spec.get("clusterIP") in (None, "", "None"):
        return out
    affinity = spec.get("sessionAffinity") == "ClientIP" and dig(spec, "sessionAffinityConfig", "clientIP", "timeoutSeconds", default=10800)
    for port in spec.get("ports") or ():
        ready = [(address["ip"], found["port"]) for subset in (endpoints or {}).get("subsets") or ()
                 for found in subset.get("ports") or () if found.get("name", "") == port.get("name", "")
                 for address in subset.get("addresses") or ()]
        out.append(ServicePort(spec["clusterIP"], port.get("protocol", "TCP").lower(), port["port"], port.get("nodePort"),
                               sorted(ready), affinity or None))
    return out


def balance(match, endpoints, affinity_s, tag):
    """iptables rules that send what matches to one of the endpoints, each as likely as the others."""
    rules = []
    for i, (ip, port) in enumerate(endpoints if affinity_s else ()):
        rules.append(f"{match} -m recent --name {tag}-{ip} --rcheck --seconds {affinity_s} --reap --rsource "
                     f"-j DNAT --to-destination {ip}:{port}")
    for i, (ip, port) in enumerate(endpoints):
        left = len(endpoints) - i
        chance = f" -m statistic --mode random --probability {1 / left:.8f}" if left > 1 else ""
        remember = f" -m recent --name {tag}-{ip} --set --rsource" if affinity_s else ""
        rules.append(f"{match}{chance}{remember} -j DNAT --to-destination {ip}:{port}")
    return rules


def nat_rules(settings, services, host_ports, bridge_netfilter):
    """The text for `iptables-restore --noflush`: our chains, whole, so that they are replaced at one moment.

    NAME-SVC   cluster addresses, asked by pods and by the host itself      NAME-PORT  node ports and host ports
    NAME-MASQ  where a reply would not come back by the way it was NATed    NAME-FWD   what the engine's rules would drop
    NAME-REJ   Service addresses and node ports without a ready endpoint: refused at once, not lost on the default route
    """
    p, bridge, local = settings.network.upper(), settings.network, "-m addrtype --dst-type LOCAL"
    svc, ports, refused, pod_ips = [], [], [], set()
    for s in services:
        match = f"-A {p}-SVC -d {s.ip}/32 -p {s.protocol} -m {s.protocol} --dport {s.port}"
        svc += balance(match, s.endpoints, s.affinity_s, f"{p}-{s.protocol}-{s.port}")
        if s.node_port:
            match = f"-p {s.protocol} -m {s.protocol} --dport {s.node_port}"
            ports += balance(f"-A {p}-PORT {match}", s.endpoints, s.affinity_s, f"{p}-{s.protocol}-{s.node_port}")
            refused += [] if s.endpoints else [f"-A {p}-REJ {local} {match} -j REJECT"]
        pod_ips.update(ip for ip, _ in s.endpoints if ipaddress.IPv4Address(ip) in settings.pod_cidr)
    for h in host_ports:
        where = f"-d {h.ip}/32 " if h.ip not in ("", "0.0.0.0") else ""
        ports.append(f"-A {p}-PORT {where}-p {h.protocol} -m {h.protocol} --dport {h.port} -j DNAT --to-destination {h.endpoint[0]}:{h.endpoint[1]}")
        pod_ips.add(h.endpoint[0])
    # With br_netfilter a reply between two pods passes our NAT even inside the bridge; only a pod that reaches itself needs
    # another source. Without it such a reply would go straight to the other pod, so every DNATed packet needs one.
    masquerade = ([f"-A {p}-MASQ -s {ip}/32 -d {ip}/32 -j MASQUERADE" for ip in sorted(pod_ips)] if bridge_netfilter else
                  [f"-A {p}-MASQ -s {settings.pod_cidr} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE"])
    nat = [f":{p}-SVC - [0:0]", f":{p}-PORT - [0:0]", f":{p}-MASQ - [0:0]", *svc, *ports,
           f"-A {p}-MASQ -s 127.0.0.0/8 -o {bridge} -j MASQUERADE", *masquerade]
    filters = [f":{p}-FWD - [0:0]", f":{p}-REJ - [0:0]",
               f"-A {p}-FWD -o {bridge} -m conntrack --ctstate DNAT -j ACCEPT",
               f"-A {p}-FWD -i {bridge} -m conntrack --ctstate DNAT -j ACCEPT",
               # route_localnet lets 127.0.0.1 be NATed to pods; nobody else may pretend to be it, or reach it
               f"-A {p}-REJ -i {bridge} -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
               f"-A {p}-REJ -d {settings.service_cidr} -j REJECT", *refused]
    return "\n".join(["*nat", *nat, "COMMIT", "*filter", *filters, "COMMIT", ""])


def jumps(settings, has_docker_user):
    """(table, chain, arguments) of the rules by which the kernel's own chains come to ours."""
    p, bridge, local = settings.network.upper(), settings.network, "-m addrtype --dst-type LOCAL"
    return [
        ("nat", "PREROUTING", f"-i {bridge} -d {settings.service_cidr} -j {p}-SVC"), ("nat", "PREROUTING", f"{local} -j {p}-PORT"),
        ("nat", "OUTPUT", f"-d {settings.service_cidr} -j {p}-SVC"), ("nat", "OUTPUT", f"{local} -j {p}-PORT"),
        ("nat", "POSTROUTING", f"-j {p}-MASQ"),
        ("filter", "DOCKER-USER" if has_docker_user else "FORWARD", f"-j {p}-FWD"),
        ("filter", "INPUT", f"-j {p}-REJ"), ("filter", "OUTPUT", f"-j {p}-REJ"), ("filter", "FORWARD", f"-j {p}-REJ"),
    ]


def iptables(*args, stdin=b""):
    """Run iptables, iptables-save or iptables-restore; raises OSError with its words."""
    code, output = run(args[0], *(["-w"] if args[0] != "iptables-save" else []), *args[1:], stdin=stdin)
    if code:
        raise OSError(f"{' '.join(args)}: {output.decode('utf-8', 'replace').strip()}")
    return output.decode()


def write_text(path, text):
    with open(path, "w") as file:
        file.write(text)


class Network:
    """The bridge, its routes and NAT rules. Called by the controller thread, except where a method says otherwise."""

    def __init__(self, settings, engine, store):
        self.settings, self.engine, self.store = settings, engine, store
        self.applied, self.problem, self.dns_port = None, "", 0
        self.lock = threading.Lock()                # held while addresses are chosen; never across I/O
        self.last_ip = 0

    def bridge_netfilter(self):
        try:
            with open("/proc/sys/net/bridge/bridge-nf-call-iptables") as file:
                return file.read().strip() == "1"
        except OSError:
            return False

    def check_overlap(self):
        """Refuse to start over a route of the host: its machines would become unreachable."""
        with open("/proc/net/route") as file:
            routes = [line.split() for line in file.readlines()[1:]]
        for interface, destination, *_, mask in ((r[0], r[1], r[7]) for r in routes):
            if interface in (self.settings.network, "lo") or mask == "00000000":
                continue
            bits = bin(int(mask, 16)).count("1")
            network = ipaddress.IPv4Network((struct.pack("<I", int(destination, 16)), bits), strict=False)
            for flag in ("pod_cidr", "service_cidr"):
                if getattr(self.settings, flag).overlaps(network):
                    raise SystemExit(f"k2d: --{flag.replace('_', '-')} {getattr(self.settings, flag)} overlaps with the route to {network} "
                                     f"on {interface}; choose another range, such as 172.30.0.0/16")

    def ensure(self):
        """Make the engine's network, the routes and the jumps where they are missing. Raises EngineError."""
        s = self.settings
        try:
            info = self.engine.get("/networks/" + s.network)
            subnets = [config.get("Subnet") for config in dig(info, "IPAM", "Config", default=[])]
            if str(s.pod_cidr) not in subnets:
                raise SystemExit(f"k2d: the engine's network {s.network} has {', '.join(subnets)}, not {s.pod_cidr}: choose that by "
                                 "--pod-cidr, another --network, or remove it")
        except EngineError as error:
            if error.status != 404:
                raise
            self.engine.post("/networks/create", {
                "Name": s.network, "Driver": "bridge", "CheckDuplicate": True,
                "IPAM": {"Config": [{"Subnet": str(s.pod_cidr), "IPRange": s.engine_range, "Gateway": s.gateway}]},
                "Options": {"com.docker.network.bridge.name": s.network}})
        try:
            write_text(f"/proc/sys/net/ipv4/conf/{s.network}/route_localnet", "1")
            code, output = run("ip", "route", "replace", str(s.service_cidr), "dev", "lo", "src", s.gateway)
            if code:
                raise OSError(f"ip route: {output.decode().strip()}")
            self.applied = None
            self.apply(nat_rules(s, [], [], True) if f":{s.network.upper()}-SVC" not in iptables("iptables-save") else None)
            has_docker_user = run("iptables", "-w", "-n", "-L", "DOCKER-USER")[0] == 0
            for table, chain, arguments in jumps(s, has_docker_user):
                if run("iptables", "-w", "-t", table, "-C", chain, *arguments.split())[0]:
                    iptables("iptables", "-t", table, "-I", chain, *arguments.split())
            self.problem = ""
        except OSError as error:
            if str(error) != self.problem:
                log(f"Services have no addresses, names give pod addresses: {error}")
            self.problem = str(error)

    def apply(self, text):
        if text and text != self.applied:
            iptables("iptables-restore", "--noflush", stdin=text.encode())
            self.applied = text

    def sync(self):
        """Bring the NAT rules in line with the present Services, endpoints and pods."""
        if self.problem:
            return
        s, services, host_ports = self.settings, [], []
        for service in self.store.list("Service"):
            meta = service["metadata"]
            services += service_ports(service, self.store.get("Endpoints", meta["namespace"], meta["name"]))
        for protocol in ("udp", "tcp"):
            services.append(ServicePort(s.dns_ip, protocol, 53, None, [(s.gateway, self.dns_port)], None))
            services.append(ServicePort(s.upstream_ip, protocol, 53, None, upstream_resolver(), None))
        for pod in self.store.list("Pod", holding=b'"hostPort"'):
            if FOREIGN in pod["metadata"].get("annotations", {}) or pod["spec"].get("hostNetwork"):
                continue                                      # the engine published those itself
            for port in [port for c in pod["spec"]["containers"] for port in c.get("ports") or ()]:
                if port.get("hostPort") and dig(pod, "status", "podIP") and dig(pod, "status", "phase") == "Running":
                    host_ports.append(HostPort(port.get("hostIP", ""), port.get("protocol", "TCP").lower(), port["hostPort"],
                                               (pod["status"]["podIP"], port["containerPort"])))
        try:
            self.apply(nat_rules(s, services, sorted(host_ports), self.bridge_netfilter()))
        except OSError as error:
            log(str(error))
            raise

    def set_hairpin(self):
        """Let a pod reach itself by its own Service where br_netfilter is on: its frame must leave by the port it came in.
        Any thread."""
        ports = f"/sys/class/net/{self.settings.network}/brif"
        for port in os.listdir(ports) if os.path.isdir(ports) else ():
            try:
                path = f"{ports}/{port}/hairpin_mode"
                with open(path) as file:
                    if file.read(1) == "1":
                        continue
                write_text(path, "1")
            except OSError:                           # the container went away meanwhile
                continue

    def allocate(self):
        """A free pod address, in turn, so that a freed one rests. Any thread; the caller's transaction stores it."""
        s = self.settings
        taken = {dig(json.loads(row.raw), "status", "podIP") for row in
                 [self.store.row("Pod", key) for key in self.store.keys("Pod")] if row and b'"podIP"' in row.raw}
        size = s.pod_cidr.num_addresses - 256 - 2                 # without gateway, and the engine's own last /24
        with self.lock:
            if not self.last_ip:
                known = [int(ipaddress.IPv4Address(ip)) - int(s.pod_cidr[0]) for ip in taken if ip]
                self.last_ip = max([n for n in known if 0 < n <= size] or [1])
            for _ in range(size):
                self.last_ip = self.last_ip + 1 if self.last_ip < size else 2
                if str(s.pod_cidr[self.last_ip]) not in taken:
                    return str(s.pod_cidr[self.last_ip])
        raise ConfigError("no pod address is free in " + str(s.pod_cidr))

    def remove(self):
        """Take away chains, jumps, route and the engine's network (for `k2d.py reset`)."""
        p = self.settings.network.upper()
        for table, names in (("nat", ("SVC", "PORT", "MASQ")), ("filter", ("FWD", "REJ"))):
            for line in run("iptables-save", "-t", table)[1].decode().split("\n"):
                if line.startswith("-A") and re.search(rf"-j {p}-({'|'.join(names)})$", line):
                    run("iptables", "-w", "-t", table, "-D", *line.split()[1:])
            for name in names:
                run("iptables", "-w", "-t", table, "-F", f"{p}-{name}")
                run("iptables", "-w", "-t", table, "-X", f"{p}-{name}")
        run("ip", "route", "del", str(self.settings.service_cidr), "dev", "lo")
        try:
            self.engine.request("DELETE", "/networks/" + self.settings.network)
        except EngineError as error:
            if error.status != 404:
                log(str(error))


def upstream_resolver():
    """[(address, 53)] of the host's own resolver, [] if it has none."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            with open(path) as file:
                found = re.findall(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", file.read(), re.M)
        except OSError:
            continue
        outside = [address for address in found if not address.startswith("127.")]
        if outside or found and path.startswith("/run"):
            return [((outside or found)[0], 53)]
    return []


# -- names in files: /etc/hosts of each pod


def hosts_text(pod, services):
    """What a pod's /etc/hosts says. services: [(name, namespace, address)] of all Services with an address."""
    meta, spec = pod["metadata"], pod["spec"]
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback",
             "fe00::0\tip6-localnet", "fe00::0\tip6-mcastprefix", "fe00::1\tip6-allnodes", "fe00::2\tip6-allrouters",
             f"{dig(pod, 'status', 'podIP', default='127.0.1.1')}\t{(spec.get('hostname') or meta['name'])[:63].rstrip('-.')}"]
    for alias in spec.get("hostAliases") or ():
        lines.append(f"{alias['ip']}\t{' '.join(alias.get('hostnames') or ())}")
    if spec.get("dnsPolicy") not in ("Default", "None"):
        for name, namespace, address in services:
            short = [name] if namespace == meta["namespace"] else []
            full = f"{name}.{namespace}.svc"
            lines.append("\t".join([address, " ".join([f"{full}.{CLUSTER_DOMAIN}", full, f"{name}.{namespace}", *short])]))
    return "\n".join(lines) + "\n"


def write_in_place(path, text):
    """Change a file that is mounted into a container, which must stay the same inode: one write, padded with newlines so
    that it never shrinks and no reader sees half of it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
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


def read_question(data):
    """(id, flags, name, type, end of the question) of a DNS query. Raises ValueError."""
    if len(data) < 17:
        raise ValueError("too short")
    id_, flags, questions = struct.unpack_from("!HHH", data)
    labels, at = [], 12
    while data[at]:
        size = data[at]
        if size > 63 or at + size + 1 >= len(data):
            raise ValueError("bad label")
        labels.append(data[at + 1:at + 1 + size].decode("ascii", "replace"))
        at += size + 1
    if questions != 1 or flags & 0x8000 or at + 5 > len(data):
        raise ValueError("not one question")
    return id_, flags, ".".join(labels).lower(), struct.unpack_from("!H", data, at + 1)[0], at + 5


def answer_dns(data, resolve, limit=512):
    """The answer to one query, or None if it is none. resolve(name, type) -> (rcode, [(name, type, rdata)])."""
    try:
        id_, flags, name, type_, end = read_question(data)
    except (ValueError, IndexError):
        return None
    code, records = resolve(name, type_)
    answers = b"".join(dns_name(owner) + struct.pack("!HHIH", kind, 1, 5, len(rdata)) + rdata for owner, kind, rdata in records)
    if struct.unpack_from("!H", data, 10)[0] and limit == 512:
        limit = 1232                                          # an additional record: the client speaks EDNS
    count, truncated = len(records), 0
    if 12 + end - 12 + len(answers) > limit:
        answers, count, truncated = b"", 0, 0x0200            # ask again by TCP
    head = struct.pack("!HHHHHH", id_, 0x8400 | truncated | flags & 0x0100 | code, 1, count, 0, 0)
    return head + data[12:end] + answers


class Names:
    """What names mean, by the store: for DNS and for the hosts files. Any thread."""

    def __init__(self, settings, store):
        self.settings, self.store = settings, store
        self.known = None                                     # [(name, namespace, address)] until a Service changes

    def services(self):
        if self.known is None:
            self.known = [(s["metadata"]["name"], s["metadata"]["namespace"], s["spec"]["clusterIP"])
                          for s in self.store.list("Service") if s["spec"].get("clusterIP") not in (None, "", "None")]
        return self.known

    def write_hosts(self, pod):
        path = pod_folder(self.settings, pod["metadata"]["uid"], "etc-hosts")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_in_place(path, hosts_text(pod, self.services()))
        return path

    def resolve(self, name, type_):
        """(rcode, records) for answer_dns; REFUSED makes the engine's resolver ask the host's."""
        if name.endswith(".in-addr.arpa"):
            return self.reverse(name)
        ours = name.endswith("." + CLUSTER_DOMAIN) or name == CLUSTER_DOMAIN
        parts = name[:-len(CLUSTER_DOMAIN) - 1].split(".") if ours else name.split(".")
        if not ours and parts[-1] != "svc":
            parts.append("svc")                               # "web.default": a short form, see dns_options
        records = self.records(parts, name) if len(parts) > 2 else None
        if records is None:
            return (NO_ERROR if parts in (["svc"], ["svc", "svc"]) or name == CLUSTER_DOMAIN else NAME_ERROR) if ours else REFUSED, []
        return NO_ERROR, [r for r in records if r[1] in (type_, DNS_TYPES["CNAME"]) or type_ == DNS_TYPES["ANY"]]

    def records(self, parts, name):
        """The records of PARTS under the cluster's domain, None if there is no such name."""
        address = lambda owner, ip: (owner, DNS_TYPES["A"], socket.inet_aton(ip))
        *front, service_name, namespace, what = parts
        if what == "pod" and not front:
            ip = service_name.replace("-", ".")
            return [address(name, ip)] if re.fullmatch(r"\d+(\.\d+){3}", ip) else None
        service = self.store.get("Service", namespace, service_name) if what == "svc" else None
        if not service:
            return None
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return None if front else [(name, DNS_TYPES["CNAME"], dns_name(spec["externalName"]))]
        subsets = (self.store.get("Endpoints", namespace, service_name) or {}).get("subsets") or []
        headless = spec.get("clusterIP") == "None"
        hosts = [(a.get("hostname") or a["ip"].replace(".", "-"), a["ip"], subset) for subset in subsets
                 for a in (subset.get("addresses") or []) + ((subset.get("notReadyAddresses") or [])
                                                             if spec.get("publishNotReadyAddresses") else [])]
        base = f"{service_name}.{namespace}.svc.{CLUSTER_DOMAIN}"
        if not front:
            return [address(name, ip) for _, ip, _ in hosts] if headless else [address(name, spec["clusterIP"])]
        if len(front) == 1:
            return [address(name, ip) for host, ip, _ in hosts if host == front[0]] or None
        if len(front) == 2 and front[0].startswith("_") and front[1].startswith("_"):
            def srv(port, target):
                return name, DNS_TYPES["SRV"], struct.pack("!HHH", 0, 100, port) + dns_name(target)
            wanted = front[0][1:], front[1][1:].upper()
            if not headless:
                return [srv(p["port"], base) for p in spec.get("ports") or () if (p.get("name"), p["protocol"]) == wanted] or None
            return [srv(p["port"], f"{host}.{base}") for host, _, subset in hosts for p in subset.get("ports") or ()
                    if (p.get("name"), p.get("protocol", "TCP")) == wanted] or None
        return None

    def reverse(self, name):
        ip = ".".join(reversed(name[:-len(".in-addr.arpa")].split(".")))
        try:
            address = ipaddress.IPv4Address(ip)
        except ValueError:
            return REFUSED, []
        if address not in self.settings.pod_cidr and address not in self.settings.service_cidr:
            return REFUSED, []
        for service, namespace, found in self.services():
            if found == ip:
                return NO_ERROR, [(name, DNS_TYPES["PTR"], dns_name(f"{service}.{namespace}.svc.{CLUSTER_DOMAIN}"))]
        for endpoints in self.store.list("Endpoints", holding=b'"%s"' % ip.encode()):
            meta = endpoints["metadata"]
            service = self.store.get("Service", meta["namespace"], meta["name"])
            if service and service["spec"].get("clusterIP") == "None":
                host = next((a.get("hostname") for s in endpoints.get("subsets") or () for a in s.get("addresses") or () if a["ip"] == ip), None)
                return NO_ERROR, [(name, DNS_TYPES["PTR"], dns_name(f"{host or ip.replace('.', '-')}.{meta['name']}.{meta['namespace']}.svc.{CLUSTER_DOMAIN}"))]
        return NAME_ERROR, []


# == 13. Pod worker ==========================================================================
# Makes the engine's containers what the pods say, and the pods' statuses what the engine says. Everything is decided from
# what is there: a pass can be cut off between any two engine calls, and the next one goes on.


class WorkQueue:
    """Keys to work on, each once however often it was added, by at most so many threads that live only while there is
    work. A key is worked on by one thread at a time. Failures come back after a growing pause."""

    def __init__(self, name, work, threads, hub):
        self.name, self.work, self.threads, self.hub = name, work, threads, hub
        self.lock = threading.Lock()               # guards what follows; never held while working
        self.waiting, self.again, self.busy, self.failures, self.alive, self.closed = {}, set(), set(), {}, 0, False

    def add(self, key):
        with self.lock:
            if key in self.busy:
                self.again.add(key)
            elif not self.closed:
                self.waiting[key] = None
                if self.alive < min(self.threads, len(self.waiting) + len(self.busy)):
                    self.alive += 1
                    threading.Thread(target=self.loop, name=self.name, daemon=True).start()

    def add_after(self, seconds, key):
        self.hub.after(max(0, seconds), self.add, key)

    def loop(self):
        while True:
            with self.lock:
                if not self.waiting or self.closed:
                    self.alive -= 1
                    return
                key = next(iter(self.waiting))      # in the order they came
                del self.waiting[key]
                self.busy.add(key)
            failed = True
            try:
                self.work(key)
                failed = False
            except (EngineError, ApiError) as error:
                log(f"{' '.join(map(str, key))}: {error}")
            except Exception:                       # one object's failure must not stop the others; it is tried again
                import traceback
                log(f"{' '.join(map(str, key))}: {traceback.format_exc()}")
            with self.lock:
                self.busy.discard(key)
                again = key in self.again
                self.again.discard(key)
                count = self.failures[key] = self.failures.get(key, 0) + 1 if failed else 0
                if not failed:
                    del self.failures[key]
            if again and not failed:
                self.add(key)
            elif failed:
                self.add_after(min(0.5 * 2 ** min(count, 8), 60), key)

    def close(self):
        """Take no more work and wait, not long, for what is under way."""
        self.closed = True
        deadline = time.monotonic() + 5
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.02)


BACKOFF_S, BACKOFF_MAX_S = 10, 300          # the kubelet's, for pulls and for starts that fail
EVENT_ACTIONS = ("create", "start", "die", "destroy", "rename", "pause", "unpause", "oom")


class Pods:
    """The worker: reconcile(key) is one pass over one pod, key (namespace, name); ("", id) is a container that nobody has
    looked at yet, ("!gone", uid) a pod that was deleted by force and whose containers may still be there."""

    def __init__(self, k2d):
        self.k2d, self.settings, self.engine, self.store = k2d, k2d.settings, k2d.engine, k2d.store
        self.queue = WorkQueue("pods", self.reconcile, 4, k2d.hub)
        self.lock = threading.Lock()            # guards the dicts below; never held across I/O
        self.found = {}                         # uid -> {container: Found}
        self.keys = {}                          # uid -> pod key, of every stored pod
        self.foreign = {}                       # container id -> pod key, of containers that are not ours
        self.stale = {}                         # key -> ids to inspect before the next pass
        self.exits = {}                         # id -> (exit code, time) of a `die` not yet digested
        self.destroyed, self.removing = set(), set()        # ids: gone by an event; being removed by us
        self.problems, self.tries, self.not_before = {}, {}, {}     # uid -> (reason, text) | count | monotonic time
        self.stopping = set()                   # ids that were told to stop
        self.known = False                      # whether the engine has been listed: without it, absence means nothing

    # -- what the engine tells

    def on_event(self, event):
        """One event of the engine. The hub's thread: only notes what to look at."""
        id_, action = dig(event, "Actor", "ID") or event.get("id"), event.get("Action", "")
        attributes = dig(event, "Actor", "Attributes", default={})
        uid = attributes.get(POD_UID)
        with self.lock:
            if uid in self.keys:
                if action == "create":
                    return
                key = self.keys[uid]
            else:
                key = self.foreign.get(id_, ("", id_))
            if action == "die":
                self.exits[id_] = int(attributes.get("exitCode") or attributes.get("containerExitCode") or 0), event.get("timeNano", 0)
            if action == "destroy":
                self.destroyed.add(id_)
            self.stale.setdefault(key, set()).add(id_)
        self.queue.add(key)

    def list_all(self):
        """Look at every container anew: at start, and after the event stream was cut."""
        listed = self.engine.get("/containers/json?all=1")
        with self.lock:
            present = {info["Id"] for info in listed}
            for uid, containers in list(self.found.items()):
                self.found[uid] = {name: f for name, f in containers.items() if f.id in present}
            keys = set(self.keys.values())
            for info in listed:
                uid = (info.get("Labels") or {}).get(POD_UID)
                key = self.keys.get(uid) or self.foreign.get(info["Id"], ("", info["Id"]))
                self.stale.setdefault(key, set()).add(info["Id"])
                keys.add(key)
            for id_, key in list(self.foreign.items()):
                if id_ not in present:
                    self.stale.setdefault(key, set()).add(id_)
            ours = {pod_foreign_id(pod): key for key, pod in self.foreign_pods().items()}
            for id_, key in ours.items():
                if id_ not in {known[:32] for known in present}:      # removed while k2d was down
                    self.stale.setdefault(key, set()).add(id_)
                    self.foreign[id_] = key
            self.known = True
        for key in sorted(keys | set(self.stale)):
            self.queue.add(key)

    def foreign_pods(self):
        return {(p["metadata"]["namespace"], p["metadata"]["name"]): p
                for p in self.store.list("Pod", "default", holding=FOREIGN.encode())}

    def inspect(self, id_):
        try:
            return self.engine.get(f"/containers/{id_}/json")
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def refresh(self, key):
        """Inspect what events named for this key; returns whether a container of ours vanished that we did not remove."""
        with self.lock:
            ids = self.stale.pop(key, set())
        vanished = False
        try:
            for id_ in sorted(ids):
                vanished |= self.refresh_one(key, id_)
                ids = ids - {id_}
        finally:
            with self.lock:
                if ids:                                    # the engine went away in the middle: still to be done
                    self.stale.setdefault(key, set()).update(ids)
        return vanished

    def refresh_one(self, key, id_):
        info = self.inspect(id_)
        with self.lock:
            destroyed, exit_ = id_ in self.destroyed, self.exits.pop(id_, None)
            if info is None:
                self.destroyed.discard(id_)
                self.stopping.discard(id_)
                ours = [(uid, name) for uid, containers in self.found.items() for name, f in containers.items() if f.id == id_]
                for uid, name in ours:
                    del self.found[uid][name]
                seen_live = destroyed and id_ not in self.removing
                self.removing.discard(id_)
                return seen_live and bool(ours)
            uid = (info["Config"].get("Labels") or {}).get(POD_UID)
            before = self.found.get(uid, {}).get((info["Config"].get("Labels") or {}).get(CONTAINER_NAME))
        if uid not in self.keys:
            self.adopt(key, info, exit_)
            return False
        self.note(uid, digest(info, before, exit_))
        return False

    def note(self, uid, found):
        with self.lock:
            if uid in self.keys:
                self.found.setdefault(uid, {})[found.container] = found
        if found.running:
            with self.lock:
                self.problems.pop(uid, None)
            if self.k2d.network.bridge_netfilter():
                self.k2d.network.set_hairpin()
        elif found.state == "restarting":
            pod = self.pod_of(uid)
            if pod:
                self.k2d.event(pod, "Warning", "BackOff", f"Back-off restarting failed container {found.container} in pod "
                               f"{pod['metadata']['name']}_{pod['metadata']['namespace']}({uid})", container=found.container)

    def pod_of(self, uid):
        key = self.keys.get(uid)
        pod = self.store.get("Pod", *key) if key else None
        return pod if pod and pod["metadata"]["uid"] == uid else None

    def adopt(self, key, info, exit_):
        """Show a container that is not ours as a pod of namespace default, or bring that pod up to date."""
        id_ = info["Id"]
        with self.store.transaction():
            present = self.foreign_pods()
            found = {pod_foreign_id(pod): (key, pod) for key, pod in present.items()}
            key, old = found.get(id_[:32], (None, None))
            taken = {name for namespace, name in self.store.keys("Pod", "default")} - {key[1] if key else ""}
            name = key[1] if key else foreign_name(info["Name"].lstrip("/"), id_, taken)
            pod = from_docker_container(info, name, self.settings.node)
            if old:                                          # what clients wrote to its metadata stays
                pod["metadata"] = {**old["metadata"], "annotations": {**old["metadata"].get("annotations", {}),
                                                                      FOREIGN: info["Name"].lstrip("/")}}
                pod["status"] = old.get("status", {})
            uid, container = pod["metadata"]["uid"], pod["spec"]["containers"][0]["name"]
            latest = digest(info, self.found.get(uid, {}).get(container), exit_)
            latest.container, latest.uid = container, uid
            with self.lock:
                self.foreign[id_] = "default", name
                self.found[uid] = {container: latest}
                self.keys[uid] = "default", name
            pod["status"] = pod_status(pod, self.found[uid], {}, self.settings.host_ip)
            self.store.put(KIND["Pod"], pod)

    # -- one pass

    def reconcile(self, key):
        if not self.known:
            return
        if key[0] == "!gone":
            return self.remove_leftovers(key[1])
        vanished = self.refresh(key)
        pod = self.store.get("Pod", *key) if key[0] else None
        if not pod:
            return
        uid = pod["metadata"]["uid"]
        foreign = FOREIGN in pod["metadata"].get("annotations", {})
        found = self.found.get(uid, {})
        if foreign and not found or vanished and not pod["metadata"].get("deletionTimestamp"):
            return self.forget(pod, KIND["Pod"])              # `docker rm`, seen live: as if the pod had been deleted
        if pod["metadata"].get("deletionTimestamp"):
            self.terminate(pod, found)
        elif not foreign and pod["spec"].get("nodeName") == self.settings.node and dig(pod, "status", "phase") not in ("Succeeded", "Failed"):
            self.bring_up(pod, found)
        self.publish(key, uid)

    def publish(self, key, uid):
        """Write the status that follows from what was found and what went wrong."""
        with self.store.transaction():
            pod = self.store.get("Pod", *key)
            if not pod or pod["metadata"]["uid"] != uid or dig(pod, "status", "phase") in ("Succeeded", "Failed") or not pod["spec"].get("nodeName"):
                return
            problems = {c["name"]: self.problems[uid] for c in pod["spec"]["containers"]} if uid in self.problems else {}
            pod["status"] = pod_status(pod, self.found.get(uid, {}), problems, self.settings.host_ip)
            self.store.put(KIND["Pod"], pod)

    def bring_up(self, pod, found):
        uid = pod["metadata"]["uid"]
        for container in pod["spec"]["containers"]:
            here = found.get(container["name"])
            if here and here.state != "created":
                if self.changed_sources(pod):
                    prepare_volumes(pod, self.settings, self.lookup(pod))
                continue                                        # it runs, or the engine restarts it, or somebody stopped it
            wait = self.not_before.get(uid, 0) - time.monotonic()
            if wait > 0:
                if self.problems.get(uid, ("",))[0] == "ErrImagePull":
                    self.problems[uid] = "ImagePullBackOff", f'Back-off pulling image "{container["image"]}": {self.problems[uid][1]}'
                    self.k2d.event(pod, "Normal", "BackOff", f'Back-off pulling image "{container["image"]}"', container=container["name"])
                    self.k2d.event(pod, "Warning", "Failed", "Error: ImagePullBackOff", container=container["name"])
                continue
            try:
                self.start(pod, container, here.id if here else self.create(pod, container))
                self.problems.pop(uid, None)
                self.tries.pop(uid, None)
                self.not_before.pop(uid, None)
            except ConfigError as error:
                self.fail(pod, container, error.reason, str(error))

    def changed_sources(self, pod):
        return any("configMap" in volume or "secret" in volume for volume in pod["spec"].get("volumes") or ())

    def fail(self, pod, container, reason, text):
        """Note why a container does not run, tell it as an event, and come back: after a pause, or when its cause changes."""
        uid, key = pod["metadata"]["uid"], (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.problems[uid] = reason, "" if reason == "ContainerCreating" else text
        if reason == "ContainerCreating":
            self.k2d.event(pod, "Warning", "FailedMount", text)
        elif reason != "ErrImagePull":
            self.k2d.event(pod, "Warning", "Failed", f"Error: {text}", container=container["name"])
        if reason in ("CreateContainerConfigError", "ContainerCreating") and "not found" in text:
            return                                              # the missing object's arrival wakes us
        tries = self.tries[uid] = self.tries.get(uid, 0) + 1
        pause = min(BACKOFF_S * 2 ** (tries - 1), BACKOFF_MAX_S)
        self.not_before[uid] = time.monotonic() + pause
        self.queue.add_after(pause + 0.05, key)
        if reason == "ErrImagePull":
            self.queue.add_after(2, key)                        # time to see the error before it becomes a back-off

    def lookup(self, pod):
        namespace = pod["metadata"]["namespace"]
        return lambda kind, name: data_of(self.store.get(kind, namespace, name))

    def create(self, pod, container):
        """Create the container of a pod, pulling its image if need be; returns its id. Raises ConfigError, EngineGone."""
        image, policy = container["image"], container.get("imagePullPolicy", "IfNotPresent")
        tell = lambda type_, reason, text: self.k2d.event(pod, type_, reason, text, container=container["name"])
        sources = {**prepare_volumes(pod, self.settings, self.lookup(pod)), "etc-hosts": self.k2d.names.write_hosts(pod)}
        cluster = {"KUBERNETES_SERVICE_HOST": self.settings.kubernetes_ip, "KUBERNETES_SERVICE_PORT": "443"}
        env = environment(pod, container, self.lookup(pod), self.settings.host_ip, self.k2d.capacity, cluster)
        body = to_docker_container(pod, container, env, sources, self.settings)
        if policy == "Always":
            self.pull(image, tell)
        path = "/containers/create?name=" + urllib.parse.quote(container_name(pod, container["name"]))
        for attempt in ("as it is", "pulled"):
            try:
                self.check_user(pod, container)
                id_ = self.engine.post(path, body)["Id"]
                break
            except EngineGone:
                raise
            except EngineError as error:
                if error.status == 404 and "image" in str(error).lower() and attempt == "as it is":
                    if policy == "Never":
                        raise ConfigError(f'Container image "{image}" is not present with pull policy of Never', "ErrImageNeverPull")
                    self.pull(image, tell)
                elif error.status == 409:
                    return self.same_name(pod, container)
                elif "invalid reference format" in str(error):
                    raise ConfigError(f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": '
                                      "invalid reference format", "InvalidImageName")
                else:
                    raise ConfigError(str(error), "CreateContainerError")
        if policy != "Always" and attempt == "as it is":
            tell("Normal", "Pulled", f'Container image "{image}" already present on machine')
        tell("Normal", "Created", "Container created")
        return id_

    def check_user(self, pod, container):
        """runAsNonRoot without runAsUser asks the image who it runs as. Raises ConfigError, EngineError."""
        both = {**dig(pod, "spec", "securityContext", default={}), **(container.get("securityContext") or {})}
        if both.get("runAsNonRoot"):
            user = both.get("runAsUser")
            if user is None:
                config = self.engine.get(f"/images/{urllib.parse.quote(container['image'])}/json").get("Config") or {}
                user = (config.get("User") or "0").partition(":")[0]
            if str(user) in ("0", "root"):
                raise ConfigError("container has runAsNonRoot and image will run as root")

    def pull(self, image, tell):
        tell("Normal", "Pulling", f'Pulling image "{image}"')
        began = time.monotonic()
        try:
            self.engine.pull(image)
        except EngineError as error:
            tell("Warning", "Failed", f'Failed to pull image "{image}": {error}')
            tell("Warning", "Failed", "Error: ErrImagePull")
            raise ConfigError(str(error), "ErrImagePull")
        size = (self.engine.get(f"/images/{urllib.parse.quote(image)}/json") or {}).get("Size", 0)
        took = f"{time.monotonic() - began:.3g}s"
        tell("Normal", "Pulled", f'Successfully pulled image "{image}" in {took} ({took} including waiting). Image size: {size} bytes.')

    def same_name(self, pod, container):
        """The name is taken: by a container of this very pod (an earlier pass was cut off), or by one that must go first."""
        info = self.inspect(container_name(pod, container["name"]))
        uid = dig(info, "Config", "Labels", POD_UID)
        if info and uid == pod["metadata"]["uid"]:
            return info["Id"]
        if info and uid and (uid in self.keys or self.store.gone(uid)):
            self.queue.add_after(1, (pod["metadata"]["namespace"], pod["metadata"]["name"]))
            raise ConfigError("the container of a deleted pod of this name is being removed", "ContainerCreating")
        raise ConfigError(f"the container name {container_name(pod, container['name'])} is in use by a container that is not this "
                          "pod's; rename or remove it", "CreateContainerError")

    def start(self, pod, container, id_):
        try:
            self.engine.post(f"/containers/{id_}/start")
            self.k2d.event(pod, "Normal", "Started", "Container started", container=container["name"])
        except EngineGone:
            raise
        except EngineError as error:
            if "Address already in use" in str(error):
                self.move(pod, id_)
            info = self.inspect(id_)
            if info:
                self.note(pod["metadata"]["uid"], digest(info, None, None))
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
        try:
            self.engine.request("DELETE", f"/containers/{id_}?force=1&v=1")
        except EngineError as error:
            if error.status not in (404, 409):                # 409: its removal is under way already
                raise

    def terminate(self, pod, found):
        """One step of a graceful deletion: ask to stop, wait for the exit or the end of the grace, kill, remove."""
        meta = pod["metadata"]
        left = (seconds_of(meta["deletionTimestamp"]) or 0) - time.time()
        running = [f for f in found.values() if f.running]
        for f in running:
            try:
                if f.id not in self.stopping:
                    self.stopping.add(f.id)
                    self.k2d.event(pod, "Normal", "Killing", f"Stopping container {f.container}", container=f.container)
                    self.no_restart(f.id)
                    self.signal(f, None)
                    self.queue.add_after(left, (meta["namespace"], meta["name"]))
                elif left <= 0:
                    self.signal(f, "KILL")
                else:
                    self.queue.add_after(left, (meta["namespace"], meta["name"]))
            except EngineError as error:
                if error.status not in (404, 409):            # gone or stopped meanwhile: its event tells
                    raise
        if not running:
            for f in list(found.values()):
                self.remove_container(f.id)
            self.forget(pod, KIND["Pod"])

    def no_restart(self, id_):
        try:
            self.engine.post(f"/containers/{id_}/update", {"RestartPolicy": {"Name": "no"}})
        except EngineGone:
            raise
        except EngineError as error:
            if error.status != 404:                             # Podman 4.3 has no such call
                raise

    def signal(self, found, name):
        """Send a signal by name, or the container's own stop signal."""
        if name is None:
            name = dig(self.inspect(found.id), "Config", "StopSignal") or "SIGTERM"
        if found.state == "paused":
            self.engine.post(f"/containers/{found.id}/unpause")
        self.engine.post(f"/containers/{found.id}/kill?signal={name}")

    def forget(self, pod, kind):
        """Remove a pod whose containers are gone; one with finalizers stays until they are taken off."""
        uid = pod["metadata"]["uid"]
        self.remove_files(uid)
        with self.store.transaction():
            present = self.pod_of(uid)
            if present and not present["metadata"].get("finalizers"):
                self.store.remove(kind, present)

    def remove_files(self, uid):
        shutil.rmtree(pod_folder(self.settings, uid), ignore_errors=True)

    def remove_leftovers(self, uid):
        """The containers and files of a pod that is no longer stored."""
        filters = urllib.parse.quote(json.dumps({"label": [f"{POD_UID}={uid}"]}))
        for info in self.engine.get("/containers/json?all=1&filters=" + filters):
            self.remove_container(info["Id"])
        self.remove_files(uid)
        with self.lock:
            self.found.pop(uid, None)
            self.keys.pop(uid, None)
        self.store.unbury(uid)

    def on_pod(self, change):
        """A pod was stored, changed or removed by somebody else than this worker. Any thread, inside the transaction."""
        obj = json.loads(change.raw)
        uid = obj["metadata"]["uid"]
        with self.lock:
            if change.type == "DELETED":
                for state in (self.problems, self.tries, self.not_before):
                    state.pop(uid, None)
                if not self.store.gone(uid):
                    self.keys.pop(uid, None)
                    self.found.pop(uid, None)
            else:
                self.keys[uid] = change.key
        if threading.current_thread().name != self.queue.name:
            self.queue.add(change.key)
        if change.type == "DELETED" and self.store.gone(uid):
            self.queue.add(("!gone", uid))

    def load(self):
        """Know the stored pods, and what a force-deleted one left behind, before the engine is listed."""
        uids = set()
        for key in self.store.keys("Pod"):
            pod = self.store.get("Pod", *key)
            uids.add(pod["metadata"]["uid"])
            if FOREIGN not in pod["metadata"].get("annotations", {}):
                self.keys[pod["metadata"]["uid"]] = key
        for uid in sorted(self.store.buried):
            uids.add(uid)
            self.keys[uid] = "!gone", uid
            self.queue.add(("!gone", uid))
        folder = self.settings.path("pods")
        for uid in os.listdir(folder) if os.path.isdir(folder) else ():
            if uid not in uids:
                self.remove_files(uid)


def digest(info, before, exit_):
    """A Found with what an event told besides: exit_ is (exit code, nanoseconds) of the run that ended, or None."""
    found = Found(info, before)
    if exit_ and before and before.running and (found.state == "restarting" or found.running and found.started_at != before.started_at):
        ended = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(exit_[1] / 1e9)) + "Z" if exit_[1] else found.finished_at
        found.last = before.terminated(exit_[0], ended)
    elif found.running and found.restarts and not found.last:    # it ended while we were away: the kubelet's words for that
        found.last = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "The container could not be located when the pod "
                      "was terminated", "startedAt": None, "finishedAt": engine_time(found.finished_at)}
    return found


def pod_foreign_id(pod):
    """The first 32 digits of the container id that a foreign pod's uid is made of."""
    return pod["metadata"]["uid"].replace("-", "")


# == 14. Controllers =========================================================================
# One plain function a kind: reads the store, decides, writes; a second pass finds nothing to do. One thread runs them all,
# from one queue; what they create goes through the same admission as a client's request.

REVISION = "deployment.kubernetes.io/revision"
HASH_LABEL = "pod-template-hash"
SAFE_LETTERS = "bcdfghjklmnpqrstvwxz2456789"      # no vowels, so that no hash spells a word (k8s.io/apimachinery, rand)


def safe_hash(value, size=10):
    """A short name part that depends on a JSON value alone."""
    number, out = int.from_bytes(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:8], "big"), ""
    for _ in range(size):
        number, letter = divmod(number, len(SAFE_LETTERS))
        out += SAFE_LETTERS[letter]
    return out


def controller_of(obj):
    return next((ref for ref in obj["metadata"].get("ownerReferences") or () if ref.get("controller")), None)


def owner_reference(kind, owner):
    return {"apiVersion": group_version(kind), "kind": kind.name, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": True}


def is_condition(obj, type_, status="True"):
    return any(c["type"] == type_ and c["status"] == status for c in dig(obj, "status", "conditions", default=()))


def is_deleting(obj):
    return bool(obj["metadata"].get("deletionTimestamp"))


def available_in(pod, min_ready_s):
    """Seconds until a ready pod counts as available: 0 if it does, None if it is not ready."""
    ready = next((c for c in dig(pod, "status", "conditions", default=()) if c["type"] == "Ready" and c["status"] == "True"), None)
    return max(0, (seconds_of(ready["lastTransitionTime"]) or 0) + min_ready_s - time.time()) if ready else None


def resolve_count(value, total, up):
    """An IntOrString such as maxSurge, a number or "25%" of total, rounded up or down."""
    if isinstance(value, int):
        return value
    percent = int(value.rstrip("%"))
    return -(-percent * total // 100) if up else percent * total // 100


class Controllers:
    """reconcile(key), key = (name of a method, its arguments ...), mostly namespace and name. All methods run in the queue's one thread, except
    observe(), which runs in the thread of whoever wrote."""

    def __init__(self, k2d):
        self.k2d, self.settings, self.store, self.api = k2d, k2d.settings, k2d.store, k2d.api
        self.queue = WorkQueue("controllers", self.reconcile, 1, k2d.hub)
        self.selectors = {}                         # (namespace, name) -> Requirements of each Service with a selector
        self.events_due = False

    def reconcile(self, key):
        getattr(self, key[0])(*key[1:])

    # -- what a change concerns

    def observe(self, changes, watches):
        for change in changes:
            namespace, name = change.key
            add = lambda what, namespace=namespace, name=name: self.queue.add((what, namespace, name))
            kind = change.kind.name
            if b'"ownerReferences"' in change.raw:
                owner = controller_of(json.loads(change.raw))
                if owner and owner["kind"] in ("ReplicaSet", "Deployment"):
                    add(owner["kind"].lower(), name=owner["name"])
                if change.type == "DELETED":
                    for ref in json.loads(change.raw)["metadata"]["ownerReferences"]:
                        if ref["kind"] in KIND:
                            self.queue.add(("finalize", ref["kind"], namespace if KIND[ref["kind"]].namespaced else "", ref["name"]))
            if change.type == "DELETED":
                self.queue.add(("collect", json.loads(change.raw)["metadata"]["uid"]))
                if change.kind.namespaced and b'"Terminating"' in getattr(self.store.row("Namespace", ("", namespace)), "raw", b""):
                    add("namespace", "", namespace)
            elif b'"deletionTimestamp"' in change.raw and b'"finalizers"' in change.raw:
                self.queue.add(("finalize", kind, namespace, name))
            self.observe_kind(kind, change, add)

    def observe_kind(self, kind, change, add):
        namespace, name = change.key
        if kind == "Pod":
            self.k2d.pods.on_pod(change)
            if change.type != "DELETED" and b'"nodeName"' not in change.raw:
                add("schedule")
            if b'"hostPort"' in change.raw:
                add("nat", "", "")
            for key, selector in list(self.selectors.items()):
                if key[0] == namespace and (selects(selector, change.labels) or change.old and selects(selector, change.old.labels)):
                    add("endpoints", *key)
            if change.type == "ADDED" and not controller_of(json.loads(change.raw)):
                for owner in self.store.keys("ReplicaSet", namespace):      # an orphan may be adopted
                    add("replicaset", *owner)
        elif kind in ("Deployment", "ReplicaSet"):
            add(kind.lower())
        elif kind == "Service":
            service = json.loads(change.raw)
            self.selectors.pop(change.key, None)
            if change.type != "DELETED" and service["spec"].get("selector") and service["spec"].get("type") != "ExternalName":
                self.selectors[change.key] = selector_of(service["spec"]["selector"])
            self.k2d.names.known = None
            for what in ("endpoints", "hosts", "nat"):
                add(what, *(change.key if what == "endpoints" else ("", "")))
        elif kind == "Endpoints":
            add("nat", "", "")
        elif kind == "Namespace":
            add("namespace")
        elif kind == "Node":
            for key in self.store.keys("Pod"):
                if b'"nodeName"' not in self.store.row("Pod", key).raw:
                    add("schedule", *key)
        elif kind in ("ConfigMap", "Secret"):
            quoted = b'"%s"' % name.encode()
            for key in self.store.keys("Pod", namespace):
                if quoted in self.store.row("Pod", key).raw:
                    self.k2d.pods.not_before.pop(json.loads(self.store.row("Pod", key).raw)["metadata"]["uid"], None)
                    self.k2d.pods.queue.add(key)
            if (namespace, name) == ("kube-system", "kube-root-ca.crt") or name in ("kube-root-ca.crt", "default"):
                add("namespace", "", namespace)
        elif kind == "ServiceAccount" and change.type == "DELETED":
            add("namespace", "", namespace)
        elif kind == "Event" and not self.events_due:
            self.events_due = True
            self.queue.add_after(EVENT_SECONDS, ("expire", "", ""))

    def start(self):
        """After a start: look at everything once, for whatever was half done."""
        for key in self.store.keys("Service"):
            service = self.store.get("Service", *key)
            if service["spec"].get("selector") and service["spec"].get("type") != "ExternalName":
                self.selectors[key] = selector_of(service["spec"]["selector"])
            self.queue.add(("endpoints", *key))
        for kind in KINDS:
            for key in self.store.keys(kind.name):
                raw = self.store.row(kind.name, key).raw
                if kind.name in ("Deployment", "ReplicaSet", "Namespace"):
                    self.queue.add((kind.name.lower(), *key))
                if b'"deletionTimestamp"' in raw and b'"finalizers"' in raw:
                    self.queue.add(("finalize", kind.name, *key))
                for ref in json.loads(raw)["metadata"].get("ownerReferences") or () if b'"ownerReferences"' in raw else ():
                    if not self.owner(ref, key[0]):
                        self.queue.add(("collect", ref["uid"]))
                if kind.name == "Pod" and b'"nodeName"' not in raw:
                    self.queue.add(("schedule", *key))
        self.queue.add(("hosts", "", ""))
        self.queue.add(("nat", "", ""))

    # -- scheduling on the one node

    def schedule(self, namespace, name):
        """Bind a pod to the node and give it its address, or say why it does not fit."""
        with self.store.transaction():
            pod, node = self.store.get("Pod", namespace, name), self.store.get("Node", "", self.settings.node)
            if not pod or not node or is_deleting(pod) or dig(pod, "status", "podIP"):
                return
            spec = pod["spec"]
            if spec.get("nodeName") not in (None, self.settings.node):
                return
            labels, misfit = node["metadata"].get("labels") or {}, ""
            if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
                misfit = "1 node(s) didn't match Pod's node affinity/selector"
            taints = [t for t in node["spec"].get("taints") or () if t["effect"] != "PreferNoSchedule" and not tolerates(spec, t)]
            if taints:
                first = taints[0]
                misfit = (f"1 node(s) had untolerated taint {{{first['key']}: {first.get('value', '')}}}" if first["key"] !=
                          "node.kubernetes.io/unschedulable" else "1 node(s) were unschedulable")
            if misfit and not spec.get("nodeName"):
                text = f"0/1 nodes are available: {misfit}. no new claims to deallocate, preemption: 0/1 nodes are available: " \
                       "1 Preemption is not helpful for scheduling."
                pod["status"]["conditions"] = [condition(dig(pod, "status", "conditions"), "PodScheduled", "False", "Unschedulable",
                                                         text, lastProbeTime=None)]
                self.store.put(KIND["Pod"], pod)
                self.k2d.event(pod, "Warning", "FailedScheduling", text, component="default-scheduler")
                return
            spec["nodeName"] = self.settings.node
            if not spec.get("hostNetwork"):
                pod["status"]["podIP"] = self.k2d.network.allocate()
            pod["status"] = pod_status(pod, {}, {}, self.settings.host_ip)
            self.store.put(KIND["Pod"], pod)
            self.k2d.event(pod, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {self.settings.node}",
                           component="default-scheduler")
        self.k2d.pods.queue.add((namespace, name))

    # -- ReplicaSet and Deployment

    def replicaset(self, namespace, name):
        with self.store.transaction():
            rs, kind = self.store.get("ReplicaSet", namespace, name), KIND["ReplicaSet"]
            if not rs:
                return
            spec, uid = rs["spec"], rs["metadata"]["uid"]
            pods = []
            for pod in self.store.list("Pod", namespace, selector_of(spec["selector"])):
                owner = controller_of(pod)
                if not owner and not is_deleting(pod) and not is_deleting(rs) and FOREIGN not in pod["metadata"].get("annotations", {}):
                    pod["metadata"].setdefault("ownerReferences", []).append(owner_reference(kind, rs))
                    self.store.put(KIND["Pod"], pod)
                    owner = controller_of(pod)
                if owner and owner["uid"] == uid and dig(pod, "status", "phase") not in ("Succeeded", "Failed"):
                    pods.append(pod)
            active = [pod for pod in pods if not is_deleting(pod)]
            failure = None
            if not is_deleting(rs):
                failure = self.scale_pods(rs, kind, active, spec.get("replicas", 1))
            waits = [available_in(pod, spec.get("minReadySeconds", 0)) for pod in active]
            pending = [wait for wait in waits if wait]
            if pending:
                self.queue.add_after(min(pending) + 0.05, ("replicaset", namespace, name))
            template = spec["template"]["metadata"].get("labels") or {}
            status = {"replicas": len(active), "fullyLabeledReplicas": sum(
                          template.items() <= (pod["metadata"].get("labels") or {}).items() for pod in active),
                      "readyReplicas": sum(wait is not None for wait in waits), "availableReplicas": sum(wait == 0 for wait in waits),
                      "terminatingReplicas": len(pods) - len(active), "observedGeneration": rs["metadata"]["generation"]}
            status = {key: value for key, value in status.items() if value or key in ("replicas", "terminatingReplicas")}
            if failure:
                status["conditions"] = [condition(dig(rs, "status", "conditions"), "ReplicaFailure", "True", "FailedCreate", failure)]
                self.queue.add_after(10, ("replicaset", namespace, name))
            rs["status"] = status
            self.store.put(kind, rs)

    def scale_pods(self, owner, kind, pods, replicas):
        """Create or delete until there are so many; updates pods. Returns why a pod could not be made, or None."""
        meta = owner["metadata"]
        while len(pods) < replicas:
            template = owner["spec"]["template"]
            pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {
                "generateName": meta["name"] + "-", "namespace": meta["namespace"], "ownerReferences": [owner_reference(kind, owner)],
                **{key: dict(template["metadata"][key]) for key in ("labels", "annotations") if template["metadata"].get(key)}},
                "spec": json.loads(dumps(template["spec"]))}
            try:
                pods.append(self.api.create(KIND["Pod"], meta["namespace"], pod))
            except ApiError as error:
                self.k2d.event(owner, "Warning", "FailedCreate", f"Error creating: {error}", component="replicaset-controller")
                return str(error)
            self.k2d.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {pods[-1]['metadata']['name']}",
                           component="replicaset-controller")
        if len(pods) > replicas:                                # the least useful first, the youngest among equals
            pods.sort(key=lambda pod: (bool(pod["spec"].get("nodeName")), dig(pod, "status", "phase") == "Running", is_condition(pod, "Ready"),
                                       -(seconds_of(pod["metadata"]["creationTimestamp"]) or 0), pod["metadata"]["name"]))
            for pod in pods[:len(pods) - replicas]:
                self.api.delete_object(KIND["Pod"], pod, {})
                self.k2d.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}",
                               component="replicaset-controller")
            del pods[:len(pods) - replicas]
        return None

    def deployment(self, namespace, name):
        with self.store.transaction():
            d = self.store.get("Deployment", namespace, name)
            if not d:
                return
            sets = [rs for rs in self.store.list("ReplicaSet", namespace, holding=d["metadata"]["uid"].encode())
                    if dig(controller_of(rs), "uid") == d["metadata"]["uid"]]
            if is_deleting(d):
                return
            new = self.new_replicaset(d, sets)
            old = [rs for rs in sets if not new or rs["metadata"]["uid"] != new["metadata"]["uid"]]
            if new and not d["spec"].get("paused"):
                self.roll(d, new, old)
            elif sets:
                self.scale_proportionally(d, ([new] if new else []) + old)
            self.deployment_status(d, new, old)

    def new_replicaset(self, d, sets):
        """The ReplicaSet of the present template, made if there is none; revisions in order."""
        meta, spec = d["metadata"], d["spec"]

        def bare(template):
            labels = {k: v for k, v in (template["metadata"].get("labels") or {}).items() if k != HASH_LABEL}
            return dict(template, metadata=dict(template["metadata"], labels=labels))

        last = max([int(rs["metadata"].get("annotations", {}).get(REVISION, 0)) for rs in sets] or [0])
        new = next((rs for rs in sorted(sets, key=lambda rs: rs["metadata"]["creationTimestamp"])
                    if bare(rs["spec"]["template"]) == bare(spec["template"])), None)
        if not new and spec.get("paused"):
            return None
        notes = {k: v for k, v in meta.get("annotations", {}).items() if k != "kubectl.kubernetes.io/last-applied-configuration"}
        if not new:
            template = json.loads(dumps(bare(spec["template"])))
            hash_ = safe_hash([template, meta["uid"]])
            template["metadata"]["labels"][HASH_LABEL] = hash_
            selector = json.loads(dumps(spec["selector"]))
            selector.setdefault("matchLabels", {})[HASH_LABEL] = hash_
            new = self.api.create(KIND["ReplicaSet"], meta["namespace"], {
                "kind": "ReplicaSet", "apiVersion": "apps/v1",
                "metadata": {"name": f"{meta['name']}-{hash_}", "namespace": meta["namespace"], "labels": template["metadata"]["labels"],
                             "annotations": {**notes, REVISION: str(last + 1)}, "ownerReferences": [owner_reference(KIND["Deployment"], d)]},
                "spec": {"replicas": 0, "minReadySeconds": spec.get("minReadySeconds", 0), "selector": selector, "template": template}})
            sets.append(new)
        elif int(new["metadata"]["annotations"].get(REVISION, 0)) < last:     # an earlier template is wanted again
            new["metadata"]["annotations"][REVISION] = str(last + 1)
            self.store.put(KIND["ReplicaSet"], new)
        revision = new["metadata"]["annotations"][REVISION]
        if meta.setdefault("annotations", {}).get(REVISION) != revision:
            meta["annotations"][REVISION] = revision
        if new["spec"].get("minReadySeconds", 0) != spec.get("minReadySeconds", 0):
            new["spec"]["minReadySeconds"] = spec.get("minReadySeconds", 0)
            self.store.put(KIND["ReplicaSet"], new)
        return new

    def set_replicas(self, d, rs, count):
        before = rs["spec"].get("replicas", 1)
        if before == count:
            return
        rs["spec"]["replicas"] = count
        rs["metadata"]["generation"] += 1
        self.store.put(KIND["ReplicaSet"], rs)
        self.k2d.event(d, "Normal", "ScalingReplicaSet", f"Scaled {'up' if count > before else 'down'} replica set {rs['metadata']['name']} "
                       f"from {before} to {count}", component="deployment-controller")

    @staticmethod
    def limits(d):
        """(maxSurge, maxUnavailable) as numbers; both zero would never roll."""
        spec, replicas = d["spec"], d["spec"].get("replicas", 1)
        if spec["strategy"].get("type") == "Recreate":
            return 0, 0
        rolling = spec["strategy"].get("rollingUpdate") or {}
        surge = resolve_count(rolling.get("maxSurge", "25%"), replicas, True)
        unavailable = resolve_count(rolling.get("maxUnavailable", "25%"), replicas, False)
        return surge, min(max(unavailable, 0 if surge else 1), replicas)

    def scale_proportionally(self, d, sets):
        """Paused in the middle of a rollout: share a changed number of replicas among the ReplicaSets as they stand."""
        active = [rs for rs in sets if rs["spec"].get("replicas", 1)] or sets[:1]
        surge, _ = self.limits(d)
        replicas, total = d["spec"].get("replicas", 1), sum(rs["spec"].get("replicas", 1) for rs in active)
        allowed = replicas + surge if len(active) > 1 and replicas else replicas
        if len(active) == 1 or not total:
            return self.set_replicas(d, active[0], replicas)
        if total == allowed or int(active[0]["metadata"].get("annotations", {}).get("deployment.kubernetes.io/desired-replicas", -1)) == replicas:
            return None
        shares = [rs["spec"]["replicas"] * allowed // total for rs in active]
        shares[0] += allowed - sum(shares)
        for rs, share in zip(active, shares):
            rs["metadata"].setdefault("annotations", {})["deployment.kubernetes.io/desired-replicas"] = str(replicas)
            self.set_replicas(d, rs, share)
        return None

    def roll(self, d, new, old):
        """One step of a rollout, as the deployment controller's rolloutRolling and rolloutRecreate."""
        replicas, (surge, unavailable) = d["spec"].get("replicas", 1), self.limits(d)
        count = lambda rs: rs["spec"].get("replicas", 1)
        present = count(new)
        if d["spec"]["strategy"].get("type") == "Recreate":
            for rs in old:
                self.set_replicas(d, rs, 0)
            owners = {rs["metadata"]["uid"] for rs in old}
            if not any(dig(controller_of(pod), "uid") in owners and dig(pod, "status", "phase") not in ("Succeeded", "Failed")
                       for pod in self.store.list("Pod", d["metadata"]["namespace"], selector_of(d["spec"]["selector"]))):
                self.set_replicas(d, new, replicas)
            return
        if present > replicas:
            self.set_replicas(d, new, replicas)
        elif present < replicas:
            room = replicas + surge - sum(map(count, old)) - present
            self.set_replicas(d, new, present + max(0, min(replicas - present, room)))
        if count(new) != present:
            return
        may_go = sum(map(count, old)) + present - (replicas - unavailable) - (present - dig(new, "status", "availableReplicas", default=0))
        for only_unavailable in (True, False):                 # first those that serve nobody
            for rs in sorted(old, key=lambda rs: rs["metadata"]["creationTimestamp"]):
                spare = max(0, count(rs) - dig(rs, "status", "availableReplicas", default=0)) if only_unavailable else count(rs)
                if not only_unavailable:
                    serving = sum(dig(each, "status", "availableReplicas", default=0) for each in [new, *old])
                    may_go = min(may_go, serving - (replicas - unavailable))
                step = max(0, min(spare, may_go))
                if step:
                    self.set_replicas(d, rs, count(rs) - step)
                    may_go -= step
            if any(count(rs) for rs in old) and only_unavailable and may_go <= 0:
                return

    def deployment_status(self, d, new, old):
        spec, meta, before = d["spec"], d["metadata"], d.get("status", {})
        sets, replicas = [*old, *([new] if new else [])], spec.get("replicas", 1)
        add = lambda field, among: sum(dig(rs, "status", field, default=0) for rs in among)
        total, available = add("replicas", sets), add("availableReplicas", sets)
        updated = add("replicas", [new] if new else [])
        status = {"observedGeneration": meta["generation"], "replicas": total, "updatedReplicas": updated,
                  "readyReplicas": add("readyReplicas", sets), "availableReplicas": available,
                  "unavailableReplicas": max(0, sum(rs["spec"].get("replicas", 1) for rs in sets) - available),
                  "terminatingReplicas": add("terminatingReplicas", sets)}
        status = {key: value for key, value in status.items() if value or key == "terminatingReplicas"}
        conditions = before.get("conditions") or []
        enough = available >= replicas - self.limits(d)[1]
        wanted = [condition(conditions, "Available", "True" if enough else "False", "MinimumReplicasAvailable" if enough else
                            "MinimumReplicasUnavailable", f"Deployment {'has' if enough else 'does not have'} minimum availability.")]
        complete = updated == replicas == total == available
        was = next((c for c in conditions if c["type"] == "Progressing"), None)
        deadline, subject = spec.get("progressDeadlineSeconds", 600), f'ReplicaSet "{new["metadata"]["name"]}"' if new else f'Deployment "{meta["name"]}"'
        moved = any(status.get(key, 0) > before.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "availableReplicas")) or \
            total - updated < before.get("replicas", 0) - before.get("updatedReplicas", 0) or not was
        if complete and not spec.get("paused"):
            progress = condition(conditions, "Progressing", "True", "NewReplicaSetAvailable", subject + " has successfully progressed.")
        elif spec.get("paused") and not new and not was:
            progress = condition(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
        elif moved or was["reason"] == "NewReplicaSetAvailable":
            progress = condition([], "Progressing", "True", "ReplicaSetUpdated", subject + " is progressing.")
            progress["lastTransitionTime"] = was["lastTransitionTime"] if was and was["status"] == "True" else progress["lastTransitionTime"]
            was = None if moved else was
        else:
            late = time.time() - (seconds_of(was.get("lastUpdateTime")) or time.time())
            if late >= deadline and was["status"] == "True":
                progress = condition(conditions, "Progressing", "False", "ProgressDeadlineExceeded", subject + " has timed out progressing.")
            else:
                progress = {key: value for key, value in was.items() if key != "lastUpdateTime"}
                if was["status"] == "True":
                    self.queue.add_after(deadline - late + 0.1, ("deployment", meta["namespace"], meta["name"]))
        wanted.append(progress)
        failure = next((c for rs in sets for c in dig(rs, "status", "conditions", default=()) if c["type"] == "ReplicaFailure"), None)
        if failure:
            wanted.append(condition(conditions, "ReplicaFailure", "True", failure["reason"], failure["message"]))
        for each in wanted:                                    # lastUpdateTime moves with the reason, or with progress
            same = next((c for c in conditions if c["type"] == each["type"] and c.get("reason") == each.get("reason")
                         and c["status"] == each["status"]), None)
            each["lastUpdateTime"] = now() if not same or each["type"] == "Progressing" and moved and not complete else same["lastUpdateTime"]
        status["conditions"] = wanted
        d["status"] = status
        if complete:
            empty = sorted((rs for rs in old if not rs["spec"].get("replicas", 1) and not dig(rs, "status", "replicas") and not is_deleting(rs)),
                           key=lambda rs: int(rs["metadata"].get("annotations", {}).get(REVISION, 0)))
            for rs in empty[:max(0, len(empty) - spec.get("revisionHistoryLimit", 10))]:
                self.api.delete_object(KIND["ReplicaSet"], rs, {})
        self.store.put(KIND["Deployment"], d)
        if not complete and deadline < 2 ** 31 - 1 and progress["reason"] == "ReplicaSetUpdated":
            self.queue.add_after(deadline + 0.1, ("deployment", meta["namespace"], meta["name"]))

    # -- Services

    def endpoints(self, namespace, name):
        """The Endpoints and the EndpointSlice of a Service with a selector, from its pods."""
        if not self.k2d.pods.known:
            return                                              # absence means nothing yet
        with self.store.transaction():
            service, present = self.store.get("Service", namespace, name), self.store.get("Endpoints", namespace, name)
            slice_name = f"{name}-{safe_hash([namespace, name], 5)}"
            if not service or (namespace, name) not in self.selectors:
                for kind, obj in (("Endpoints", present), ("EndpointSlice", self.store.get("EndpointSlice", namespace, slice_name))):
                    if obj and any(label in (obj["metadata"].get("labels") or ()) for label in COMPUTED) and not is_kubernetes(obj):
                        self.store.remove(KIND[kind], obj)
                return
            subsets, slices, unready_too = {}, [], service["spec"].get("publishNotReadyAddresses")
            for pod in self.store.list("Pod", namespace, self.selectors[namespace, name]):
                status, ready = pod.get("status", {}), is_condition(pod, "Ready")
                if not status.get("podIP") or status.get("phase") in ("Succeeded", "Failed"):
                    continue
                ports = tuple((p.get("name", ""), target, p.get("protocol", "TCP")) for p in service["spec"].get("ports") or ()
                              for target in [target_port(p, pod)] if target)
                target = {"kind": "Pod", "namespace": namespace, "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
                named = {"hostname": pod["spec"]["hostname"]} if pod["spec"].get("hostname") and pod["spec"].get("subdomain") == name else {}
                address = {"ip": status["podIP"], **named, "nodeName": self.settings.node, "targetRef": target}
                if not is_deleting(pod):
                    place = "addresses" if ready or unready_too else "notReadyAddresses"
                    subsets.setdefault(ports, {}).setdefault(place, []).append(address)
                slices.append((ports, {"addresses": [status["podIP"]], "conditions": {
                    "ready": bool(unready_too or ready and not is_deleting(pod)), "serving": ready, "terminating": is_deleting(pod)},
                    **named, "targetRef": target, "nodeName": self.settings.node}))
            as_ports = lambda ports: [{**({"name": n} if n else {}), "port": p, "protocol": protocol} for n, p, protocol in ports]
            body = [{**{k: found[k] for k in ("addresses", "notReadyAddresses") if k in found}, "ports": as_ports(ports)}
                    for ports, found in sorted(subsets.items())]
            labels = {**(service["metadata"].get("labels") or {}), "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
            self.derive("Endpoints", namespace, name, labels, present, None, {"subsets": body} if body else {})
            ports = slices[0][0] if slices else tuple((p.get("name", ""), p["targetPort"], p.get("protocol", "TCP"))
                                                      for p in service["spec"].get("ports") or () if isinstance(p.get("targetPort"), int))
            self.derive("EndpointSlice", namespace, slice_name, {
                **(service["metadata"].get("labels") or {}), "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name}, self.store.get("EndpointSlice", namespace, slice_name), service,
                {"addressType": "IPv4", "endpoints": [endpoint for own, endpoint in slices if own == ports],
                 "ports": [{"name": n, "port": p, "protocol": protocol} for n, p, protocol in ports]})

    def derive(self, kind, namespace, name, labels, present, owner, body):
        """Put an object that follows from others, keeping its identity."""
        kind = KIND[kind]
        if present and not any(label in (present["metadata"].get("labels") or ()) for label in COMPUTED):
            return                                              # a client's own
        meta = present["metadata"] if present else {"name": name, "namespace": namespace, "uid": new_uid(), "creationTimestamp": now()}
        meta["labels"] = labels
        if owner:
            meta["ownerReferences"] = [owner_reference(KIND["Service"], owner)]
            meta["generation"] = 1
        self.store.put(kind, {"kind": kind.name, "apiVersion": group_version(kind), "metadata": meta, **body})

    def nat(self, *_):
        if self.k2d.pods.known:
            self.k2d.network.sync()

    def hosts(self, *_):
        """Tell every running pod the present Services."""
        for pod in self.store.list("Pod"):
            if not pod["spec"].get("hostNetwork") and os.path.exists(pod_folder(self.settings, pod["metadata"]["uid"], "etc-hosts")):
                self.k2d.names.write_hosts(pod)

    # -- namespaces and garbage

    def namespace(self, _, name):
        with self.store.transaction():
            ns = self.store.get("Namespace", "", name)
            if not ns:
                return
            if not is_deleting(ns):
                if not self.store.row("ServiceAccount", (name, "default")):
                    self.api.create(KIND["ServiceAccount"], name, {"metadata": {"name": "default"}})
                ca = {"data": {"ca.crt": self.k2d.ca}}
                present = self.store.get("ConfigMap", name, "kube-root-ca.crt")
                if not present:
                    self.api.create(KIND["ConfigMap"], name, {"metadata": {"name": "kube-root-ca.crt"}, **ca})
                elif present.get("data") != ca["data"]:
                    self.store.put(KIND["ConfigMap"], {**present, **ca})
                return
            left = 0
            for kind in KINDS:
                for obj in list(self.store.list(kind.name, name)) if kind.namespaced else ():
                    left += kind.name != "Event"
                    if not is_deleting(obj):
                        self.api.delete_object(kind, obj, {})
            remaining = sum(len(self.store.keys(kind.name, name)) for kind in KINDS if kind.namespaced)
            if not remaining:
                ns["spec"].pop("finalizers", None)
                self.store.remove(KIND["Namespace"], ns)

    def owner(self, ref, namespace):
        """The object an ownerReference means, or None if it is gone."""
        kind = KIND.get(ref["kind"])
        if not kind:
            return {}                                           # a kind we do not know: never ours to collect
        obj = self.store.get(kind.name, namespace if kind.namespaced else "", ref["name"])
        return obj if obj and obj["metadata"]["uid"] == ref["uid"] else None

    def collect(self, uid):
        """Delete what was owned by an object that is gone, unless somebody else owns it too."""
        for kind in KINDS:
            for obj in list(self.store.list(kind.name, holding=uid.encode())):
                refs = obj["metadata"].get("ownerReferences") or []
                if not any(ref["uid"] == uid for ref in refs):
                    continue
                living = [ref for ref in refs if self.owner(ref, obj["metadata"].get("namespace", ""))]
                with self.store.transaction():
                    if not living:
                        if not is_deleting(obj):
                            self.api.delete_object(kind, obj, {})
                    elif len(living) < len(refs):
                        obj["metadata"]["ownerReferences"] = living
                        self.store.put(kind, obj)

    def finalize(self, kind_name, namespace, name):
        """Carry out propagationPolicy Foreground and Orphan, which stand as finalizers on a deleted object."""
        kind = KIND[kind_name]
        with self.store.transaction():
            obj = self.store.get(kind.name, namespace, name)
            if not obj or not is_deleting(obj):
                return
            finalizers = obj["metadata"].get("finalizers") or []
            dependents = [(each, found) for each in KINDS for found in self.store.list(each.name, holding=obj["metadata"]["uid"].encode())
                          if any(ref["uid"] == obj["metadata"]["uid"] for ref in found["metadata"].get("ownerReferences") or ())]
            done = None
            if "orphan" in finalizers:
                for each, found in dependents:
                    found["metadata"]["ownerReferences"] = [ref for ref in found["metadata"]["ownerReferences"]
                                                            if ref["uid"] != obj["metadata"]["uid"]] or None
                    if not found["metadata"]["ownerReferences"]:
                        del found["metadata"]["ownerReferences"]
                    self.store.put(each, found)
                done = "orphan"
            elif "foregroundDeletion" in finalizers:
                for each, found in dependents:
                    if not is_deleting(found):
                        self.api.delete_object(each, found, {"propagationPolicy": "Foreground"})
                blocking = [found for each, found in dependents if self.store.row(each.name, (found["metadata"].get("namespace", ""),
                            found["metadata"]["name"])) and any(ref["uid"] == obj["metadata"]["uid"] and ref.get("blockOwnerDeletion")
                                                                for ref in found["metadata"]["ownerReferences"])]
                done = None if blocking else "foregroundDeletion"
            if done:
                obj["metadata"]["finalizers"] = [f for f in finalizers if f != done]
                self.api.settle(kind, obj)

    def expire(self, *_):
        """Forget Events after their hour, and the oldest beyond the limit at once."""
        with self.store.transaction():
            self.events_due = False
            present = sorted(self.store.list("Event"), key=lambda e: e.get("lastTimestamp") or e["metadata"]["creationTimestamp"])
            for i, event in enumerate(present):
                last = seconds_of(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]) or 0
                if i < len(present) - EVENTS or last < time.time() - EVENT_SECONDS:
                    self.store.remove(KIND["Event"], event)
                else:
                    self.events_due = True
                    return self.queue.add_after(last + EVENT_SECONDS - time.time() + 1, ("expire", "", ""))


def is_kubernetes(obj):
    return obj["metadata"].get("namespace") == "default" and obj["metadata"]["name"] == "kubernetes"


def tolerates(spec, taint):
    return any((t.get("operator") == "Exists" and t.get("key") in (None, "", taint["key"]) or
                t.get("key") == taint["key"] and t.get("value", "") == taint.get("value", "")) and
               t.get("effect") in (None, "", taint["effect"]) for t in spec.get("tolerations") or ())


def target_port(port, pod):
    """The number that a Service port's targetPort means in a pod; None if the pod has no port of that name."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    return next((p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports") or ()
                 if p.get("name") == target and p.get("protocol", "TCP") == port.get("protocol", "TCP")), None)


def new_uid():
    """A random UUID (RFC 9562, version 4)."""
    h = "%032x" % (random.SystemRandom().getrandbits(128) & ~(0xF << 76) & ~(3 << 62) | 4 << 76 | 2 << 62)
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


# == 15. Access ==============================================================================
# Certificates by the openssl program, the admin token, and who is asking. Files 0600; nothing here is ever logged.

OPENSSL_CONFIG = """
[req]
distinguished_name = dn
[dn]
[ca]
default_ca = k2d
[k2d]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign,digitalSignature
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""
VALID = ("-startdate", "20240101000000Z", "-enddate", "20491231235959Z")      # a board's clock may be years behind at first start

User = namedtuple("User", "name groups")
ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"))


class Access:
    """The certificate authority, the server's certificate and the tokens of one data path."""

    def __init__(self, settings):
        self.settings, self.folder = settings, settings.path("pki")
        os.makedirs(self.folder, 0o700, exist_ok=True)
        self.certify()
        self.token = settings.secret or self.stored_token()
        with open(self.file("ca.crt")) as file:
            self.ca = file.read()

    def file(self, name):
        return os.path.join(self.folder, name)

    def stored_token(self):
        path = self.settings.path("token")
        if not os.path.exists(path):
            write_file(path, (os.urandom(24).hex() + "\n").encode())
        with open(path) as file:
            return file.read().strip()

    def certify(self):
        """Make the CA once, and the server's certificate again whenever its names change."""
        s = self.settings
        addresses = sorted({"127.0.0.1", "::1", s.host_ip, s.kubernetes_ip, s.gateway})
        names = ["localhost", s.node, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + CLUSTER_DOMAIN]
        wanted = ",".join(["DNS:" + name for name in dict.fromkeys(names)] + ["IP:" + address for address in addresses])
        if not os.path.exists(self.file("ca.crt")):
            self.sign("ca", "root", "/CN=k2d-ca", "", "-selfsign")
        try:
            with open(self.file("server.names")) as file:
                if file.read() == wanted:
                    return
        except FileNotFoundError:
            pass                                                # first start: made below
        self.sign("server", "leaf", "/CN=k2d", wanted, "-cert", self.file("ca.crt"))
        write_file(self.file("server.names"), wanted.encode())

    def sign(self, name, extensions, subject, names, *issuer):
        """Make NAME.key, a P-256 key (an RSA handshake takes seconds on a small ARM), and NAME.crt, signed by the CA's key."""
        key, request, config, made = (self.file(name + end) for end in (".key", ".csr", ".cnf", ".pem"))
        write_file(config, OPENSSL_CONFIG.format(folder=self.folder, names=names or "DNS:none").encode())
        write_file(self.file("index"), b"")
        for argv in (("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key),
                     ("req", "-new", "-config", config, "-key", key, "-subj", subject, "-out", request),
                     ("ca", "-batch", "-notext", "-config", config, "-extensions", extensions, "-keyfile", self.file("ca.key"), *issuer,
                      "-in", request, "-out", made, *VALID)):
            old = os.umask(0o077)
            try:
                code, output = run("openssl", *argv)
            finally:
                os.umask(old)
            if code:
                raise SystemExit(f"k2d: openssl {argv[0]}: {output.decode('utf-8', 'replace').strip()}")
        os.replace(made, self.file(name + ".crt"))
        for entry in os.listdir(self.folder):
            if not re.fullmatch(r"(ca|server)\.(key|crt)|server\.names", entry):
                os.unlink(self.file(entry))

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])                # Go's clients offer h2 first
        context.load_cert_chain(self.file("server.crt"), self.file("server.key"))
        return context

    def user(self, authorization):
        """Who sends this Authorization header. Raises ApiError 401."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.token.encode()):
            return ADMIN
        raise ApiError(401, "Unauthorized", "Unauthorized")

    def kubeconfig(self):
        ca, server = base64.b64encode(self.ca.encode()).decode(), f"https://{self.settings.host_ip}:{self.settings.port}"
        return ("apiVersion: v1\nkind: Config\nclusters:\n- name: k2d\n  cluster:\n"
                f"    server: {server}\n    certificate-authority-data: {ca}\n"
                f"users:\n- name: admin\n  user:\n    token: {self.token}\n"
                "contexts:\n- name: k2d\n  context:\n    cluster: k2d\n    user: admin\ncurrent-context: k2d\n")


# == 16. Admission, verbs, discovery, Table, OpenAPI =========================================
# The API server: what may be stored, and what each request is answered. Objects come in cleaned (section 2) and leave as
# the bytes they rest in.

GENERATION = ("Pod", "Deployment", "ReplicaSet")        # kinds whose metadata.generation counts changes of spec
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public")
RETURNS_OBJECT = ("Namespace", "Pod", "Service", "ServiceAccount")      # a DELETE of the others answers a Status

# -- defaults that depend on other fields; those that do not are in SCHEMA


def default_pod_spec(spec, is_pod):
    for container in spec.get("containers") or ():
        _, tag = split_image(container.get("image") or "")
        container.setdefault("imagePullPolicy", "Always" if tag == "latest" else "IfNotPresent")
        resources = container.setdefault("resources", {})
        if is_pod and resources.get("limits"):
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
        for port in container.get("ports") or () if is_pod and spec.get("hostNetwork") else ():
            port.setdefault("hostPort", port["containerPort"])
    for volume in spec.get("volumes") or ():
        if len(volume) == 1:
            volume["emptyDir"] = {}
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or ("default" if is_pod else None)
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name


def default_pod(pod):
    spec = pod["spec"]
    default_pod_spec(spec, True)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.setdefault("tolerations", [])
    for reason in ("not-ready", "unreachable"):
        key = "node.kubernetes.io/" + reason
        if not any(t.get("key") in (None, key) and t.get("effect") in (None, "NoExecute") for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(spec) if spec.get("containers") else "BestEffort"}


def default_workload(obj):
    spec = obj["spec"]
    strategy = spec.get("strategy")
    if strategy is not None and strategy.get("type", "RollingUpdate") == "RollingUpdate":
        fill_defaults("RollingUpdateDeployment", strategy.setdefault("rollingUpdate", {}))
    default_pod_spec(spec["template"]["spec"], False)


def default_service(service):
    spec = service["spec"]
    for port in spec.get("ports") or ():
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port["port"]
    if spec["type"] in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", 10800)
    else:
        spec.pop("sessionAffinityConfig", None)


def default_secret(secret):
    text = secret.pop("stringData", None)
    if text:
        secret["data"] = {**secret.get("data", {}), **{k: base64.b64encode(v.encode()).decode() for k, v in text.items()}}


def default_namespace(namespace):
    namespace["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = namespace["metadata"]["name"]
    namespace["spec"].setdefault("finalizers", ["kubernetes"])


# -- validation: Kubernetes' field paths, reasons and words (pkg/apis/core/validation)


def validate_meta(kind, meta, faults):
    if not meta.get("name"):
        faults.add("metadata.name", "Required value", why="name or generateName is required")
    else:
        faults.name("metadata.name", meta["name"], KIND_NAMES.get(kind.name, "subdomain"))
    for key, value in (meta.get("labels") or {}).items():
        for fault in label_key_faults(key):
            faults.add("metadata.labels", "Invalid value", key, fault)
        for fault in name_faults("labelvalue", value):
            faults.add("metadata.labels", "Invalid value", value, fault)
    for key in meta.get("annotations") or {}:
        for fault in label_key_faults(key.lower()):
            faults.add("metadata.annotations", "Invalid value", key, fault)
    if sum(len(key) + len(value) for key, value in (meta.get("annotations") or {}).items()) > 256 << 10:
        faults.add("metadata.annotations", "Too long", why="may not be more than 262144 bytes")
    for i, ref in enumerate(meta.get("ownerReferences") or ()):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not ref.get(field):
                faults.add(f"metadata.ownerReferences[{i}].{field}", "Invalid value", "", f"{field} must not be empty")


def validate_ports(ports, path, faults):
    names = set()
    for i, port in enumerate(ports or ()):
        at = f"{path}[{i}]"
        if port.get("name") in names:
            faults.add(at + ".name", "Duplicate value", port["name"])
        names.add(port.get("name") or object())
        if port.get("name") and (len(port["name"]) > 15 or not re.fullmatch("[a-z0-9](-?[a-z0-9])*", port["name"])
                                 or not re.search("[a-z]", port["name"])):
            faults.add(at + ".name", "Invalid value", port["name"], "must be at most 15 lower case letters, digits and single dashes, "
                       "with at least one letter")
        if not port.get("containerPort"):
            faults.add(at + ".containerPort", "Required value")
        else:
            faults.between(at + ".containerPort", port["containerPort"], 1, 65535)
        faults.between(at + ".hostPort", port.get("hostPort"), 1, 65535)
        faults.one_of(at + ".protocol", port.get("protocol", "TCP"), ("SCTP", "TCP", "UDP"))


def validate_env(env, path, faults):
    for i, entry in enumerate(env or ()):
        at, source = f"{path}[{i}]", entry.get("valueFrom")
        if not entry.get("name"):
            faults.add(at + ".name", "Required value")
        elif not re.fullmatch(r"[ -<>-~]+", entry["name"]):
            faults.add(at + ".name", "Invalid value", entry["name"],
                       "a valid environment variable name must consist only of printable ASCII characters other than '='")
        if source is not None and len(source) != 1:
            faults.add(at + ".valueFrom", "Invalid value", "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, "
                       "`secretKeyRef` or `fileKeyRef`" if not source else "may not have more than one field specified at a time")
        elif source is not None and entry.get("value"):
            faults.add(at + ".valueFrom", "Invalid value", "", "may not be specified when `value` is not empty")


def validate_resources(resources, path, faults):
    limits = resources.get("limits") or {}
    for side in ("limits", "requests"):
        for name, quantity in (resources.get(side) or {}).items():
            if name.startswith("hugepages-"):
                faults.add(f"{path}.{side}[{name}]", "Forbidden", why="the engine cannot limit huge pages")
            if quantity_nanos(quantity) < 0:
                faults.add(f"{path}.{side}[{name}]", "Invalid value", quantity, "must be greater than or equal to 0")
    for name, quantity in (resources.get("requests") or {}).items():
        if name in limits and quantity_nanos(quantity) > quantity_nanos(limits[name]):
            faults.add(path + ".requests", "Invalid value", quantity, f"must be less than or equal to {name} limit of {limits[name]}")


def validate_probe(probe, path, faults):
    if probe is None:
        return
    if not any(handler in probe for handler in ("exec", "httpGet", "tcpSocket", "grpc")):
        faults.add(path, "Required value", why="must specify a handler type")
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        faults.at_least(f"{path}.{field}", probe.get(field))


def validate_container(container, path, volumes, names, faults):
    if not container.get("name"):
        faults.add(path + ".name", "Required value")
    elif container["name"] in names:
        faults.add(path + ".name", "Duplicate value", container["name"])
    else:
        faults.name(path + ".name", container["name"], "label")
    names.add(container.get("name"))
    if not container.get("image"):
        faults.add(path + ".image", "Required value")
    elif container["image"] != container["image"].strip():
        faults.add(path + ".image", "Invalid value", container["image"], "must not have leading or trailing whitespace")
    validate_ports(container.get("ports"), path + ".ports", faults)
    validate_env(container.get("env"), path + ".env", faults)
    paths = set()
    for i, mount in enumerate(container.get("volumeMounts") or ()):
        at = f"{path}.volumeMounts[{i}]"
        if not mount.get("name"):
            faults.add(at + ".name", "Required value")
        elif mount["name"] not in volumes:
            faults.add(at + ".name", "Not found", mount["name"])
        if not mount.get("mountPath"):
            faults.add(at + ".mountPath", "Required value")
        elif mount["mountPath"] in paths:
            faults.add(at + ".mountPath", "Invalid value", mount["mountPath"], "must be unique")
        elif not mount["mountPath"].startswith("/"):
            faults.add(at + ".mountPath", "Invalid value", mount["mountPath"], "must be an absolute path: the engine mounts no other")
        paths.add(mount.get("mountPath"))
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        validate_probe(container.get(probe), f"{path}.{probe}", faults)
    faults.one_of(path + ".imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never"))
    validate_resources(container.get("resources") or {}, path + ".resources", faults)


def validate_pod_spec(spec, path, faults):
    volumes, names = set(), set()
    for i, volume in enumerate(spec.get("volumes") or ()):
        at = f"{path}.volumes[{i}]"
        faults.name(at + ".name", volume.get("name"), "label")
        if volume.get("name") in volumes:
            faults.add(at + ".name", "Duplicate value", volume["name"])
        volumes.add(volume.get("name"))
        if len(volume) > 2:
            faults.add(f"{at}.{list(volume)[2]}", "Forbidden", why="may not specify more than 1 volume type")
        if "hostPath" in volume:
            host = volume["hostPath"]
            if not host.get("path"):
                faults.add(at + ".hostPath.path", "Required value")
            elif ".." in host["path"].split("/"):
                faults.add(at + ".hostPath.path", "Invalid value", host["path"], "must not contain '..'")
            elif not host["path"].startswith("/"):
                faults.add(at + ".hostPath.path", "Invalid value", host["path"], "must be an absolute path")
            faults.one_of(at + ".hostPath.type", host.get("type", ""), ("", "DirectoryOrCreate", "FileOrCreate", *HOST_PATH_TYPES))
        for source in ("configMap", "secret"):
            if source in volume and not (volume[source].get("name") or volume[source].get("secretName")):
                faults.add(f"{at}.{source}.{'name' if source == 'configMap' else 'secretName'}", "Required value")
            for j, item in enumerate((volume.get(source) or {}).get("items") or ()):
                where = item.get("path") or ""
                if not where:
                    faults.add(f"{at}.{source}.items[{j}].path", "Required value")
                elif where.startswith("/") or where.startswith("..") or ".." in where.split("/"):
                    faults.add(f"{at}.{source}.items[{j}].path", "Invalid value", where,
                               "must be a relative path" if where[0] == "/" else "must not contain '..'")
    containers = spec.get("containers") or ()
    if not containers:
        faults.add(path + ".containers", "Required value")
    for i, container in enumerate(containers):
        validate_container(container, f"{path}.containers[{i}]", volumes, names, faults)
    if len(containers) > 1:
        faults.add(path + ".containers", "Forbidden", why=f"a pod of {len(containers)} containers is not supported yet; use one a pod")
    faults.one_of(path + ".restartPolicy", spec.get("restartPolicy"), RESTART)
    faults.one_of(path + ".dnsPolicy", spec.get("dnsPolicy"), ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"))
    if spec.get("dnsPolicy") == "None" and not dig(spec, "dnsConfig", "nameservers"):
        faults.add(path + ".dnsConfig.nameservers", "Required value", why="must provide at least one DNS nameserver when `dnsPolicy` is None")
    faults.at_least(path + ".terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    if spec.get("hostname"):
        faults.name(path + ".hostname", spec["hostname"], "label")


def validate_pod(pod, faults):
    validate_pod_spec(pod["spec"], "spec", faults)


def validate_workload(obj, faults):
    spec, template = obj["spec"], obj["spec"]["template"]
    faults.at_least("spec.replicas", spec.get("replicas"))
    faults.at_least("spec.minReadySeconds", spec.get("minReadySeconds"))
    selector = spec.get("selector")
    if selector is None:
        faults.add("spec.selector", "Required value")
    elif not selector:
        faults.add("spec.selector", "Invalid value", {}, "empty selector is invalid for deployment")
    labels = template["metadata"].get("labels") or {}
    if not selector or not selects(selector_of(selector), labels):
        faults.add("spec.template.metadata.labels", "Invalid value", labels, "`selector` does not match template `labels`")
    validate_pod_spec(template["spec"], "spec.template.spec", faults)
    if template["spec"].get("restartPolicy", "Always") != "Always":
        faults.add("spec.template.spec.restartPolicy", "Unsupported value", template["spec"]["restartPolicy"], 'supported values: "Always"')
    strategy = spec.get("strategy") or {}
    if strategy:
        faults.one_of("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate"))
        rolling = strategy.get("rollingUpdate")
        if strategy.get("type") == "Recreate" and rolling is not None:
            faults.add("spec.strategy.rollingUpdate", "Forbidden", why="may not be specified when strategy `type` is 'Recreate'")
        for field in ("maxUnavailable", "maxSurge") if rolling else ():
            if isinstance(rolling.get(field), str) and not re.fullmatch(r"\d+%", rolling[field]):
                faults.add(f"spec.strategy.rollingUpdate.{field}", "Invalid value", rolling[field],
                           "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
                           "validation is '[0-9]+%')")
        if rolling and all(str(rolling.get(field)).rstrip("%") == "0" for field in ("maxUnavailable", "maxSurge")):
            faults.add("spec.strategy.rollingUpdate.maxUnavailable", "Invalid value", rolling["maxUnavailable"],
                       "may not be 0 when `maxSurge` is 0")


def validate_service(service, faults):
    spec, names, seen = service["spec"], set(), set()
    ports = spec.get("ports") or ()
    faults.one_of("spec.type", spec["type"], ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"))
    faults.one_of("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        faults.add("spec.ports", "Required value")
    if spec["type"] == "ExternalName":
        faults.name("spec.externalName", (spec.get("externalName") or "").rstrip("."), "subdomain")
    for i, port in enumerate(ports):
        at = f"spec.ports[{i}]"
        if len(ports) > 1 and not port.get("name"):
            faults.add(at + ".name", "Required value")
        elif port.get("name"):
            faults.name(at + ".name", port["name"], "label")
            if port["name"] in names:
                faults.add(at + ".name", "Duplicate value", port["name"])
        names.add(port.get("name"))
        faults.between(at + ".port", port["port"], 1, 65535)
        faults.one_of(at + ".protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"))
        if isinstance(port["targetPort"], int):
            faults.between(at + ".targetPort", port["targetPort"], 1, 65535)
        if (port["port"], port.get("protocol")) in seen:
            faults.add(at, "Duplicate value", {"port": port["port"], "protocol": port.get("protocol")})
        seen.add((port["port"], port.get("protocol")))
        if port.get("nodePort") and spec["type"] not in ("NodePort", "LoadBalancer"):
            faults.add(at + ".nodePort", "Forbidden", why="may not be used when `type` is 'ClusterIP'")
    ip = spec.get("clusterIP") or (spec.get("clusterIPs") or [""])[0]
    if ip and ip != "None":
        try:
            ipaddress.ip_address(ip)
        except ValueError:
            faults.add("spec.clusterIPs[0]", "Invalid value", ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def validate_data(obj, faults):
    size = 0
    for field in ("data", "binaryData"):
        for key, value in (obj.get(field) or {}).items():
            size += len(key) + (len(value) * 3 // 4 if obj["kind"] == "Secret" or field == "binaryData" else len(value.encode()))
            for fault in name_faults("key", key):
                faults.add(f"{field}[{key}]", "Invalid value", key, fault)
    if size > 1 << 20:
        faults.add("[]" if obj["kind"] == "ConfigMap" else "data", "Too long", why="may not be more than 1048576 bytes")


DEFAULTS = {"Pod": default_pod, "Deployment": default_workload, "ReplicaSet": default_workload, "Service": default_service,
            "Secret": default_secret, "Namespace": default_namespace}
VALIDATE = {"Pod": validate_pod, "Deployment": validate_workload, "ReplicaSet": validate_workload, "Service": validate_service,
            "ConfigMap": validate_data, "Secret": validate_data}


def pod_spec_changed(old, new):
    """Whether an update of a pod changes more than may change (pkg/apis/core/validation, ValidatePodUpdate)."""
    def fixed(spec):
        containers = [{k: v for k, v in c.items() if k != "image"} for c in spec["containers"]]
        return {**{k: v for k, v in spec.items() if k not in ("tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds")},
                "containers": containers}
    return fixed(old) != fixed(new)


def validate_update(kind, old, new, faults):
    """What may not change."""
    if kind.name == "Pod" and pod_spec_changed(old["spec"], new["spec"]):
        faults.add("spec", "Forbidden", why="pod updates may not change fields other than `spec.containers[*].image`,"
                   "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
                   "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)")
    if kind.name in ("Deployment", "ReplicaSet") and old["spec"]["selector"] != new["spec"].get("selector"):
        faults.add("spec.selector", "Invalid value", new["spec"].get("selector"), "field is immutable")
    if kind.name == "Service":
        before, after = old["spec"].get("clusterIP"), new["spec"].get("clusterIP")
        if before and after and before != after and "ExternalName" not in (old["spec"]["type"], new["spec"]["type"]):
            faults.add("spec.clusterIPs[0]", "Invalid value", [after], "may not change once set")
    if kind.name in ("ConfigMap", "Secret"):
        if old.get("immutable") and any(old.get(f) != new.get(f) for f in ("data", "binaryData", "immutable")):
            field = "immutable" if not new.get("immutable") else "data"
            faults.add(field, "Forbidden", why="field is immutable when `immutable` is set")
        if kind.name == "Secret" and old.get("type") != new.get("type"):
            faults.add("type", "Invalid value", new.get("type"), "field is immutable")
    added = [f for f in new["metadata"].get("finalizers") or () if f not in (old["metadata"].get("finalizers") or ())]
    if is_deleting(old) and added:
        listed = ", ".join(f'"{f}"' for f in added)
        faults.add("metadata.finalizers", "Forbidden", why="no new finalizers can be added if the object is being deleted, found new "
                   f"finalizers []string{{{listed}}}")


class Request:
    """One request as its handler read it. warnings: sentences for Warning headers, gathered on the way."""

    def __init__(self, method, target, headers, body, user):
        path, _, query = target.partition("?")
        self.method, self.path, self.headers, self.body, self.user = method, urllib.parse.unquote(path), headers, body, user
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.warnings, self.kind, self.namespace, self.name, self.subresource = [], None, "", None, ""
        self.content_type = headers.get("Content-Type", "")

    @property
    def dry_run(self):
        return "dryRun" in self.query

    def flag(self, name):
        return self.query.get(name, "false").lower() in ("true", "1", "t", "")


def route(request):
    """Set kind, namespace (None: all), name and subresource by the path. Raises ApiError 404."""
    parts = [part for part in request.path.split("/") if part]
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    if rest and rest[0] == "watch":                             # deprecated, but Kubernetes still answers it
        request.query["watch"], rest = "1", rest[1:]
    namespace = None
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in RESOURCES:
        namespace, rest = rest[1], rest[2:]
    kind = RESOURCES.get((group, version, rest[0])) if rest else None
    if not kind or len(rest) > 3 or namespace is not None and not kind.namespaced:
        raise no_such_resource()
    request.kind, request.name = kind, rest[1] if len(rest) > 1 else None
    request.namespace = namespace if kind.namespaced else ""
    request.subresource = rest[2] if len(rest) > 2 else ""
    if request.subresource and request.subresource not in kind.subresources or kind.namespaced and namespace is None and request.name:
        raise no_such_resource()


class Form(namedtuple("Form", "kind version include columns")):
    """How the client wants its answer: kind "" for the objects, "Table" or "PartialObjectMetadata"."""


def negotiate(accept, query):
    """The Form by the Accept header; the first that we can give. Raises ApiError 406."""
    for choice in (accept or "*/*").split(","):
        media, *parameters = [part.strip() for part in choice.split(";")]
        if media not in ("application/json", "application/*", "*/*"):
            continue
        given = dict(p.split("=", 1) for p in parameters if "=" in p)
        kind = given.get("as", "").replace("MetadataList", "Metadata")
        if not kind:
            return Form("", "", "", True)
        if kind in ("Table", "PartialObjectMetadata") and given.get("g") == "meta.k8s.io" and given.get("v") in ("v1", "v1beta1"):
            return Form(kind, "meta.k8s.io/" + given["v"], query.get("includeObject", "Metadata"), True)
    raise ApiError(406, "NotAcceptable", "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, "
                   "application/vnd.kubernetes.protobuf", {})


Answer = namedtuple("Answer", "code body content_type headers")


def answer(code, body, content_type="application/json", headers=()):
    return Answer(code, body if isinstance(body, bytes) else dumps(body) + b"\n", content_type, dict(headers))


class Api:
    """The verbs. Every method may run in any thread."""

    def __init__(self, k2d):
        self.k2d, self.settings, self.store = k2d, k2d.settings, k2d.store

    def handle(self, request):
        """The Answer to a request for resources; a watch or a log is a function that takes over the connection."""
        route(request)
        r, name = request, request.name
        if r.subresource == "log" and r.method == "GET":
            return self.log(r)
        verbs = {("GET", False): self.watch if r.flag("watch") else self.list, ("POST", False): self.post, ("DELETE", False): self.delete_all,
                 ("GET", True): self.watch if r.flag("watch") and not r.subresource else self.get, ("PUT", True): self.update,
                 ("PATCH", True): self.update, ("DELETE", True): self.delete}
        verb = verbs.get((r.method, name is not None))
        if not verb or r.subresource and r.method in ("DELETE", "POST") or r.subresource == "log":
            raise wrong_method()
        wanted = {"get": "get", "list": "list", "watch": "watch", "post": "create", "update": "update", "delete": "delete",
                  "delete_all": "deletecollection"}[verb.__name__]
        if wanted not in r.kind.verbs.split():
            raise wrong_method()
        return verb(r)

    def find(self, kind, namespace, name):
        obj = self.store.get(kind.name, namespace or "", name)
        if not obj:
            raise not_found(kind, name)
        return obj

    # -- reading

    def get(self, request):
        kind = request.kind
        row = self.store.row(kind.name, (request.namespace or "", request.name))
        if not row:
            raise not_found(kind, request.name)
        form = negotiate(request.headers.get("Accept"), request.query)
        if request.subresource == "scale":
            return answer(200, to_scale(json.loads(row.raw)))
        return answer(200, shown(kind, row.raw, form))

    def selection(self, request):
        """(label Requirements, field terms, name or None) of a list or watch."""
        labels = parse_selector(request.query.get("labelSelector", ""))
        terms = parse_field_selector(request.kind, request.query.get("fieldSelector", ""))
        name = request.name or next((value for path, equal, value in terms if path == "metadata.name" and equal), None)
        return labels, [t for t in terms if t != ("metadata.name", True, name)], name

    def list(self, request):
        check_options("ListOptions", request.query)
        labels, terms, name = self.selection(request)
        form, limit, start = negotiate(request.headers.get("Accept"), request.query), self.limit(request), self.start(request)
        version, rows = self.store.snapshot(request.kind.name, request.namespace)
        since = parse_version(request.query.get("resourceVersion"))
        if since > version:
            raise ApiError(504, "Timeout", f"Too large resource version: {since}, current: {version}",
                           {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}, retry_after=1)
        if request.query.get("resourceVersionMatch") == "Exact" and since != version:
            raise ApiError(410, "Expired", "The resourceVersion for the provided list is too old.")
        picked = [(key, row) for key, row in rows if (name is None or key[1] == name) and key > start and (not labels or selects(labels, row.labels))
                  and (not terms or field_matches(terms, json.loads(row.raw)))]
        meta = {"resourceVersion": str(version)}
        if limit and len(picked) > limit:
            token = dumps({"v": "meta.k8s.io/v1", "rv": version, "start": "/".join(picked[limit - 1][0])})
            meta["continue"] = base64.urlsafe_b64encode(token).decode().rstrip("=")
            if not labels and not terms:
                meta["remainingItemCount"] = len(picked) - limit
            picked = picked[:limit]
        raws = [row.raw for _, row in picked]
        if form.kind:
            objects = [json.loads(raw) for raw in raws]
            body = to_table(request.kind, objects, form) if form.kind == "Table" else {
                "kind": "PartialObjectMetadataList", "apiVersion": form.version, "items": [partial_metadata(o, form) for o in objects]}
            return answer(200, {**body, "metadata": meta})
        head = {"kind": request.kind.name + "List", "apiVersion": group_version(request.kind), "metadata": meta}
        prefix = b'{"kind":"%s","apiVersion":"%s",' % (request.kind.name.encode(), group_version(request.kind).encode())
        items = b",".join(b"{" + raw[len(prefix):] if raw.startswith(prefix) else raw for raw in raws)
        return answer(200, b'%s,"items":[%s]}\n' % (dumps(head)[:-1], items))

    @staticmethod
    def limit(request):
        try:
            return int(request.query.get("limit") or 0)
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing {dumps(request.query["limit"]).decode()}: invalid syntax')

    @staticmethod
    def start(request):
        """The key after which a continued list goes on."""
        token = request.query.get("continue")
        if not token:
            return ("", "")
        try:
            found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            namespace, name = found["start"].split("/")
            return namespace, name
        except (ValueError, KeyError, TypeError, AttributeError):
            raise bad_request("invalid continue token: continue key is not valid: it was not made by this server")

    def watch(self, request):
        check_options("ListOptions", request.query)
        labels, terms, name = self.selection(request)
        form = negotiate(request.headers.get("Accept"), request.query)
        watch = Watch(request.kind, request.namespace, name, labels, terms, form, request.flag("allowWatchBookmarks"))
        since = parse_version(request.query.get("resourceVersion"))
        try:
            seconds = int(request.query.get("timeoutSeconds") or random.randrange(1800, 3600))
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing {dumps(request.query["timeoutSeconds"]).decode()}: invalid syntax')
        initial = request.query.get("sendInitialEvents") in ("true", "1")
        try:
            if initial or not since:
                watch.version, rows = self.store.snapshot(request.kind.name, request.namespace, watch)
                first = [watch.encode("ADDED", row.raw) for key, row in rows if watch.matches(key, row.raw, row.labels)]
                if initial and watch.bookmarks:
                    first.append(watch.bookmark(watch.version, initial=True))
            else:
                watch.version, changes = self.store.since(since, watch)
                first = list(filter(None, (watch.event(change, {}) for change in changes if change.kind is request.kind)))
        except ApiError as error:                               # 410: on the stream, as Kubernetes tells it
            first, watch = [chunk(dumps({"type": "ERROR", "object": error.status}) + b"\n"), b"0\r\n\r\n"], None
        return lambda handler: handler.serve_watch(watch, first, seconds)

    # -- writing

    def read(self, request, type_, kind=None):
        """The body of a request as a clean object of message type_; its warnings noted. Raises ApiError 400, 415, 422."""
        duplicates = [] if self.validation(request) != "Ignore" else None
        body = parse_body(request.body, request.content_type, type_, duplicates)
        return self.cleaned(request, body, type_, kind, duplicates or [])

    @staticmethod
    def validation(request):
        return request.query.get("fieldValidation") or "Warn"

    def cleaned(self, request, body, type_, kind, duplicates=()):
        findings = Findings()
        expected, named = (kind.name, group_version(kind)) if kind else (type_, None), (body.get("kind"), body.get("apiVersion"))
        if kind and named[0] and named[0] != kind.name:
            raise bad_request(f"{named[0]} in version \"{kind.version}\" cannot be handled as a {kind.name}: converting "
                              f"({kind.version}.{named[0]}) to (core.{kind.name}): unknown conversion")
        if kind and named[1] and named[1] != group_version(kind):
            raise bad_request(f"{kind.name} in version \"{named[1]}\" cannot be handled as a {kind.name}: no kind \"{kind.name}\" is "
                              f"registered for version \"{named[1]}\" in scheme \"pkg/runtime/scheme.go:111\"")
        version = kind.version if kind else "v1"
        try:
            obj = clean_message(message(type_), body, findings, "")
        except Mismatch as error:
            raise bad_request(f'{expected[0]} in version "{version}" cannot be handled as a {expected[0]}: {error}')
        faults = [f'unknown field "{path}"' for path in findings.unknown] + [f'duplicate field "{path}"' for path in duplicates]
        if faults and self.validation(request) == "Strict":
            raise bad_request(f'{expected[0]} in version "{version}" cannot be handled as a {expected[0]}: strict decoding error: '
                              + ", ".join(faults))
        if self.validation(request) == "Warn":
            request.warnings += faults
        request.warnings += [f"{path}: accepted, but k2d does not act on it" for path in findings.hints]
        if kind:
            refused = Faults()
            for path in findings.refused:
                refused.add(path, "Forbidden", why="k2d cannot honour this field, and the pod would run wrongly without it"
                            if "containers" in path or "spec" in path else "k2d cannot honour this field")
            refused.check(kind, dig(obj, "metadata", "name", default=""))
            obj = {"kind": kind.name, "apiVersion": group_version(kind), **{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")}}
        return obj

    def post(self, request):
        check_options("CreateOptions", request.query)
        kind = request.kind
        if request.namespace is None:
            raise wrong_method()
        obj = self.read(request, kind.name, kind)
        if kind.namespaced and obj["metadata"].get("namespace") not in (None, "", request.namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        created = self.create(kind, request.namespace, obj, request.dry_run, request)
        negotiated = negotiate(request.headers.get("Accept"), request.query)
        return answer(201, shown(kind, dumps(created), negotiated))

    def create(self, kind, namespace, obj, dry_run=False, request=None):
        """Admit and store a new object; returns it as stored. Controllers call this too. Raises ApiError."""
        if request is None:                                     # our own: into the same shape
            obj = clean_message(message(kind.name), obj, Findings(), "")
        obj = {**{"kind": kind.name, "apiVersion": group_version(kind)}, **obj}
        meta = obj["metadata"]
        for field in ("selfLink", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "generation"):
            meta.pop(field, None)
        if kind.namespaced:
            meta["namespace"] = namespace
        else:
            meta.pop("namespace", None)
        with self.store.transaction():
            if kind.namespaced:
                self.check_namespace(kind, namespace, meta.get("name", ""))
            if not meta.get("name") and meta.get("generateName"):
                base = meta["generateName"][:58]
                meta["name"] = next(name for name in iter(lambda: base + "".join(random.choices(SAFE_LETTERS, k=5)), "")
                                    if not self.store.row(kind.name, (namespace, name)))
            meta.update(uid=new_uid(), creationTimestamp=now())
            if kind.name in GENERATION:
                meta["generation"] = 1
            if "status" in kind.subresources:
                obj["status"] = {}
            self.prepare(kind, obj, None)
            if self.store.row(kind.name, (meta.get("namespace", ""), meta["name"])):
                raise already_exists(kind, meta["name"])
            obj["metadata"] = {key: meta[key] for key in META_ORDER if key in meta}
            if not dry_run:
                self.store.put(kind, obj)
        return obj

    def check_namespace(self, kind, namespace, name):
        row = self.store.row("Namespace", ("", namespace))
        if not row:
            raise not_found(KIND["Namespace"], namespace)
        if b'"phase":"Terminating"' in row.raw:
            raise forbidden(kind, name, f"unable to create new content in namespace {namespace} because it is being terminated",
                            [{"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated",
                              "field": "metadata.namespace"}])

    def prepare(self, kind, obj, old):
        """Defaults, allocation and validation of an object about to be stored. Raises ApiError 403, 422."""
        fill_defaults(kind.name, obj)
        status = obj.get("status")
        DEFAULTS.get(kind.name, lambda obj: None)(obj)
        if old and status is not None:
            obj["status"] = status                              # defaults are for new objects
        faults = Faults()
        validate_meta(kind, obj["metadata"], faults)
        if not is_foreign(obj):
            VALIDATE.get(kind.name, lambda obj, faults: None)(obj, faults)
        if old and not faults:
            validate_update(kind, old, obj, faults)
        faults.check(kind, obj["metadata"].get("name", ""))
        if kind.name == "Pod" and not old:
            account = obj["spec"]["serviceAccountName"]
            if account != "default" and not self.store.row("ServiceAccount", (obj["metadata"]["namespace"], account)):
                raise forbidden(kind, obj["metadata"]["name"], "error looking up service account "
                                f"{obj['metadata']['namespace']}/{account}: serviceaccount \"{account}\" not found")
        if kind.name == "Service":
            self.allocate(kind, obj, old)

    def allocate(self, kind, service, old):
        """Give a Service its cluster address and node ports, or check those it asks for. Raises ApiError 422."""
        spec, faults, before = service["spec"], Faults(), (old or {}).get("spec", {})
        others = [s for s in self.store.list("Service") if s["metadata"]["uid"] != service["metadata"]["uid"]]
        if spec["type"] == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(field, None)
        else:
            wanted = spec.get("clusterIP") or (spec.get("clusterIPs") or [None])[0] or before.get("clusterIP")
            taken = {s["spec"].get("clusterIP") for s in others} | {self.settings.dns_ip, self.settings.upstream_ip}
            if not wanted:
                free = (str(self.settings.service_cidr[n]) for n in range(16, self.settings.service_cidr.num_addresses - 1))
                wanted = next((ip for ip in free if ip not in taken), "")
            elif wanted != "None" and wanted != before.get("clusterIP"):
                if ipaddress.ip_address(wanted) not in self.settings.service_cidr:
                    faults.add("spec.clusterIPs", "Invalid value", [wanted], f"failed to allocate IP {wanted}: the provided network does not "
                               "match the current range")
                elif wanted in taken:
                    faults.add("spec.clusterIPs", "Invalid value", [wanted], f"failed to allocate IP {wanted}: provided IP is already allocated")
            spec.update(clusterIP=wanted, clusterIPs=[wanted])
        if spec["type"] in ("NodePort", "LoadBalancer"):
            taken = {(p["nodePort"], p.get("protocol")) for s in others for p in s["spec"].get("ports") or () if p.get("nodePort")}
            kept = {(p["port"], p.get("protocol")): p["nodePort"] for p in before.get("ports") or () if p.get("nodePort")}
            for i, port in enumerate(spec.get("ports") or ()):
                wanted, protocol = port.get("nodePort") or kept.get((port["port"], port.get("protocol"))), port.get("protocol")
                if wanted and wanted not in NODE_PORTS:
                    faults.add(f"spec.ports[{i}].nodePort", "Invalid value", wanted, "provided port is not in the valid range. The range of "
                               f"valid ports is {NODE_PORTS[0]}-{NODE_PORTS[-1]}")
                elif wanted and (wanted, protocol) in taken:
                    faults.add(f"spec.ports[{i}].nodePort", "Invalid value", wanted, "provided port is already allocated")
                while not wanted or not port.get("nodePort") and (wanted, protocol) in taken:
                    wanted = random.choice(NODE_PORTS)
                port["nodePort"] = wanted
                taken.add((wanted, protocol))
        else:
            for port in spec.get("ports") or ():
                port.pop("nodePort", None)
        faults.check(kind, service["metadata"]["name"])

    def update(self, request):
        """PUT and PATCH, of an object or of its subresource."""
        kind, is_patch = request.kind, request.method == "PATCH"
        check_options("PatchOptions" if is_patch else "UpdateOptions", request.query)
        type_ = "Scale" if request.subresource == "scale" else kind.name
        if not is_patch:
            given = self.read(request, type_, None if type_ == "Scale" else kind)
            if given["metadata"].get("name") not in (None, request.name):
                raise bad_request(f"the name of the object ({given['metadata']['name']}) does not match the name on the URL ({request.name})")
            if given["metadata"].get("namespace") not in (None, "", request.namespace):
                raise bad_request("the namespace of the object does not match the namespace on the URL")
        else:
            patch = self.read_patch(request)
        with self.store.transaction():
            old = self.find(kind, request.namespace, request.name)
            if is_patch:
                target = to_scale(old) if type_ == "Scale" else old
                merged = patch(type_, target)
                if not isinstance(merged, dict):
                    raise unprocessable()
                given = self.cleaned(request, merged, type_, None if type_ == "Scale" else kind)
                if given["metadata"].get("name") != request.name:
                    raise bad_request(f"the name of the object ({given['metadata'].get('name')}) does not match the name on the URL ({request.name})")
            version = given["metadata"].get("resourceVersion")
            if version and version != old["metadata"]["resourceVersion"]:
                raise conflict(kind, request.name)
            if given["metadata"].get("uid") not in (None, old["metadata"]["uid"]):
                raise conflict(kind, request.name, f"Precondition failed: UID in precondition: {given['metadata']['uid']}, UID in object meta: "
                               f"{old['metadata']['uid']}")
            new = self.changed(kind, old, given, request.subresource)
            if not request.dry_run:
                new = self.settle(kind, new, keep=is_foreign(old))
        if type_ == "Scale":
            return answer(200, to_scale(new))
        return answer(200, shown(kind, dumps(new), negotiate(request.headers.get("Accept"), request.query)))

    def read_patch(self, request):
        """A function (message type, object) -> patched object, by the Content-Type. Raises ApiError 400, 415."""
        media = request.content_type.partition(";")[0].strip()
        merges = {"application/json-patch+json": lambda type_, obj: json_patch(obj, body), "application/merge-patch+json":
                  lambda type_, obj: merge_patch(obj, body), "application/strategic-merge-patch+json":
                  lambda type_, obj: strategic_merge(type_, obj, body)}
        if media not in merges:
            raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        try:
            body = parse_json(request.body)
        except (ValueError, RecursionError) as error:
            at_end = getattr(error, "pos", 0) >= len(request.body.rstrip())
            raise bad_request(f"error decoding patch: {'unexpected end of JSON input' if at_end else error}")
        if media == "application/json-patch+json" and not isinstance(body, list):
            raise bad_request(f"error decoding patch: json: cannot unmarshal {JSON_TYPE.get(type(body), 'null')} into Go value of type "
                              "[]handlers.jsonPatchOp")
        if media != "application/json-patch+json" and not isinstance(body, dict):
            raise bad_request(f"error decoding patch: json: cannot unmarshal {JSON_TYPE.get(type(body), 'null')} into Go value of type "
                              "map[string]interface {}")
        return merges[media]

    def changed(self, kind, old, given, subresource):
        """The object that results from old when a client gives this: what a client may not write stays."""
        if subresource == "scale":
            new = json.loads(dumps(old))
            new["spec"]["replicas"] = dig(given, "spec", "replicas", default=0)
        elif subresource == "status":
            new = {**old, "status": given.get("status", {})}
            conditions = new["status"].get("conditions") if kind.name == "Pod" else None
            for each in conditions or ():
                each.setdefault("lastTransitionTime", None)
            return new
        elif subresource == "finalize":
            return {**old, "spec": given.get("spec", {})}
        else:
            new = dict(given)
            if "status" in kind.subresources:
                new["status"] = old.get("status", {})
        meta = {**given["metadata"], **{field: old["metadata"].get(field) for field in SERVER_FIELDS}} if subresource != "scale" else dict(old["metadata"])
        if meta.get("deletionTimestamp") is None:
            meta.pop("deletionTimestamp", None)
        new["metadata"] = {field: meta[field] for field in META_ORDER if meta.get(field) is not None}
        if kind.name == "Pod" and new["spec"].get("nodeName") is None and old["spec"].get("nodeName"):
            new["spec"]["nodeName"] = old["spec"]["nodeName"]
        self.prepare(kind, new, old)
        if kind.name in GENERATION and {k: v for k, v in new.items() if k not in ("metadata", "status")} != \
                {k: v for k, v in old.items() if k not in ("metadata", "status")}:
            new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
            new["metadata"] = {field: new["metadata"][field] for field in META_ORDER if field in new["metadata"]}
        return new

    def settle(self, kind, obj, keep=False):
        """Store a changed object, or remove it if it was only waiting for its last finalizer."""
        with self.store.transaction():
            waiting = kind.name in ("Pod", "Namespace") and (kind.name == "Namespace" or obj["spec"].get("nodeName"))
            if is_deleting(obj) and not obj["metadata"].get("finalizers") and not waiting:
                obj["metadata"].pop("finalizers", None)
                return self.store.remove(kind, obj)
            return self.store.put(kind, obj, keep)

    # -- deleting

    def delete(self, request):
        check_options("DeleteOptions", request.query)
        options = self.delete_options(request)
        with self.store.transaction():
            obj = self.find(request.kind, request.namespace, request.name)
            left = self.delete_object(request.kind, obj, options, request.dry_run or bool(options.get("dryRun")))
        if left or request.kind.name in RETURNS_OBJECT:
            return answer(200, shown(request.kind, dumps(left or obj), negotiate(request.headers.get("Accept"), request.query)))
        return answer(200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                            "details": dict(about(request.kind, request.name), uid=obj["metadata"]["uid"])})

    def delete_options(self, request):
        options = self.read(request, "DeleteOptions") if request.body.strip() else {}
        for name in ("propagationPolicy", "gracePeriodSeconds", "orphanDependents"):
            if name in request.query:
                options[name] = request.query[name]
        try:
            if "gracePeriodSeconds" in options:
                options["gracePeriodSeconds"] = max(0, int(options["gracePeriodSeconds"]))
        except ValueError:
            raise bad_request(f"gracePeriodSeconds: {options['gracePeriodSeconds']}: want a number of seconds")
        check_options("DeleteOptions", options)
        return options

    def delete_object(self, kind, obj, options, dry_run=False):
        """Delete one object inside or outside a transaction; returns what is left of it, None if it is gone."""
        meta, name = obj["metadata"], obj["metadata"]["name"]
        wanted = options.get("preconditions") or {}
        for field, word, more in (("uid", "UID", "deleted and then recreated"), ("resourceVersion", "ResourceVersion", "modified")):
            if wanted.get(field) not in (None, meta[field]):
                raise ApiError(409, "Conflict", f'Operation cannot be fulfilled on {kind.name} "{name}": the {word} in the precondition '
                               f"({wanted[field]}) does not match the {word} in record ({meta[field]}). The object might have been {more}",
                               {"name": name, "kind": kind.name})
        if kind.name == "Namespace" and name in SYSTEM_NAMESPACES:
            raise forbidden(kind, name, "this namespace may not be deleted")
        policy = options.get("propagationPolicy")
        if str(options.get("orphanDependents", "")).lower() == "true":
            policy = "Orphan"
        finalizers = [f for f in meta.get("finalizers") or () if f not in ("orphan", "foregroundDeletion")]
        finalizers += {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(policy, [])
        grace = self.grace(kind, obj, options)
        if kind.name == "Namespace":
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        elif not finalizers and grace == 0 and not is_foreign(obj):
            with self.store.transaction():
                if not dry_run:
                    if kind.name == "Pod" and obj["spec"].get("nodeName"):
                        self.store.bury(meta["uid"])
                    self.store.remove(kind, obj)
            if kind.name == "Pod":
                meta.update(deletionTimestamp=now(), deletionGracePeriodSeconds=0)
            return None
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + (grace or 0)))
        before = meta.get("deletionTimestamp")
        if not before or until < before:
            meta["deletionTimestamp"] = until
            if grace is not None:
                meta["deletionGracePeriodSeconds"] = grace
            if not before and kind.name in GENERATION:
                meta["generation"] = meta.get("generation", 1) + 1
        if finalizers:
            meta["finalizers"] = finalizers
        obj["metadata"] = {field: meta[field] for field in META_ORDER if field in meta}
        if not dry_run:
            with self.store.transaction():
                self.store.put(kind, obj, keep=is_foreign(obj))
        return obj

    @staticmethod
    def grace(kind, obj, options):
        """The seconds a deletion waits for the containers: 0 for all but pods, and for pods that have none."""
        if kind.name != "Pod":
            return None if kind.name == "Namespace" else 0
        if not obj["spec"].get("nodeName") or dig(obj, "status", "phase") in ("Succeeded", "Failed"):
            return 0
        given = options.get("gracePeriodSeconds")
        return obj["spec"].get("terminationGracePeriodSeconds", 30) if given is None else given

    def delete_all(self, request):
        check_options("DeleteOptions", request.query)
        options, (labels, terms, name) = self.delete_options(request), self.selection(request)
        if request.namespace is None:
            raise wrong_method()
        with self.store.transaction():
            found = [obj for obj in self.store.list(request.kind.name, request.namespace, labels)
                     if (name is None or obj["metadata"]["name"] == name) and field_matches(terms, obj)]
            for obj in found:
                self.delete_object(request.kind, obj, options, request.dry_run or bool(options.get("dryRun")))
        return answer(200, {"kind": request.kind.name + "List", "apiVersion": group_version(request.kind),
                            "metadata": {"resourceVersion": str(self.store.version)}, "items": found})

    # -- logs

    def log(self, request):
        pod = self.find(request.kind, request.namespace, request.name)
        names = [c["name"] for c in pod["spec"]["containers"]]
        name = request.query.get("container") or names[0]
        if name not in names:
            raise bad_request(f"container {name} is not valid for pod {request.name}")
        if not pod["spec"].get("nodeName"):
            return answer(200, b"", "text/plain")
        found = self.k2d.pods.found.get(pod["metadata"]["uid"], {}).get(name)
        status = next((s for s in dig(pod, "status", "containerStatuses", default=()) if s["name"] == name), {})
        waiting = dig(status, "state", "waiting", "reason")
        if not found or not engine_time(found.started_at):
            raise bad_request(f'container "{name}" in pod "{request.name}" is waiting to start: {waiting or "ContainerCreating"}')
        query, follow = self.log_query(request, found, status)
        try:
            sock, rest = self.k2d.engine.stream("GET", f"/containers/{found.id}/logs?{urllib.parse.urlencode(query)}")
        except EngineError as error:
            raise ApiError(500, "InternalError", f"the engine cannot read the log: {error}")
        limit = int(request.query["limitBytes"]) if request.query.get("limitBytes", "").isdigit() else None
        return lambda handler: handler.serve_log(sock, rest, found.tty, limit, follow)

    @staticmethod
    def log_query(request, found, status):
        """The engine's parameters for PodLogOptions. Raises ApiError 400, 422."""
        q, faults, numbers = request.query, Faults(), {}
        options = Kind("PodLogOptions", "", "", "", "", (), False, "", (), (), "")
        for field, low in (("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)):
            if field in q:
                if not re.fullmatch(r"-?\d{1,18}", q[field]):
                    raise bad_request(f"strconv.ParseInt: parsing {dumps(q[field]).decode()}: invalid syntax")
                numbers[field] = int(q[field])
                if numbers[field] < low:
                    faults.add(field, "Invalid value", numbers[field], f"must be greater than or equal to {low}" if not low else "must be greater than 0")
        if "sinceSeconds" in q and "sinceTime" in q:
            faults.add("", "Forbidden", why="at most one of `sinceTime` or `sinceSeconds` may be specified")
        faults.check(options, request.name)
        # One log holds all runs of a container; each begins where the one before it ended, and is cut off there.
        since, until = found.run_began, ""
        if request.flag("previous") and "previous" in q:
            last = dig(status, "lastState", "terminated")
            if not last:
                raise bad_request(f'previous terminated container "{found.container}" in pod "{request.name}" not found')
            since, until = last.get("startedAt") or "", found.run_began or (found.started_at if found.running else "")
        begin = exact_seconds(since)
        if "sinceSeconds" in q:
            begin = max(begin, f"{time.time() - numbers['sinceSeconds']:020.9f}")
        if "sinceTime" in q:
            begin = max(begin, f"{seconds_of(q['sinceTime']) or 0:020.9f}")
        follow = request.flag("follow") and "follow" in q
        query = {"stdout": 1, "stderr": 1, "follow": int(follow), "timestamps": int(request.flag("timestamps") and "timestamps" in q),
                 "tail": numbers.get("tailLines", "all")}
        if begin.strip("0."):
            query["since"] = begin.lstrip("0")
        if until:
            query["until"] = exact_seconds(until).lstrip("0")
        return query, follow

    # -- what is not about resources

    def discovery(self, request):
        """The Answer to /api, /apis and below, plain or aggregated; None if the path is none of these."""
        parts = [part for part in request.path.split("/") if part]
        groups = list(dict.fromkeys((kind.group, kind.version) for kind in KINDS))
        if parts in (["api"], ["apis"]):
            mine = [(g, v) for g, v in groups if bool(g) == (parts[0] == "apis")]
            found = re.search(r"g=apidiscovery\.k8s\.io;v=(v2|v2beta1);as=APIGroupDiscoveryList", request.headers.get("Accept", ""))
            if found:
                items = [{"metadata": {"name": g} if g else {}, "versions": [{"version": v, "resources": aggregated(g, v), "freshness": "Current"}]}
                         for g, v in mine]
                return tagged(request, {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/" + found[1], "metadata": {}, "items": items},
                              f"application/json;g=apidiscovery.k8s.io;v={found[1]};as=APIGroupDiscoveryList")
            if parts == ["api"]:
                return answer(200, {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [
                    {"clientCIDR": "0.0.0.0/0", "serverAddress": f"{self.settings.host_ip}:{self.settings.port}"}]})
            return answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [api_group(g, v) for g, v in mine]})
        if len(parts) == 2 and parts[0] == "apis" and any(g == parts[1] for g, _ in groups):
            return answer(200, {"kind": "APIGroup", "apiVersion": "v1", **next(api_group(g, v) for g, v in groups if g == parts[1])})
        gv = ("", parts[1]) if parts[0] == "api" and len(parts) == 2 else tuple(parts[1:]) if parts[0] == "apis" and len(parts) == 3 else None
        if gv not in groups:
            return None
        return answer(200, {"kind": "APIResourceList", **({"apiVersion": "v1"} if gv[0] else {}),
                            "groupVersion": "/".join(filter(None, gv)), "resources": resource_list(*gv)})

    def version(self):
        import platform
        machine = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}.get(platform.machine(), platform.machine())
        major, minor, _ = SERVES[1:].split(".")
        return answer(200, {"major": major, "minor": minor, "gitVersion": f"{SERVES}+k2d{VERSION}", "gitCommit": "", "gitTreeState": "clean",
                            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "python" + platform.python_version(),
                            "platform": "linux/" + machine})


META_ORDER = ("name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
              "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers", "managedFields")
SERVER_FIELDS = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
                 "deletionGracePeriodSeconds", "generateName", "managedFields")


def is_foreign(obj):
    return obj["kind"] == "Pod" and FOREIGN in (obj["metadata"].get("annotations") or ())


def parse_version(text):
    """A resourceVersion of a query as int, 0 if absent. Raises ApiError 400."""
    if text and not text.isdigit():
        raise bad_request(f'invalid resource version: resourceVersion: Invalid value: {dumps(text).decode()}: strconv.ParseUint: parsing '
                          f'{dumps(text).decode()}: invalid syntax')
    return int(text or 0)


def exact_seconds(text):
    """The engine's timestamp as Unix seconds with nine decimals, zero-padded so that such texts compare."""
    fraction = re.search(r"\.(\d+)", text or "")
    return f"{int(seconds_of(text) or 0):010d}.{(fraction[1] if fraction else '')[:9]:0<9}"


def to_scale(obj):
    """The autoscaling/v1 Scale of a Deployment or ReplicaSet."""
    meta, spec = obj["metadata"], obj["spec"]
    replicas = spec.get("replicas", 1)
    return {"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if k in meta},
            "spec": {"replicas": replicas} if replicas else {},
            "status": {"replicas": dig(obj, "status", "replicas", default=0), "selector": selector_text(spec.get("selector"))}}


def shown(kind, raw, form):
    """An object at rest in the form its reader asked for."""
    if not form.kind:
        return raw
    obj = json.loads(raw)
    return dumps(to_table(kind, [obj], form) if form.kind == "Table" else partial_metadata(obj, form))


def partial_metadata(obj, form):
    return {"kind": "PartialObjectMetadata", "apiVersion": form.version, "metadata": obj["metadata"]}


# -- discovery


def api_group(group, version):
    only = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [only], "preferredVersion": only}


SUB_VERBS = {"log": "get", "finalize": "update"}


def subresources(kind):
    """(name, kind dict, verbs) of each subresource."""
    for name in sorted(kind.subresources):
        other = {"group": "autoscaling", "version": "v1", "kind": "Scale"} if name == "scale" else {"kind": kind.name}
        yield name, other, SUB_VERBS.get(name, "get patch update").split()


def resource_list(group, version):
    out = []
    for kind in sorted((k for k in KINDS if (k.group, k.version) == (group, version)), key=lambda k: k.plural):
        entry = {"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.name, "verbs": kind.verbs.split()}
        if kind.short:
            entry["shortNames"] = list(kind.short)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        out.append(entry)
        for name, other, verbs in subresources(kind):
            out.append({"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced, **other, "verbs": verbs})
    return out


def aggregated(group, version):
    out = []
    for kind in sorted((k for k in KINDS if (k.group, k.version) == (group, version)), key=lambda k: k.plural):
        entry = {"resource": kind.plural, "responseKind": {"group": "", "version": "", "kind": kind.name},
                 "scope": "Namespaced" if kind.namespaced else "Cluster", "singularResource": kind.singular, "verbs": kind.verbs.split()}
        if kind.short:
            entry["shortNames"] = list(kind.short)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        subs = [{"subresource": name, "responseKind": {"group": "", "version": "", **other}, "verbs": verbs} for name, other, verbs in subresources(kind)]
        out.append({**entry, **({"subresources": subs} if subs else {})})
    return out


def tagged(request, body, content_type):
    """An answer with its ETag, or 304 if the client has it."""
    data = dumps(body) + b"\n"
    etag = '"' + hashlib.sha256(data).hexdigest().upper() + '"'
    headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": "public"}
    return answer(304, b"", content_type, headers) if request.headers.get("If-None-Match") == etag else answer(200, data, content_type, headers)


# -- Table: the columns and cells of `kubectl get` (pkg/printers/internalversion)


def duration(seconds):
    """Seconds as kubectl writes ages: 45s, 5m30s, 3h, 2d4h, 1y20d (apimachinery, HumanDuration)."""
    seconds = int(seconds)
    if seconds < 0:
        return "<invalid>" if seconds < -1 else "0s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400

    def pair(whole, unit, part, small):
        return f"{whole}{unit}{part}{small}" if part else f"{whole}{unit}"
    for limit, text in ((120, lambda: f"{seconds}s"), (600, lambda: pair(minutes, "m", seconds % 60, "s")), (10800, lambda: f"{minutes}m"),
                        (28800, lambda: pair(hours, "h", minutes % 60, "m")), (172800, lambda: f"{hours}h"),
                        (691200, lambda: pair(days, "d", hours % 24, "h")), (86400 * 730, lambda: f"{days}d"),
                        (86400 * 365 * 8, lambda: pair(days // 365, "y", days % 365, "d"))):
        if seconds < limit:
            return text()
    return f"{days // 365}y"


def age(timestamp):
    then = seconds_of(timestamp)
    return "<unknown>" if then is None else duration(time.time() - then)


def containers_of(spec):
    return ",".join(c["name"] for c in spec["containers"]), ",".join(c["image"] for c in spec["containers"])


def pod_cells(pod):
    """Ready, Status, Restarts ... of a pod (printPod)."""
    status, spec = pod.get("status", {}), pod["spec"]
    statuses, reason = status.get("containerStatuses") or [], status.get("reason") or status.get("phase", "Unknown")
    if any(c["type"] == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in status.get("conditions") or ()):
        reason = "SchedulingGated"
    restarts, last, running = sum(s["restartCount"] for s in statuses), None, False
    for s in reversed(statuses):
        ended = seconds_of(dig(s, "lastState", "terminated", "finishedAt"))
        last = max(filter(None, (last, ended)), default=None)
        terminated = dig(s, "state", "terminated")
        if dig(s, "state", "waiting", "reason"):
            reason = s["state"]["waiting"]["reason"]
        elif terminated:
            reason = terminated.get("reason") or (f"Signal:{terminated['signal']}" if terminated.get("signal") else f"ExitCode:{terminated['exitCode']}")
        elif s["ready"] and "running" in s["state"]:
            running = True
    if reason == "Completed" and running:
        reason = "Running" if is_condition(pod, "Ready") else "NotReady"
    if is_deleting(pod):
        reason = "Terminating"
    gates = spec.get("readinessGates") or ()
    return [f"{sum(s['ready'] for s in statuses)}/{len(spec['containers'])}", reason,
            f"{restarts} ({duration(time.time() - last)} ago)" if restarts and last else str(restarts), age(pod["metadata"]["creationTimestamp"]),
            status.get("podIP") or "<none>", spec.get("nodeName") or "<none>", status.get("nominatedNodeName") or "<none>",
            f"{sum(is_condition(pod, g['conditionType']) for g in gates)}/{len(gates)}" if gates else "<none>"]


def node_cells(node):
    status, spec = node.get("status", {}), node["spec"]
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    ready = {"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready"), "Unknown")
    roles = sorted(k[len("node-role.kubernetes.io/"):] for k in node["metadata"].get("labels") or {} if k.startswith("node-role.kubernetes.io/"))
    address = lambda type_: next((a["address"] for a in status.get("addresses") or () if a["type"] == type_), "<none>")
    info = status.get("nodeInfo") or {}
    return [ready + (",SchedulingDisabled" if spec.get("unschedulable") else ""), ",".join(roles) or "<none>",
            age(node["metadata"]["creationTimestamp"]), info.get("kubeletVersion", ""), address("InternalIP"), address("ExternalIP"),
            *(info.get(k) or "<unknown>" for k in ("osImage", "kernelVersion", "containerRuntimeVersion"))]


def service_cells(service):
    spec = service["spec"]
    ports = ",".join(f"{p['port']}:{p['nodePort']}/{p['protocol']}" if p.get("nodePort") else f"{p['port']}/{p['protocol']}"
                     for p in spec.get("ports") or ()) or "<none>"
    external = {"ExternalName": spec.get("externalName"), "LoadBalancer": ",".join(i.get("ip") or i.get("hostname", "") for i in dig(
        service, "status", "loadBalancer", "ingress", default=())) or "<pending>"}.get(spec["type"]) or "<none>"
    return [spec["type"], spec.get("clusterIP") or "<none>", external, ports, age(service["metadata"]["creationTimestamp"]),
            selector_text(spec.get("selector"))]


def endpoint_list(pairs):
    shown = ",".join(f"{ip}:{port}" if port else ip for ip, port in pairs[:3])
    return (shown + (f" + {len(pairs) - 3} more..." if len(pairs) > 3 else "")) or "<none>"


def endpoints_cells(obj):
    pairs = [(a["ip"], p) for s in obj.get("subsets") or () for p in [q["port"] for q in s.get("ports") or ()] or [None] for a in s.get("addresses") or ()]
    return [endpoint_list(pairs), age(obj["metadata"]["creationTimestamp"])]


def slice_cells(obj):
    ports, ips = [str(p.get("port", "*")) for p in obj.get("ports") or ()], [a for e in obj.get("endpoints") or () for a in e["addresses"]]
    cut = lambda items, none: ",".join(items[:3]) + (f" + {len(items) - 3} more..." if len(items) > 3 else "") if items else none
    return [obj["addressType"], cut(ports, "<unset>"), cut(ips, "<unset>"), age(obj["metadata"]["creationTimestamp"])]


def event_cells(event):
    seen = event.get("lastTimestamp") or event.get("eventTime")
    first = event.get("firstTimestamp") or event.get("eventTime")
    target, source = event.get("involvedObject", {}), event.get("source") or {}
    return [age(seen), event.get("type", ""), event.get("reason", ""), f"{target.get('kind', '').lower()}/{target.get('name', '')}",
            target.get("fieldPath", ""), ", ".join(filter(None, (source.get("component") or event.get("reportingComponent"), source.get("host")))),
            (event.get("message") or "").strip(), age(first), event.get("count") or 1, event["metadata"]["name"]]


def replica_cells(rs):
    status, names = rs.get("status", {}), containers_of(rs["spec"]["template"]["spec"])
    return [rs["spec"].get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0), age(rs["metadata"]["creationTimestamp"]),
            *names, selector_text(rs["spec"]["selector"])]


def deployment_cells(d):
    status, names = d.get("status", {}), containers_of(d["spec"]["template"]["spec"])
    return [f"{status.get('readyReplicas', 0)}/{d['spec'].get('replicas', 1)}", status.get("updatedReplicas", 0), status.get("availableReplicas", 0),
            age(d["metadata"]["creationTimestamp"]), *names, selector_text(d["spec"]["selector"])]


def created(obj):
    return age(obj["metadata"]["creationTimestamp"])


COLUMNS = {  # kind -> (columns after Name: * only with -o wide, # an integer; cells after the name)
    "Namespace": ("Status Age", lambda o: [dig(o, "status", "phase", default=""), created(o)]),
    "Node": ("Status Roles Age Version Internal-IP* External-IP* OS-Image* Kernel-Version* Container-Runtime*", node_cells),
    "Pod": ("Ready Status Restarts Age IP* Node* Nominated_Node* Readiness_Gates*", pod_cells),
    "ConfigMap": ("Data Age", lambda o: [len(o.get("data") or ()) + len(o.get("binaryData") or ()), created(o)]),
    "Secret": ("Type Data Age", lambda o: [o.get("type", ""), len(o.get("data") or ()), created(o)]),
    "Service": ("Type Cluster-IP External-IP Port(s) Age Selector*", service_cells),
    "Endpoints": ("Endpoints Age", endpoints_cells),
    "EndpointSlice": ("AddressType Ports Endpoints Age", slice_cells),
    "ServiceAccount": ("Age", lambda o: [created(o)]),
    "ReplicaSet": ("Desired# Current# Ready# Age Containers* Images* Selector*", replica_cells),
    "Deployment": ("Ready Up-to-date Available Age Containers* Images* Selector*", deployment_cells),
    "Event": ("Last_Seen Type Reason Object Subobject* Source* Message First_Seen* Count* Name*", event_cells),
}


def to_table(kind, objects, form):
    """A meta.k8s.io Table of objects of one kind."""
    columns, cells = COLUMNS[kind.name]
    titles = columns.split() if kind.name == "Event" else ["Name", *columns.split()]
    definitions = [{"name": title.strip("*#").replace("_", " "), "type": "integer" if "#" in title else "string",
                    "format": "name" if title.strip("*") == "Name" else "", "description": "", "priority": int("*" in title)} for title in titles]
    rows = []
    for obj in objects:
        first = [] if kind.name == "Event" else [obj["metadata"]["name"]]
        shown = {"Object": obj, "None": None}.get(form.include, partial_metadata(obj, form))
        rows.append({"cells": first + cells(obj), "object": shown})
    version = objects[0]["metadata"]["resourceVersion"] if len(objects) == 1 else ""
    return {"kind": "Table", "apiVersion": form.version, "metadata": {"resourceVersion": version}, "columnDefinitions": definitions, "rows": rows}


# -- OpenAPI: SCHEMA again, in the words of clients; made when asked for, not kept

OPENAPI_SCALARS = {
    "string": {"type": "string"}, "int": {"type": "integer", "format": "int32"}, "bool": {"type": "boolean"}, "float": {"type": "number"},
    "bytes": {"type": "string", "format": "byte"}, "Time": {"type": "string", "format": "date-time"}, "Duration": {"type": "string"},
    "MicroTime": {"type": "string", "format": "date-time"}, "Quantity": {"type": "string"}, "Raw": {"type": "object"},
    "IntOrString": {"type": "string", "format": "int-or-string"}}


def openapi_field(field, root):
    """The schema of one field; root is where definitions stand."""
    base = OPENAPI_SCALARS.get(field.type) or {"$ref": root + "io.k8s." + field.type}
    if field.kind == "{}":
        return {"type": "object", "additionalProperties": base}
    strategies = ["merge"] * bool(field.merges) + ["retainKeys"] * field.retain
    out = {"type": "array", "items": base} if field.kind else dict(base) if not strategies else {"allOf": [base]}
    if field.kind:
        kind = "map" if field.keys else "set" if field.merges else "atomic"
        out["x-kubernetes-list-type"] = kind
        if kind == "map":
            out["x-kubernetes-list-map-keys"] = list(field.keys)
    if field.merges and field.keys:
        out["x-kubernetes-patch-merge-key"] = field.keys[0]
    return {**out, "x-kubernetes-patch-strategy": ",".join(strategies)} if strategies else out


def openapi_definitions(kinds, root):
    """{name: schema} of these kinds and all messages they reach."""
    out, todo = {}, [kind.name for kind in kinds] + ["DeleteOptions"]
    gvks = {kind.name: {"group": kind.group, "kind": kind.name, "version": kind.version} for kind in kinds}
    while todo:
        name = todo.pop()
        if "io.k8s." + name in out:
            continue
        fields = message(name).by_name.values()
        schema = {"type": "object", "properties": {field.name: openapi_field(field, root) for field in fields}}
        if name in gvks:
            schema["properties"].update(apiVersion={"type": "string"}, kind={"type": "string"})
            schema["x-kubernetes-group-version-kind"] = [gvks[name]]
        out["io.k8s." + name] = schema
        todo += [field.type for field in fields if field.type not in SCALARS]
    return out


WRITE_PARAMETERS = {"post": ("dryRun", "fieldManager", "fieldValidation"), "put": ("dryRun", "fieldManager", "fieldValidation"),
                    "patch": ("dryRun", "fieldManager", "fieldValidation", "force"), "delete": ("dryRun", "gracePeriodSeconds", "propagationPolicy")}
ACTIONS = {("get", 0): "list", ("post", 0): "post", ("delete", 0): "deletecollection",
           ("get", 1): "get", ("put", 1): "put", ("patch", 1): "patch", ("delete", 1): "delete"}


def openapi_paths(kinds, version3):
    out = {}
    for kind in kinds:
        base = f"/{'apis' if kind.group else 'api'}/{group_version(kind)}/" + ("namespaces/{namespace}/" if kind.namespaced else "") + kind.plural
        gvk = {"group": kind.group, "kind": kind.name, "version": kind.version}
        for path, one in ((base, 0), (base + "/{name}", 1)):
            out[path] = {}
            for (method, place), action in ACTIONS.items():
                if place == one:
                    scalar = {"schema": {"type": "string"}} if version3 else {"type": "string"}
                    out[path][method] = {"operationId": f"{action}{kind.name}", "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk,
                                         "parameters": [{"name": name, "in": "query", **scalar} for name in WRITE_PARAMETERS.get(method, ())],
                                         "responses": {"200": {"description": "OK"}}}
    return out


def openapi(request, parts):
    """The Answer to /openapi/v2, /openapi/v3 and /openapi/v3/GROUP VERSION; None for another path."""
    info = {"title": "Kubernetes", "version": SERVES}
    by_path = {}
    for kind in KINDS:
        by_path.setdefault(("apis/" if kind.group else "api/") + group_version(kind), []).append(kind)
    if parts == ["v3"]:
        stamp = hashlib.sha256((SCHEMA + VERSION + repr(KINDS)).encode()).hexdigest().upper()
        return answer(200, {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={stamp}"} for path in by_path}}, "application/json")
    if parts[:1] == ["v3"] and "/".join(parts[1:]) in by_path:
        kinds = by_path["/".join(parts[1:])]
        return tagged(request, {"openapi": "3.0.0", "info": info, "paths": openapi_paths(kinds, True), "components": {
            "schemas": openapi_definitions(kinds, "#/components/schemas/")}}, "application/json")
    if parts == ["v2"]:
        document = {"swagger": "2.0", "info": info, "paths": openapi_paths(KINDS, False), "definitions": openapi_definitions(KINDS, "#/definitions/")}
        if "protobuf" in request.headers.get("Accept", ""):
            return answer(200, to_gnostic("Document", document), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        return tagged(request, document, "application/json")
    return None


# gnostic's OpenAPIv2.proto, as far as we write it: message -> {JSON key: (field number, message; "" for text)}; "*" is any key
GNOSTIC = {
    "Document": {"swagger": (1, ""), "info": (2, "Info"), "paths": (8, "Paths"), "definitions": (9, "Definitions")},
    "Info": {"title": (1, ""), "version": (2, "")}, "Paths": {"*": (2, "PathItem")}, "Definitions": {"*": (1, "Schema")},
    "PathItem": {"get": (2, "Operation"), "put": (3, "Operation"), "post": (4, "Operation"), "delete": (5, "Operation"), "patch": (8, "Operation")},
    "Operation": {"operationId": (5, ""), "parameters": (8, "Parameter"), "x": 13},
    "Query": {"in": (2, ""), "name": (4, ""), "type": (6, "")},
    "Schema": {"$ref": (1, ""), "format": (2, ""), "additionalProperties": (21, "Wrapped"), "type": (22, "Text"), "items": (23, "Wrapped"),
               "allOf": (24, "Schema"), "properties": (25, "Definitions"), "x": 31},
}


def wire_bytes(number, data):
    """A length-delimited protobuf field."""
    def number_bytes(value):
        out = b""
        while value > 0x7F:
            out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
        return out + bytes([value])
    return number_bytes(number << 3 | 2) + number_bytes(len(data)) + data


def to_gnostic(name, value):
    """A part of an OpenAPI v2 document as gnostic's protobuf."""
    if name == "":
        return value.encode()
    if name == "Text":                                          # TypeItem
        return wire_bytes(1, value.encode())
    if name == "Wrapped":                                       # ItemsItem, AdditionalPropertiesItem
        return wire_bytes(1, to_gnostic("Schema", value))
    if name == "Parameter":                                     # ParametersItem > Parameter > NonBodyParameter > Query...
        return wire_bytes(1, wire_bytes(2, wire_bytes(3, to_gnostic("Query", value))))
    fields, out = GNOSTIC[name], []
    for key, item in value.items():
        if key.startswith("x-") and "x" in fields:              # NamedAny; its value as YAML, of which JSON is a part
            out.append(wire_bytes(fields["x"], wire_bytes(1, key.encode()) + wire_bytes(2, wire_bytes(2, dumps(item)))))
        elif "*" in fields:
            number, inner = fields["*"]
            out.append(wire_bytes(number, wire_bytes(1, key.encode()) + wire_bytes(2, to_gnostic(inner, item))))
        elif key in fields:
            number, inner = fields[key]
            out += [wire_bytes(number, to_gnostic(inner, each)) for each in (item if isinstance(item, list) else [item])]
    return b"".join(out)


# == 17. Server ==============================================================================
# Sockets. The hub waits for all of them in one thread without ever blocking; a request, once its head is complete, is lent
# a thread, and its connection comes back to the hub when the answer is out.


class Connection:
    """One client's TLS connection. It has one owner at a time: the hub, or the thread of its present request."""

    __slots__ = ("sock", "state", "buffer", "deadline", "watch", "out", "since", "mask")

    def __init__(self, sock):
        self.sock, self.state, self.buffer, self.deadline, self.watch = sock, "handshake", b"", None, None
        self.out, self.since, self.mask = deque(), time.monotonic(), 0


class Hub:
    """The one thread that waits: connections between requests, watches, timers, DNS, the engine's events. Without a timer
    due it sleeps until something happens. after() and call() are for any thread; all else is the hub's own."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.timers, self.calls, self.lock, self.order = [], deque(), threading.Lock(), 0
        self.ears, self.mouth = socket.socketpair()
        self.ears.setblocking(False)
        self.mouth.setblocking(False)
        self.selector.register(self.ears, selectors.EVENT_READ, self.on_wake)
        self.connections, self.parked, self.busy, self.queued = set(), {}, 0, deque()
        self.running, self.handle, self.context, self.bookmarks_due = True, None, None, False

    # -- for any thread

    def call(self, function, *args):
        """Have the hub call function(*args) soon."""
        self.calls.append((function, args))
        try:
            self.mouth.send(b".")
        except (BlockingIOError, OSError):
            return                                              # full of wake-ups, or closing: either way it will look

    def after(self, seconds, function, *args):
        """Have the hub call function(*args) in so many seconds."""
        with self.lock:
            self.order += 1
            first = not self.timers or time.monotonic() + seconds < self.timers[0][0]
            heapq.heappush(self.timers, (time.monotonic() + seconds, self.order, function, args))
        if first and threading.current_thread().name != "hub":
            self.call(lambda: None)

    # -- the loop

    def run(self):
        while self.running:
            with self.lock:
                wait = max(0, self.timers[0][0] - time.monotonic()) if self.timers else None
            for key, mask in self.selector.select(wait):
                self.guard(key.data, key.fileobj, mask)
            while self.calls:
                function, args = self.calls.popleft()
                self.guard(function, *args)
            while True:
                with self.lock:
                    if not self.timers or self.timers[0][0] > time.monotonic():
                        break
                    _, _, function, args = heapq.heappop(self.timers)
                self.guard(function, *args)

    @staticmethod
    def guard(function, *args):
        """A fault in one connection or timer is logged and costs the others nothing."""
        try:
            function(*args)
        except Exception:
            import traceback
            log("hub: " + traceback.format_exc())

    def on_wake(self, sock, mask):
        try:
            while sock.recv(4096):
                continue
        except BlockingIOError:
            return

    def stop(self):
        self.running = False

    # -- listening and handshakes

    def listen(self, port, context, handle):
        """Serve https on all addresses; handle(connection) runs in a request thread. Raises OSError."""
        self.context, self.handle = context, handle
        try:
            listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        except OSError as error:                                # no IPv6 in this kernel
            if error.errno == 98:
                raise
            listener = socket.create_server(("", port), backlog=128)
        listener.setblocking(False)
        self.listener = listener
        self.selector.register(listener, selectors.EVENT_READ, self.on_accept)

    def on_accept(self, listener, mask):
        for _ in range(16):
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                raw.setblocking(False)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 120)
                connection = Connection(self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False))
            except OSError:
                raw.close()
                continue
            if len(self.connections) >= CONNECTIONS:
                self.close(next(iter(self.parked), connection))     # the one idle for longest
            self.connections.add(connection)
            self.expect(connection, HEAD_SECONDS)
            self.on_readable(connection)

    def expect(self, connection, seconds):
        """Close the connection unless it gets on before the deadline."""
        deadline = connection.deadline = time.monotonic() + seconds
        self.after(seconds, lambda: connection.deadline == deadline and self.close(connection))

    def want(self, connection, mask):
        """Wait for the socket to become readable and/or writable."""
        data = lambda sock, ready: self.on_ready(connection, ready)
        if not connection.mask:
            self.selector.register(connection.sock, mask, data)
        elif connection.mask != mask:
            self.selector.modify(connection.sock, mask, data)
        connection.mask = mask

    def forget(self, connection):
        if connection.mask:
            self.selector.unregister(connection.sock)
            connection.mask = 0
        self.parked.pop(connection, None)
        connection.deadline = None

    def close(self, connection):
        self.forget(connection)
        self.connections.discard(connection)
        connection.state = "closed"
        if connection.watch:
            self.store.watches.discard(connection.watch)
            connection.watch = None
        connection.sock.close()

    def on_ready(self, connection, mask):
        if connection.state == "watch":
            self.on_watch(connection)
        else:
            self.on_readable(connection)

    def on_readable(self, connection):
        """Bring a handshake or a request's head on; hand a complete head to a thread."""
        try:
            if connection.state == "handshake":
                connection.sock.do_handshake()
                connection.state = "head"
            while True:
                data = connection.sock.recv(16384)
                if not data:
                    return self.close(connection)
                if not connection.buffer:
                    self.parked.pop(connection, None)
                    self.expect(connection, HEAD_SECONDS)
                connection.buffer += data
                if b"\r\n\r\n" in connection.buffer or b"\n\n" in connection.buffer or len(connection.buffer) > HEAD_BYTES:
                    return self.lend(connection)
        except ssl.SSLWantReadError:
            self.want(connection, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self.want(connection, selectors.EVENT_WRITE)
        except OSError:                                         # reset, no TLS at all, an unknown certificate authority
            self.close(connection)
        return None

    # -- requests

    def lend(self, connection):
        self.forget(connection)
        connection.state = "lent"
        if self.busy >= REQUEST_THREADS:
            self.queued.append(connection)
            return
        self.busy += 1
        threading.Thread(target=self.serve, args=(connection,), name="request", daemon=True).start()

    def serve(self, connection):
        """A request thread: answer what is asked on this connection, then give it back."""
        try:
            connection.sock.settimeout(IO_SECONDS)
            keep = self.handle(connection)
        except OSError:                                         # the client went away
            keep = False
        except Exception:
            import traceback
            log("request: " + traceback.format_exc())
            keep = False
        self.call(self.give_back, connection, keep)

    def give_back(self, connection, keep):
        self.busy -= 1
        if self.queued:
            self.lend(self.queued.popleft())
        if not keep or not self.running:
            return self.close(connection)
        connection.sock.setblocking(False)
        if connection.watch:
            connection.state = "watch"
            return self.on_watch(connection)
        connection.state, connection.since = "head", time.monotonic()
        self.parked[connection] = None                          # in order of their becoming idle
        return self.on_readable(connection)

    # -- watches

    def publish(self, changes, watches):
        """The store's listener: runs in the writer's thread."""
        if watches:
            self.call(self.deliver, changes, watches)

    def deliver(self, changes, watches):
        for change in changes:
            memo = {}
            for watch in watches:
                if watch.kind is change.kind and change.version > watch.version:
                    data = watch.event(change, memo)
                    if data:
                        watch.out.append(data)
                        watch.out_bytes += len(data)
                        watch.sent = change.version
        for watch in watches:
            if watch.connection and watch.out and watch.connection.state == "watch":
                self.on_watch(watch.connection)

    def on_watch(self, connection):
        """Send what a watch has to say; notice that its client has gone."""
        watch, sock = connection.watch, connection.sock
        try:
            while watch.out:
                sent = sock.send(watch.out[0])
                watch.out_bytes -= sent
                if sent == len(watch.out[0]):
                    watch.out.pop(0)
                else:
                    watch.out[0] = watch.out[0][sent:]
            if watch.ended:
                return self.close(connection)
            while True:
                if not sock.recv(4096):                         # a watch's client has nothing more to say
                    return self.close(connection)
        except ssl.SSLWantReadError:
            self.want(connection, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self.want(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        except OSError:
            return self.close(connection)
        if watch.out_bytes > WATCH_BYTES:
            self.close(connection)
        return None

    def start_watch(self, watch, seconds):
        """Timers of a watch that has begun: its end, and a bookmark a minute while anything changes."""
        self.after(seconds, self.end_watch, watch)

    def end_watch(self, watch):
        if watch.connection and watch.connection.watch is watch:
            watch.out.append(b"0\r\n\r\n")
            watch.ended = True
            if watch.connection.state == "watch":
                self.on_watch(watch.connection)

    def bookmarks(self):
        """Tell watches that asked for it which version they have reached; called while versions move."""
        self.bookmarks_due = False
        for watch in list(self.store.watches):
            if watch.bookmarks and watch.connection and watch.connection.state == "watch" and not watch.out and watch.sent < self.store.version:
                watch.sent = self.store.version
                watch.out.append(watch.bookmark(watch.sent))
                self.on_watch(watch.connection)

    # -- DNS

    def serve_dns(self, address, resolve):
        """Answer DNS on UDP and TCP at address, on a port of the kernel's choice, which is returned."""
        for _ in range(20):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                for sock in (udp, tcp):
                    sock.setsockopt(socket.IPPROTO_IP, 15, 1)     # IP_FREEBIND: the bridge may not be there yet
                    sock.setblocking(False)
                udp.bind((address, 0))
                tcp.bind(udp.getsockname())
                tcp.listen(16)
                break
            except OSError:                                     # TCP's port is taken: try another pair
                udp.close()
                tcp.close()
        else:
            raise OSError("no port for DNS at " + address)

        def on_query(sock, mask):
            for _ in range(64):
                try:
                    data, sender = sock.recvfrom(4096)
                    found = answer_dns(data, resolve)
                    if found:
                        sock.sendto(found, sender)
                except OSError:
                    return

        def on_connect(sock, mask):
            client, _ = sock.accept()
            client.setblocking(False)
            state = {"data": b""}
            self.selector.register(client, selectors.EVENT_READ, lambda client, mask: on_data(client, state))
            self.after(HEAD_SECONDS, lambda: finish(client))

        def finish(client):
            if client.fileno() >= 0:
                self.selector.unregister(client)
                client.close()

        def on_data(client, state):
            try:
                got = client.recv(4096)
                state["data"] += got
                size = struct.unpack_from("!H", state["data"])[0] if len(state["data"]) > 1 else 65535
                if len(state["data"]) >= size + 2:
                    found = answer_dns(state["data"][2:size + 2], resolve, 65535) or b""
                    client.send(struct.pack("!H", len(found)) + found)
                    state["data"] = state["data"][size + 2:]
                if not got or len(state["data"]) > 4096:
                    finish(client)
            except OSError:
                finish(client)

        self.selector.register(udp, selectors.EVENT_READ, on_query)
        self.selector.register(tcp, selectors.EVENT_READ, on_connect)
        return udp.getsockname()[1]

    # -- the engine's events

    def follow(self, sock, data, on_line, on_end):
        """Call on_line(bytes) for each line that comes on a socket, on_end() when it ends."""
        state = {"data": data}

        def on_data(sock, mask):
            try:
                got = sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                got = b""
            *lines, state["data"] = (state["data"] + got).split(b"\n")
            for line in lines:
                self.guard(on_line, line)
            if not got:
                self.selector.unregister(sock)
                sock.close()
                on_end()

        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, on_data)
        *lines, state["data"] = data.split(b"\n")
        for line in lines:
            self.guard(on_line, line)


class Body(io.RawIOBase):
    """What comes on a connection, beginning with what the hub has read already."""

    def __init__(self, connection):
        self.connection = connection

    def readable(self):
        return True

    def readinto(self, into):
        c = self.connection
        if c.buffer:
            size = min(len(into), len(c.buffer))
            into[:size], c.buffer = c.buffer[:size], c.buffer[size:]
            return size
        data = c.sock.recv(min(len(into), 65536))
        into[:len(data)] = data
        return len(data)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: parsed by http.server from the bytes the hub has read, answered, and no more."""

    protocol_version = "HTTP/1.1"

    def __init__(self, connection, k2d):            # not the base class's: it would own the connection until its end
        self.connection_, self.k2d, self.sock = connection, k2d, connection.sock
        self.rfile, self.keep, self.request, self.warnings = Body(connection), False, None, []
        self.close_connection, self.requestline, self.request_version, self.command = True, "", "HTTP/1.1", ""

    def line(self, limit):
        """A line of the head, from the hub's buffer."""
        head, found, rest = self.connection_.buffer.partition(b"\n")
        if not found or len(head) >= limit:
            raise ApiError(431, "", "Request header fields too large")
        self.connection_.buffer = rest
        return head + b"\n"

    def run(self):
        """Serve one request; returns whether the connection can serve another."""
        try:
            end = self.connection_.buffer.find(b"\r\n\r\n")
            end = end + 4 if end >= 0 else self.connection_.buffer.find(b"\n\n") + 2
            if end < 2 or end > HEAD_BYTES:
                raise ApiError(431, "RequestHeaderFieldsTooLarge", f"the head of the request is larger than {HEAD_BYTES} bytes")
            head = io.BytesIO(self.connection_.buffer[:end])
            self.connection_.buffer = self.connection_.buffer[end:]
            self.rfile, self.raw_requestline = head, head.readline(65537)
            if not self.raw_requestline.strip() or not self.parse_request():
                return False
            self.rfile = Body(self.connection_)
            self.respond()
        except ApiError as error:
            self.refuse(error)
        return self.keep and not self.close_connection

    def send_error(self, code, message=None, explain=None):
        """What http.server itself refuses, as a Status."""
        self.close_connection = True
        self.refuse(ApiError(int(code), "BadRequest" if code == 400 else "", message or self.responses.get(code, ("error",))[0]))

    def refuse(self, error):
        self.send(answer(error.code, error.status, headers={"Retry-After": "1"} if "retryAfterSeconds" in error.status.get("details", {}) else {}))

    def respond(self):
        path = self.path.partition("?")[0]
        if path in ("/healthz", "/livez", "/readyz", "/livez/ping", "/readyz/ping") and self.command in ("GET", "HEAD"):
            self.read_body()
            return self.send(answer(200, b"ok", "text/plain; charset=utf-8"))
        if path == "/version" and self.command in ("GET", "HEAD"):
            self.read_body()
            return self.send(self.k2d.api.version())
        try:
            user = self.k2d.access.user(self.headers.get("Authorization"))
        except ApiError as error:
            self.close_connection |= self.has_body()            # a stranger's body is not read
            return self.refuse(error)
        try:
            request = self.request = Request(self.command, self.path, self.headers, self.read_body(), user)
            found = self.dispatch(request)
        except ApiError as error:
            return self.refuse(error)
        except (OSError, ConnectionError):
            raise
        except Exception:                                       # a fault of ours: the client learns of it, the log says where
            import traceback
            log(f"{self.command} {path}: {traceback.format_exc()}")
            return self.refuse(ApiError(500, "InternalError", "Internal error occurred: the log of k2d says more"))
        if isinstance(found, Answer):
            return self.send(found)
        return found(self)

    def dispatch(self, request):
        parts = [part for part in request.path.split("/") if part]
        if not parts and request.method == "GET":
            groups = [f"/apis/{k.group}" for k in KINDS if k.group]
            return answer(200, {"paths": sorted({"/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/openapi/v2", "/openapi/v3",
                                                 "/version", *groups, *(f"/apis/{group_version(k)}" for k in KINDS if k.group)})})
        if request.method in ("GET", "HEAD"):
            found = self.k2d.api.discovery(request) or parts[:1] == ["openapi"] and openapi(request, parts[1:])
            if found:
                return found
        known = any((k.group, k.version) == (tuple(parts[1:3]) if parts[0] == "apis" else ("", parts[1])) for k in KINDS) if len(parts) > 1 else False
        if parts[0] not in ("api", "apis") or not known:
            return answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
        return self.k2d.api.handle(request)

    def has_body(self):
        return self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers

    def read_body(self):
        """The whole body, by Content-Length or chunked. Raises ApiError 400, 413."""
        too_large = ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {BODY_BYTES}")
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            reader, data = io.BufferedReader(self.rfile), bytearray()
            while True:
                try:
                    size = int(reader.readline(1024).partition(b";")[0], 16)
                except ValueError:
                    self.close_connection = True
                    raise bad_request("the chunked body is malformed")
                if len(data) + size > BODY_BYTES:
                    self.close_connection = True
                    raise too_large
                data += reader.read(size)
                if not size:
                    while reader.readline(1024).strip():        # trailers
                        continue
                    self.connection_.buffer = reader.peek() + self.connection_.buffer if len(reader.peek(0)) else self.connection_.buffer
                    return bytes(data)
                reader.readline(1024)
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit():
            self.close_connection = True
            raise bad_request(f"Content-Length: {length}: want a number")
        if int(length) > BODY_BYTES:
            self.close_connection = True
            raise too_large
        data, left = [], int(length)
        while left:
            got = self.rfile.read(left)
            if not got:
                raise OSError("hung up in the middle of a body")
            data.append(got)
            left -= len(got)
        return b"".join(data)

    def send(self, found):
        """Head and body of an Answer in one write."""
        self.keep = True
        headers = {"Audit-Id": new_uid(), "Cache-Control": "no-cache, private", "Content-Type": found.content_type, **found.headers,
                   "Content-Length": str(len(found.body))}
        self.write_head(found.code, headers, found.body if self.command != "HEAD" and found.code != 304 else b"")

    def write_head(self, code, headers, body=b""):
        if self.close_connection:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {code} {self.responses.get(code, ('Status',))[0]}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        for warning in dict.fromkeys(self.request.warnings if self.request else ()):
            text = warning.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'Warning: 299 - "{text}"')
        self.sock.sendall("\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body)

    # -- answers that go on

    def serve_watch(self, watch, first, seconds):
        """Send the first events of a watch, then leave it to the hub; watch None: that was all."""
        self.keep = True
        try:
            self.write_head(200, {"Audit-Id": new_uid(), "Cache-Control": "no-cache, private", "Content-Type": "application/json",
                                  "Transfer-Encoding": "chunked"}, b"".join(first))
        except OSError:
            self.k2d.store.watches.discard(watch)
            raise
        if watch:
            self.connection_.watch, watch.connection = watch, self.connection_
            self.k2d.hub.call(self.k2d.hub.start_watch, watch, seconds)
            self.close_connection = False

    def serve_log(self, sock, rest, tty, limit, follow):
        """Pass a container's log on until it ends, the client goes, or limit bytes are out; one loop over both ends."""
        self.keep = False
        self.close_connection = True
        with sock:
            self.write_head(200, {"Cache-Control": "no-cache, private", "Content-Type": "text/plain", "Transfer-Encoding": "chunked"})
            buffer = rest
            while limit is None or limit > 0:
                frames, buffer = log_frames(buffer, tty)
                text = b"".join(data for _, data in frames)[:limit]
                if text:
                    self.sock.sendall(chunk(text))
                    limit = None if limit is None else limit - len(text)
                    continue
                if follow and not self.sock.pending():
                    ready, _, _ = select.select([sock, self.sock], [], [])
                    if self.sock in ready:
                        break                                   # the client has hung up
                got = sock.recv(65536)
                if not got:
                    break
                buffer += got
            self.sock.sendall(b"0\r\n\r\n")


# == 18. Command line ========================================================================
# The wiring, and the commands.


class K2d:
    """All the parts of one running k2d, and the few things that concern several of them: the node and the Events."""

    def __init__(self, settings):
        self.settings, self.capacity, self.engine_info = settings, {}, {}
        os.makedirs(settings.data_path, 0o700, exist_ok=True)
        self.store = Store(settings.path("k2d.db"))
        self.access = Access(settings)
        self.ca, self.hub, self.engine = self.access.ca, Hub(), Engine(settings.docker_host)
        self.hub.store = self.store
        self.network, self.names, self.api = Network(settings, self.engine, self.store), Names(settings, self.store), Api(self)
        self.pods = Pods(self)
        self.controllers = Controllers(self)
        self.store.listeners += [self.hub.publish, self.controllers.observe, self.on_change]
        self.retry_s, self.ready = 1, threading.Event()

    def on_change(self, changes, watches):
        """While versions move, watches that want bookmarks get one a minute; while they do not, nothing wakes."""
        if not self.hub.bookmarks_due and any(watch.bookmarks for watch in watches):
            self.hub.bookmarks_due = True
            self.hub.after(60, self.hub.bookmarks)

    # -- start and end

    def serve(self):
        threading.current_thread().name = "main"
        self.network.check_overlap()
        self.bootstrap()
        self.network.dns_port = self.hub.serve_dns(self.settings.gateway, self.names.resolve)
        self.pods.load()
        hub = threading.Thread(target=self.hub.run, name="hub", daemon=True)
        hub.start()
        self.connect_engine()
        self.ready.wait(10)                 # what is listed should be true from the first answer on, if the engine is there
        try:
            self.hub.listen(self.settings.port, self.access.context(), lambda connection: Handler(connection, self).run())
        except OSError as error:
            raise SystemExit(f"k2d: port {self.settings.port}: {error.strerror}")
        self.hub.call(lambda: None)
        write_file(self.settings.path("kubeconfig"), self.access.kubeconfig().encode())
        log(f"serving https://{self.settings.host_ip}:{self.settings.port}")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        log("stopping; containers go on")
        self.hub.call(self.hub.stop)
        self.controllers.queue.close()
        self.pods.queue.close()
        self.store.close()

    def bootstrap(self):
        """The objects that every cluster has."""
        with self.store.transaction():
            for name in (*SYSTEM_NAMESPACES, "kube-node-lease"):
                if not self.store.row("Namespace", ("", name)):
                    self.api.create(KIND["Namespace"], "", {"metadata": {"name": name}})
                self.controllers.queue.add(("namespace", "", name))
            if not self.store.row("Service", ("default", "kubernetes")):
                self.api.create(KIND["Service"], "default", {
                    "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
                    "spec": {"type": "ClusterIP", "clusterIP": self.settings.kubernetes_ip,
                             "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": self.settings.port}]}})
            self.kubernetes_endpoints()

    def kubernetes_endpoints(self):
        """Where default/kubernetes leads: to us."""
        ip, port = self.settings.host_ip, {"name": "https", "port": self.settings.port, "protocol": "TCP"}
        derive = self.controllers.derive
        derive("Endpoints", "default", "kubernetes", {COMPUTED[0]: "k2d"}, self.store.get("Endpoints", "default", "kubernetes"), None,
               {"subsets": [{"addresses": [{"ip": ip}], "ports": [port]}]})
        derive("EndpointSlice", "default", "kubernetes", {COMPUTED[1]: "k2d", "kubernetes.io/service-name": "kubernetes"},
               self.store.get("EndpointSlice", "default", "kubernetes"), None,
               {"addressType": "IPv4", "endpoints": [{"addresses": [ip], "conditions": {"ready": True}}], "ports": [port]})

    # -- the engine, as it comes and goes

    def connect_engine(self):
        threading.Thread(target=self.connect_once, name="engine", daemon=True).start()

    def connect_once(self):
        """Greet the engine, hear its events, then look at everything: in this order, so that nothing falls between."""
        try:
            self.engine.negotiate()
            self.engine_info = self.engine.get("/info")
            self.network.ensure()
            self.update_node(True)
            filters = urllib.parse.quote(json.dumps({"type": ["container"], "event": list(EVENT_ACTIONS)}))
            sock, rest = self.engine.stream("GET", "/events?filters=" + filters)
            self.hub.call(self.hub.follow, sock, rest, self.on_engine_event, self.on_engine_gone)
            self.pods.list_all()
            self.controllers.start()
            self.retry_s = 1
        except (EngineError, ApiError) as error:
            log(f"{error}; trying again in {self.retry_s} s")
            self.hub.after(self.retry_s, self.connect_engine)
            self.retry_s = min(self.retry_s * 2, 30)
        finally:
            self.ready.set()

    def on_engine_event(self, line):
        if line.strip():
            self.pods.on_event(json.loads(line))

    def on_engine_gone(self):
        log("the engine hung up; its containers and our rules stay as they are")
        self.pods.known = False
        threading.Thread(target=self.update_node, args=(False,), daemon=True).start()
        self.hub.after(self.retry_s, self.connect_engine)

    def update_node(self, ready):
        """The Node object: this machine as the engine describes it."""
        info, s = self.engine_info, self.settings
        machine = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}.get(info.get("Architecture"), info.get("Architecture", ""))
        disk = os.statvfs(s.data_path)
        capacity = self.capacity = {"cpu": str(info.get("NCPU", 1)), "memory": f"{info.get('MemTotal', 0) >> 10}Ki", "pods": "110",
                                    "ephemeral-storage": f"{disk.f_blocks * disk.f_frsize >> 10}Ki"}
        with self.store.transaction():
            node = self.store.get("Node", "", s.node) or {"kind": "Node", "apiVersion": "v1", "metadata": {
                "name": s.node, "uid": new_uid(), "creationTimestamp": now()}, "spec": {"podCIDR": str(s.pod_cidr), "podCIDRs": [str(s.pod_cidr)]}}
            node["metadata"]["labels"] = {**(node["metadata"].get("labels") or {}), "kubernetes.io/hostname": s.node, "kubernetes.io/os": "linux",
                                          "kubernetes.io/arch": machine, "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": machine}
            old = dig(node, "status", "conditions", default=[])
            pressure = [condition(old, type_, "False", reason, text, lastHeartbeatTime=None) for type_, reason, text in (
                ("MemoryPressure", "KubeletHasSufficientMemory", "the engine has sufficient memory available"),
                ("DiskPressure", "KubeletHasNoDiskPressure", "the engine has no disk pressure"),
                ("PIDPressure", "KubeletHasSufficientPID", "the engine has sufficient PID available"))]
            network = condition(old, "NetworkUnavailable", "True" if self.network.problem else "False", "NoNAT" if self.network.problem
                                else "RulesInstalled", self.network.problem or "Services are rules of the kernel's NAT", lastHeartbeatTime=None)
            ready_now = condition(old, "Ready", "True" if ready else "Unknown", "KubeletReady" if ready else "NodeStatusUnknown",
                                  "the engine answers" if ready else "the engine does not answer", lastHeartbeatTime=None)
            for each in (*pressure, network, ready_now):
                each["lastHeartbeatTime"] = each["lastTransitionTime"]
            node["status"] = {
                "capacity": capacity, "allocatable": dict(capacity), "conditions": [network, *pressure, ready_now],
                "addresses": [{"type": "InternalIP", "address": s.host_ip}, {"type": "Hostname", "address": s.node}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": s.port}},
                "nodeInfo": {"machineID": read_line("/etc/machine-id"), "systemUUID": read_line("/etc/machine-id"),
                             "bootID": read_line("/proc/sys/kernel/random/boot_id"), "kernelVersion": info.get("KernelVersion", ""),
                             "osImage": info.get("OperatingSystem", ""), "containerRuntimeVersion": f"docker://{info.get('ServerVersion', '')}",
                             "kubeletVersion": f"{SERVES}+k2d{VERSION}", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": machine}}
            self.store.put(KIND["Node"], node)

    # -- Events

    def event(self, obj, type_, reason, text, container=None, component="kubelet"):
        """Record an Event about an object; one that repeats is counted. In memory, for an hour."""
        meta, stamp = obj["metadata"], now()
        path = {"fieldPath": f"spec.containers{{{container}}}"} if container else {}
        about_ = {"kind": obj["kind"], "namespace": meta.get("namespace", ""), "name": meta["name"], "uid": meta["uid"],
                  "apiVersion": obj["apiVersion"], "resourceVersion": meta.get("resourceVersion", ""), **path}
        namespace = meta.get("namespace") or "default"
        name = f"{meta['name']}.{safe_hash([meta['uid'], reason, text, container], 16)}"
        with self.store.transaction():
            old = self.store.get("Event", namespace, name)
            if old:
                old.update(count=old["count"] + 1, lastTimestamp=stamp)
                self.store.put(KIND["Event"], old)
                return
            self.store.put(KIND["Event"], {
                "kind": "Event", "apiVersion": "v1",
                "metadata": {"name": name, "namespace": namespace, "uid": new_uid(), "creationTimestamp": stamp},
                "involvedObject": about_, "reason": reason, "message": text[:1024],
                "source": {"component": component, **({"host": self.settings.node} if component == "kubelet" else {})},
                "firstTimestamp": stamp, "lastTimestamp": stamp, "count": 1, "type": type_, "eventTime": None,
                "reportingComponent": component, "reportingInstance": self.settings.node if component == "kubelet" else ""})


def read_line(path):
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


def serve(settings):
    if os.geteuid():
        raise SystemExit("k2d: serve needs root, for the engine's socket and the NAT rules")
    os.umask(0o022)
    sys.setrecursionlimit(500)              # no honest object is deeper; deeper JSON must not use up a small stack
    threading.stack_size(512 << 10)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})     # for sigwait; threads inherit it
    K2d(settings).serve()


def kubeconfig(settings):
    try:
        with open(settings.path("kubeconfig")) as file:
            print(file.read(), end="")
    except OSError as error:
        raise SystemExit(f"k2d: {error.filename}: {error.strerror}; has `k2d.py serve` run with this data path?")


def reset(settings):
    """Undo what serve did on this host, but for what others made: containers of pods, network, NAT rules, data."""
    engine, path = Engine(settings.docker_host), settings.path("k2d.db")
    if os.path.exists(path):
        store = Store(path)                 # refuses while a k2d runs
        uids = {store.get("Pod", *key)["metadata"]["uid"] for key in store.keys("Pod")} | store.buried
        engine.negotiate()
        for info in engine.get("/containers/json?all=1"):
            if (info.get("Labels") or {}).get(POD_UID) in uids or settings.network in dig(info, "NetworkSettings", "Networks", default={}):
                engine.request("DELETE", f"/containers/{info['Id']}?force=1&v=1")
        Network(settings, engine, store).remove()
        store.close()
        shutil.rmtree(settings.data_path)
    elif os.path.isdir(settings.data_path) and os.listdir(settings.data_path):
        raise SystemExit(f"k2d: {settings.data_path} is not a data path of k2d; nothing was removed")
    log(f"removed pods, network {settings.network}, NAT rules and {settings.data_path}")


COMMANDS = {"serve": serve, "kubeconfig": kubeconfig, "reset": reset}


def usage():
    lines = ["k2d: the Kubernetes API on a container engine", "", "  k2d.py serve [OPTIONS]        serve until SIGTERM; containers outlive it",
             "  k2d.py kubeconfig [OPTIONS]   print the admin's kubeconfig", "  k2d.py reset [OPTIONS]        remove all that k2d made on this host",
             "  k2d.py version", "", "options, each with its environment variable and default:"]
    return "\n".join(lines + [f"  --{flag:<18} {variable:<19} {text}{f' ({default})' if default else ''}" for flag, variable, default, text in OPTIONS])


def lean(argv):
    """Start again from compiled code, with one malloc arena: compiling this file in the serving process would cost it
    20 MB for life. The code rests in the data path, so the folder of k2d.py need not be writable."""
    import py_compile
    settings = Settings(argv[2:], os.environ)
    compiled = settings.path("k2d.pyc")
    os.makedirs(settings.data_path, 0o700, exist_ok=True)
    py_compile.compile(os.path.abspath(__file__), compiled, doraise=True)
    os.execve(sys.executable, [sys.executable, compiled, *argv[1:]], {**os.environ, "MALLOC_ARENA_MAX": "1"})


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
        args = [part for arg in argv[2:] for part in (arg.split("=", 1) if arg.startswith("--") else [arg])]
        COMMANDS[command](Settings(args, os.environ))


if __name__ == "__main__":
    main(sys.argv)
