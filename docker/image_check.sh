#!/usr/bin/env bash
# Tests every step of docker/Dockerfile without an engine or a registry: `make image-check`, as root on Debian.
#
# buildah builds both targets with chroot isolation on a base made by debootstrap with this machine's Python; runc runs them.
# Needs buildah, podman, debootstrap, runc, dcmtk's storescu, 45 GB and half an hour. TORCH_WHEELS: a folder with torch's CPU
# wheel, if PyTorch's index cannot be reached. BUNDLE: a bundle for whole scans, and SCANS: a folder of DICOM for it.
set -euo pipefail
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${BUNDLE:?a bundle that looks at whole scans}" "${SCANS:?a folder of DICOM}"
work=${WORK:-$(mktemp -d)} python=${PYTHON:-python3} torch=${TORCH_WHEELS:-}
mkdir -p "$work"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || { echo "the locks are for Python 3.11, and $python is $version" >&2; exit 1; }
say() { printf '\n== %s\n' "$*"; }
storage=(--root "$work/storage" --runroot "$work/runroot" --storage-driver vfs)
pod() { podman "${storage[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }
hard=(--pull never --network none --read-only --cap-drop all --security-opt no-new-privileges)

base() {
    say "base: Debian trixie, minbase, and Python $version in /usr/local"
    [ -e "$work/rootfs/etc/debian_version" ] || debootstrap --variant=minbase \
        --include=ca-certificates,libssl3t64,libffi8,libsqlite3-0,zlib1g,libbz2-1.0,liblzma5,libreadline8t64,libuuid1 \
        trixie "$work/rootfs" "${MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log"
    local prefix
    prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
    tar -C "$prefix" --exclude=site-packages --exclude='lib/python3.11/test' --exclude='config-3.11*' --exclude=__pycache__ \
        --exclude='*.a' -c bin/python3.11 lib/python3.11 lib/libpython3.11.so.1.0 | tar -C "$work/rootfs/usr/local" -x
    mkdir -p "$work/rootfs/usr/local/lib/python3.11/site-packages"
    ln -sf python3.11 "$work/rootfs/usr/local/bin/python3"
    chroot "$work/rootfs" ldconfig
    chroot "$work/rootfs" /usr/local/bin/python3 -m ensurepip --default-pip >"$work/pip.log" 2>&1
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/rootfs/etc/pip.conf" # for builds behind a proxy
    rm -rf "$work/rootfs"/var/cache/apt/* "$work/rootfs"/var/lib/apt/lists/*
    tar -C "$work/rootfs" -c . | pod import - localhost/base:trixie >/dev/null
    rm -rf "$work/rootfs"
}

build() {
    local more=(--volume /etc/ssl/certs:/etc/ssl/certs:ro --build-arg BASE_IMAGE=localhost/base:trixie)
    [ -z "$torch" ] || more+=(--volume "$torch:/wheels:ro" --build-arg PIP_FIND_LINKS=/wheels
        --build-arg TORCH_INDEX=https://pypi.org/simple)
    say "build: $1"
    timeout 7200 buildah "${storage[@]}" bud --isolation chroot --format docker --layers --pull-never --network host \
        --ulimit nofile=20000:20000 --ulimit "nproc=$(ulimit -u):$(ulimit -u)" "${more[@]}" \
        -f docker/Dockerfile --target "$1" -t "localhost/med-transfer-$1" . >"$work/build-$1.log" 2>&1 \
        || grep -q 'Successfully tagged' "$work/build-$1.log" || { tail -30 "$work/build-$1.log" >&2; exit 1; }
    pod image inspect "localhost/med-transfer-$1" --format "image $1: {{.Size}} bytes, user {{.Config.User}}"
}

milliseconds() { local from to; from=$(date +%s%N); "$@"; to=$(date +%s%N); echo "$(((to - from) / 1000000)) ms: $*"; }

batch() {
    say "batch: read-only, no capability, no network, user 1234"
    local run=(run --rm "${hard[@]}" --tmpfs /tmp --user 1234:1234 --volume "$BUNDLE:/bundle:ro" --volume "$SCANS:/scans:ro")
    install -d -o 1234 -g 1234 "$work/out"
    pod create --name start "${hard[@]}" --tmpfs /tmp --user 1234:1234 localhost/med-transfer-batch --help >/dev/null # copies the image; not timed
    milliseconds pod start --attach start >"$work/start.txt" && tail -1 "$work/start.txt" && pod rm start >/dev/null
    pod "${run[@]}" --volume "$work/out:/work" localhost/med-transfer-batch predict /bundle /scans -o out
    cut -d, -f4-7 "$work/out/out/predictions.csv"
    pod "${run[@]}" --entrypoint sh localhost/med-transfer-batch -c '! command -v pip gcc cc curl wget; ! touch /x' 2>&1
}

node() {
    say "node: read-only, no capability, loopback only"
    install -d -o 10001 -g 10001 -m 0700 "$work/state"
    printf '%s\n' 'folder: /var/lib/med-transfer' 'callers: [{ae_title: CT1, address: 127.0.0.1}]' \
        'study: {quiet_seconds: 2}' 'results: {heat_map: plain}' 'limits: {disk_free_gib: 0}' 'metrics: {}' 'page: {}' >"$work/node.yaml"
    pod create --name node "${hard[@]}" --tmpfs /tmp --volume "$BUNDLE:/bundle:ro" --volume "$SCANS:/scans:ro" \
        --volume "$work/node.yaml:/etc/med-transfer/node.yaml:ro" --volume "$work/state:/var/lib/med-transfer" \
        localhost/med-transfer-node serve /bundle -c /etc/med-transfer/node.yaml --log json >/dev/null
    local began ready
    began=$(date +%s%N)
    pod start node >/dev/null
    inside() { pod exec node "$@"; }
    asked() { inside python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/$1').read().decode())"; }
    page() { # without a sign-in: 401
        inside python3 -c "import http.client as h; c=h.HTTPConnection('127.0.0.1', 8443); c.request('GET', '$1'); \
a=c.getresponse(); print('page $1:', a.status, len(a.read()), 'bytes')"
    }
    for _ in $(seq 120); do asked ready 2>/dev/null && break || sleep 1; done
    ready=$(date +%s%N)
    echo "ready after $(((ready - began) / 1000000)) ms"
    inside python3 -m pynetdicom storescu -aet CT1 -aec MEDTRANSFER -r 127.0.0.1 11112 /scans >/dev/null
    for _ in $(seq 120); do inside med-transfer node status -c /etc/med-transfer/node.yaml | grep -q predicted && break || sleep 1; done
    inside med-transfer node status -c /etc/med-transfer/node.yaml
    asked metrics | grep -E '^med_transfer_(studies|predictions_total)'
    for path in / /login /static/review.css; do page "$path"; done
    inside python3 -c "from med_transfer.hospital.review.study_page import _niivue_file as f; print('viewer', f().stat().st_size, 'bytes')"
    milliseconds pod stop --time 40 node
    pod inspect node --format 'exit code {{.State.ExitCode}}'
    pod logs node 2>&1 | tail -3
    pod rm node >/dev/null
}

trap 'pod rm --force --ignore node start >/dev/null 2>&1 || true' EXIT
for step in ${STEPS:-base build_batch build_node batch node}; do
    case $step in build_*) build "${step#build_}" ;; *) "$step" ;; esac
done
[ -n "${KEEP:-}" ] || { trap - EXIT && chmod -R u+w "$work" && rm -rf "$work"; } # podman would recreate its folders
