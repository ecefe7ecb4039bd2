#!/bin/sh
# Installs the packages beside this script, without network and without apt. `order` has a line for each batch that
# dpkg gets at once, `flags` a line for each further option.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
packages=${0%/*}

# Services are not started while an image is built (Debian policy 9.3.3.2).
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# The flags hold patterns, which are dpkg's and not the shell's.
set -f
IFS='
'
flags=$(cat "$packages/flags")
for batch in $(cat "$packages/order"); do
    IFS=' '
    set --
    for file in $batch; do
        set -- "$@" "$packages/$file"
    done
    IFS='
'
    dpkg --force-unsafe-io $flags --install "$@"
done
unset IFS
set +f

audit=$(dpkg --audit)
if [ -n "$audit" ]; then
    printf '%s\n' "$audit" >&2
    exit 1
fi

rm -f /usr/sbin/policy-rc.d /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
find /var/log -type f -delete
rm -rf /var/lib/apt/lists/* /var/cache/apt/*
