# k2d in a container, on the machine whose engine it speaks to:
#
#   docker build -t k2d .
#   docker run -d --name k2d --restart always --network host --pid host --privileged \
#     -v /var/run/docker.sock:/var/run/docker.sock -v /var/lib/k2d:/var/lib/k2d k2d
#   docker exec k2d python3 /usr/local/lib/k2d/k2d.py kubeconfig
#
# --network host: Services are NAT rules of the host.  --pid host: a container is restarted by signalling its process.
# --privileged: those rules, /sys and the host's mounts.  The data path is the same inside and outside, because the
# engine mounts files below it into the pods.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 openssl iptables iproute2 \
 && rm -rf /var/lib/apt/lists/*
COPY k2d.py /usr/local/lib/k2d/k2d.py
ENTRYPOINT ["python3", "/usr/local/lib/k2d/k2d.py"]
CMD ["serve"]
