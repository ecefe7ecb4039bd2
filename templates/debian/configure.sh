# Configures a root of whose packages most are unpacked and none has run a script.

run_preinst() (
    cd /
    export DPKG_MAINTSCRIPT_PACKAGE="$1" DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_MAINTSCRIPT_ARCH="$2" \
        DPKG_MAINTSCRIPT_NAME=preinst DPKG_ROOT='' DPKG_ADMINDIR=/var/lib/dpkg
    "/var/lib/dpkg/info/$3.preinst" install < /dev/null || {
        echo "the preinst script of $1 has failed ($?)" >&2
        exit 1
    }
)

# mawk's alternative is what makes this link, but scripts that are configured before it call awk.
if [ ! -e /usr/bin/awk ] && [ -e /usr/bin/mawk ]; then
    ln -s mawk /usr/bin/awk
fi

# What dpkg does before it unpacks, for the packages that it stands on itself; then what only dpkg can unpack, each
# batch after what it pre-depends on. Names of packages and files have no white space in them.
cd /mnt
while read -r step words; do
    # shellcheck disable=SC2086
    case $step in
        preinst) run_preinst $words ;;
        configure) dpkg_run --configure $words ;;
        unpack) dpkg_unpacking --unpack $words ;;
    esac
done < steps
cd /

dpkg_run --configure -a
