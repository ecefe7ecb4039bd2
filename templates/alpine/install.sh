#!/bin/sh
# Installs the packages beside this script: apk's own choice among exactly these, with no network.
#
# Their hashes are those of the lock, for which the index's signature was checked: so that the image need not have the
# repository's keys.
set -eu

repository=$(mktemp -d)
architecture=$(apk --print-arch)
mkdir "$repository/$architecture"
# A signed package may lie there that an older apk does not know the key of.
if [ -n "$(find /mnt -name '*.apk')" ]; then
    ln -s /mnt/*.apk "$repository/$architecture/"
    apk index --quiet --allow-untrusted --rewrite-arch "$architecture" \
        --output "$repository/$architecture/APKINDEX.tar.gz" /mnt/*.apk
fi

# Names have no white space in them.
# shellcheck disable=SC2046
apk add --no-network --no-cache --no-progress --allow-untrusted \
    --repositories-file /dev/null --repository "$repository" $(cat /mnt/world)

rm -r "$repository"
# apk 3 writes a log with times.
rm -f /var/log/apk.log
