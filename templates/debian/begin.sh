# Run once inside a build, as root, with no network; the folder of this script is mounted at /mnt, read-only.
# `keep_docs` is yes or no, and is set above this line by what has written the script.
set -eu

# What maintainer scripts may expect, and nothing of the machine that builds.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C.UTF-8 TERM=dumb
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBIAN_PRIORITY=critical
umask 022

# Programs that write a date (the last change of a password) take this one, so that the same packages make the same
# image: when the newest file of the root's packages was made.
SOURCE_DATE_EPOCH=$(stat -c %Y /var/lib/dpkg/info/format 2>/dev/null || echo 1)
export SOURCE_DATE_EPOCH

# No service is started during a build (invoke-rc.d asks this script). One that the image has stays.
our_policy=no
if [ ! -e /usr/sbin/policy-rc.d ]; then
    our_policy=yes
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi

# Alternatives put links to manual pages here, and fail where the folders are missing; what stays empty goes again.
man_folders=
for section in 1 2 3 4 5 6 7 8; do
    folder=/usr/share/man/man$section
    if [ ! -d "$folder" ]; then
        mkdir -p "$folder"
        man_folders="$man_folders $folder"
    fi
done

# dpkg and its scripts must not wait for answers. A configuration file that is there already is the image's own and
# stays. Nobody needs a build's files to survive a power cut.
dpkg_run() {
    dpkg --force-unsafe-io --force-confdef --force-confold "$@" < /dev/null
}

# The same, where packages are unpacked: documentation is left out where it is not wanted; the licences stay.
dpkg_unpacking() {
    if [ "$keep_docs" = no ]; then
        set -- '--path-exclude=/usr/share/doc/*' '--path-exclude=/usr/share/man/*' \
            '--path-exclude=/usr/share/info/*' '--path-exclude=/usr/share/locale/*' \
            '--path-exclude=/usr/share/lintian/*' '--path-include=/usr/share/doc/*/copyright' "$@"
    fi
    dpkg_run "$@"
}
