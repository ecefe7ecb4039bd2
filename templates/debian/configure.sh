# Configures a root whose packages are all unpacked and none of which has run a script.

# mawk's alternative is what makes this link, but scripts that are configured before it call awk.
if [ ! -e /usr/bin/awk ] && [ -e /usr/bin/mawk ]; then
    ln -s mawk /usr/bin/awk
fi

# dpkg would have run these before unpacking. The list is ordered: who makes /etc/passwd first, then each package after
# those that it depends on.
while read -r package architecture prefix; do
    DPKG_MAINTSCRIPT_PACKAGE=$package DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_MAINTSCRIPT_ARCH=$architecture \
        DPKG_MAINTSCRIPT_NAME=preinst DPKG_ROOT='' DPKG_ADMINDIR=/var/lib/dpkg \
        "/var/lib/dpkg/info/$prefix.preinst" install < /dev/null || {
        echo "the preinst script of $package has failed ($?)" >&2
        exit 1
    }
done < /mnt/preinst-order

dpkg_run --configure -a
