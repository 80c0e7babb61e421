# What misc/test, misc/demo and misc/bench share: Debian packages and a virtual environment. To be sourced.

set -euo pipefail
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${BTW_TEST_CACHE:-/var/cache/btw-backup-test}

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "must be run as root: it installs packages, and a backup of a system needs root too"
    mkdir -p "$cache"
    # A user who could write here, or above, would choose what root runs; one who could not read could not be tested.
    chmod 755 "$cache"
}

# One at a time: two runs at once would both install.
alone() {
    exec 9>"$cache/lock"
    flock 9
    "$@" 9>&-
    exec 9>&-
}

install_packages() {
    local missing=() package
    for package; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}" >&2
    (
        trap start_services_again EXIT
        start_no_services
        apt-get -q update
        apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold install "${missing[@]}"
    ) </dev/null >"$cache/apt.log" 2>&1 || {
        tail -n 20 "$cache/apt.log" >&2
        fail "apt-get failed; see $cache/apt.log"
    }
}

# Neither a server that starts by itself, nor a main cluster of PostgreSQL on a machine that only wanted its programs.
start_no_services() {
    policy_made= cluster_setting=/etc/postgresql-common/createcluster.d/btw-backup-test.conf
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy_made=yes
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    mkdir -p "${cluster_setting%/*}"
    echo 'create_main_cluster = false' >"$cluster_setting"
}

start_services_again() {
    rm -f "$cluster_setting"
    [ -z "$policy_made" ] || rm -f /usr/sbin/policy-rc.d
}

# Sets $environment to a virtual environment that holds the requirements of the given files, and $python. It is made
# of the system's Python, because the programs that tests start as other users cannot read a Python below /root;
# requirements that changed give another folder, so that what is there is always right.
make_environment() {
    local name
    name=$({ /usr/bin/python3 --version && cat "$@"; } | sha256sum | cut -c 1-12)
    environment=$cache/python-$name python=$cache/python-$name/bin/python
    [ ! -e "$environment/complete" ] || return 0
    echo "making the virtual environment $environment" >&2
    rm -rf "$environment"
    /usr/bin/python3 -m venv "$environment"
    "$python" -m pip --disable-pip-version-check --no-input install -qq "${@/#/--requirement=}" </dev/null
    touch "$environment/complete"
}
