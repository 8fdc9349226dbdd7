# k2d on Debian 12 or Raspberry Pi OS. `make` lists what can be asked for; all of it wants root.

# What may be set, as in `make demo PORT=7443`.
PORT   ?= $(or $(K2D_PORT),6443)
DATA   ?= $(or $(K2D_DATA_PATH),/var/lib/k2d)
PYTHON ?= python3

# What demo and test leave behind until `make demo-stop`: kubeconfig, logs, process ids, and a file named
# `created-data` or `started-service` for each thing that was not there before them.
STATE := /var/lib/k2d-demo
IMAGE := k2d-demo:1

K2D     := $(PYTHON) $(CURDIR)/k2d.py
KUBECTL := kubectl --kubeconfig $(STATE)/kubeconfig

# One shell for each recipe; make takes blanks and dashes off the start of its lines, so YAML stands outside of them.
# `su` without a dash leaves the sbin folders out of PATH.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
.ONESHELL:
.SILENT:
.NOTPARALLEL:
.PHONY: help demo demo-stop test bench install uninstall root packages engine demo-image demo-k2d demo-app

help:
	cat <<-'end'
	make demo       start k2d with a small application; installs what is missing
	make demo-stop  remove that application, and whatever else make demo started
	make test       run all tests against the engine of this machine
	make bench      measure memory, wake-ups and delays
	make install    run k2d as a systemd service
	make uninstall  remove that service
	end

# == What must be there =====================================================================

# A word for each need: the command (or file) looked for, and Debian's package that brings it.
NEEDS = openssl:openssl iptables:iptables ip:iproute2
demo test bench: NEEDS += kubectl:kubernetes-client busybox:busybox-static
test bench: NEEDS += /etc/ssl/certs/ca-certificates.crt:ca-certificates strace:strace

root:
	[ "$$(id -u)" = 0 ] || { echo "This wants root: sudo make $(MAKECMDGOALS)"; exit 1; }

