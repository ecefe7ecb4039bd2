#!/bin/sh
# Configures a root file system whose packages are unpacked, from inside it and without network.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true

# Services are not started while an image is built (Debian policy 9.3.3.2).
mkdir -p /usr/sbin
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# Maintainer scripts use awk before mawk has been configured and made the alternative.
[ -e /usr/bin/awk ] || [ ! -e /usr/bin/mawk ] || ln -s mawk /usr/bin/awk

# dpkg would have run the preinst scripts when it unpacked the packages. base-passwd's makes /etc/passwd, which
# others need.
cd /var/lib/dpkg/info
for script in base-passwd.preinst $(ls | grep '\.preinst$' | grep -v '^base-passwd\.preinst$'); do
    [ -e "$script" ] || continue
    package=${script%.preinst}
    DPKG_MAINTSCRIPT_PACKAGE=${package%%:*} DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_ARCH=$(dpkg --print-architecture) \
        DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_RUNNING_VERSION=$(dpkg-query --version | sed -n '1s/.* \([0-9.]*\) .*/\1/p') \
        DPKG_ROOT='' "./$script" install
done
cd /

dpkg --force-unsafe-io --configure -a

audit=$(dpkg --audit)
if [ -n "$audit" ]; then
    printf '%s\n' "$audit" >&2
    exit 1
fi

rm -f /usr/sbin/policy-rc.d /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
# base-files makes an index of the info pages, also when there are none.
[ "$(ls /usr/share/info 2> /dev/null)" != dir ] || rm /usr/share/info/dir
find /var/log -type f -delete
rm -rf /var/lib/apt/lists/* /var/cache/apt/*