packages: root
	mkdir -p -m 700 $(STATE)
	missing=()
	for need in $(NEEDS); do
	  command -v $${need%%:*} >/dev/null || [ -e $${need%%:*} ] || missing+=($${need##*:})
	done
	$(PYTHON) -c 'import ssl, sqlite3' 2>/dev/null || missing+=(python3)
	docker version >/dev/null 2>&1 || { command -v dockerd && command -v docker; } >/dev/null || missing+=(docker.io)
	[ $${#missing[@]} -gt 0 ] || exit 0
	apt_get() {
	  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$$@" \
	    </dev/null >>$(STATE)/apt.log 2>&1
	}
	give_up() { tail -n 20 $(STATE)/apt.log; echo "apt-get failed, see above"; exit 1; }
	echo "==> install $${missing[*]}"
	apt_get update || echo "    apt-get update failed; going on with the lists that are there"
	apt_get install --no-install-recommends "$${missing[@]}" || give_up
	# From Debian 13 on, the engine's command line is a package of its own.
	command -v docker >/dev/null || apt_get install --no-install-recommends docker-cli || give_up

engine: packages
	answers() { docker version >/dev/null 2>&1; }
	! answers || exit 0
	echo "==> start the engine"
	# A kernel without nf_tables: use the older backend of the same program.
	iptables -w -nL >/dev/null 2>&1 || ! iptables-legacy -w -nL >/dev/null 2>&1 ||
	  update-alternatives --set iptables $$(command -v iptables-legacy) >/dev/null
	if [ -d /run/systemd/system ]; then
	  systemctl start docker
	  touch $(STATE)/started-service
	elif ! kill -0 $$(cat /var/run/docker.pid 2>/dev/null) 2>/dev/null; then   # else it is just starting
	  mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
	  rm -f /var/run/docker.pid
	  setsid dockerd </dev/null >>$(STATE)/dockerd.log 2>&1 &
	  echo $$! >$(STATE)/dockerd.pid
	fi
	for _ in {1..300}; do ! answers || exit 0; sleep 0.2; done
	docker version || tail -n 20 $(STATE)/dockerd.log
	echo "The engine did not start within a minute, see above"; exit 1

# == The demo ===============================================================================

demo: demo-app
	echo
	echo "Go on:  export KUBECONFIG=$(STATE)/kubeconfig"
	echo "        kubectl -n demo get pods -o wide; kubectl -n demo scale deployment web --replicas 5"
	echo "        docker run -d --name plain $(IMAGE) sleep 600; kubectl get pods"
	echo "Stop:   make demo-stop"

# A web server that says who it is, from this machine's own busybox (and its libraries, if it is not static).
demo-image: engine
	! docker image inspect $(IMAGE) >/dev/null 2>&1 || exit 0
	echo "==> make the image $(IMAGE)"
	root=$$(mktemp -d)
	trap 'rm -rf "$$root"' EXIT
	mkdir -p $$root/bin $$root/tmp $$root/www/cgi-bin
	busybox=$$(command -v busybox)
	libraries=$$(ldd $$busybox 2>/dev/null | grep -o '/[^ ]*') || libraries=
	cp -L --parents $$libraries $$root 2>/dev/null || [ -z "$$libraries" ]
	cp -L $$busybox $$root/bin/busybox
	for name in $$(busybox --list); do [ $$name = busybox ] || ln -s busybox $$root/bin/$$name; done
	cat >$$root/www/cgi-bin/index.cgi <<-'end'
	#!/bin/sh
	printf 'Content-Type: text/plain\n\n'
	echo "$${GREETING:-Hello} I am $$(hostname); the secret has $$(cat /secret/* 2>/dev/null | wc -c) bytes."
	end
	chmod -R a+rX $$root
	chmod +x $$root/www/cgi-bin/index.cgi
	tar -C $$root -c . |
	  docker import -c 'CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]' -c 'EXPOSE 8080' - $(IMAGE) >/dev/null

# Uses the k2d that answers, else starts one. Its kubeconfig ends up in STATE.
demo-k2d: demo-image
	kubeconfig() { (umask 077; K2D_PORT=$(PORT) $(K2D) kubeconfig --data-path $(DATA) >$(STATE)/kubeconfig); }
	answers() { $(KUBECTL) --request-timeout 5s get --raw /readyz >/dev/null 2>&1; }
	if [ -d $(DATA) ] && kubeconfig && answers; then
	  echo "==> k2d runs already"
	  exit 0
	fi
	echo "==> start k2d"
	[ -d $(DATA) ] || echo $(DATA) >$(STATE)/created-data
	MALLOC_ARENA_MAX=1 setsid $(K2D) serve --port $(PORT) --data-path $(DATA) </dev/null >$(STATE)/k2d.log 2>&1 &
	k2d=$$!
	echo $$k2d >$(STATE)/k2d.pid
	for _ in {1..300}; do
	  ! grep -q '^k2d: serving https://' $(STATE)/k2d.log || break
	  kill -0 $$k2d 2>/dev/null || break
	  sleep 0.2
	done
	kubeconfig && answers || { tail -n 20 $(STATE)/k2d.log; echo "k2d did not start, see above"; exit 1; }

define APPLICATION
apiVersion: v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web, namespace: demo}
data: {GREETING: "Hello from a ConfigMap!"}
---
apiVersion: v1
kind: Secret
metadata: {name: web, namespace: demo}
stringData: {password: correct horse battery staple}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: demo}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: $(IMAGE)
        imagePullPolicy: Never
        ports: [{containerPort: 8080}]
        envFrom: [{configMapRef: {name: web}}]
        volumeMounts: [{name: secret, mountPath: /secret, readOnly: true}]
      volumes: [{name: secret, secret: {secretName: web}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
endef

demo-app: private export MANIFEST := $(APPLICATION)
demo-app: demo-k2d
	echo "==> apply the application"
	$(KUBECTL) apply -f - <<<"$$MANIFEST"
	echo "==> wait for it"
	$(KUBECTL) -n demo rollout status deployment web --timeout 120s
	echo "==> kubectl get all -n demo"
	$(KUBECTL) get all -n demo
	node=$$($(KUBECTL) get nodes -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
	port=$$($(KUBECTL) -n demo get service web -o jsonpath='{.spec.ports[0].nodePort}')
	echo "==> ask http://$$node:$$port four times"
	ask() { timeout 2 busybox wget -q -O - http://$$node:$$port/; }
	for _ in {1..20}; do ! ask >/dev/null 2>&1 || break; sleep 0.1; done   # the rules follow the last pod's readiness
	for _ in {1..4}; do ask; done

# A process is ended by the id that demo wrote down, and only if it still is that program.
demo-stop: root
	end() { # name of the program, its pid file
	  local pid; pid=$$(cat $$2 2>/dev/null) || return 0
	  grep -q $$1 /proc/$$pid/cmdline 2>/dev/null || return 0
	  echo "==> stop $$1"
	  kill $$pid
	  for _ in {1..150}; do kill -0 $$pid 2>/dev/null || return 0; sleep 0.2; done
	  echo "$$1 (process $$pid) does not end"; exit 1
	}
	if $(KUBECTL) --request-timeout 5s get --raw /readyz >/dev/null 2>&1; then
	  echo "==> delete the application"
	  $(KUBECTL) delete namespace demo --ignore-not-found --timeout 60s
	fi
	end k2d.py $(STATE)/k2d.pid
	if [ -e $(STATE)/created-data ]; then
	  echo "==> remove its data, network and NAT rules"
	  $(K2D) reset --data-path "$$(cat $(STATE)/created-data)"
	fi
	docker rmi $(IMAGE) >/dev/null 2>&1 || true   # not there, or a container of yours uses it
	end dockerd $(STATE)/dockerd.pid
	[ ! -e $(STATE)/started-service ] || systemctl stop docker.socket docker.service
	rm -rf $(STATE)

# == Tests ==================================================================================

test: engine
	exec $(PYTHON) test_k2d.py

bench: engine
	exec $(PYTHON) test_k2d.py bench

# == The service ============================================================================

install: engine
	exec $(K2D) install

uninstall: root
	exec $(K2D) uninstall
