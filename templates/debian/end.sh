# Is everything installed, and as it should be?
audit=$(dpkg --audit)
if [ -n "$audit" ]; then
    printf '%s\n' "$audit" >&2
    exit 1
fi

# What was of use during this build only, or says when it was.
if [ "$our_policy" = yes ]; then
    rm -f /usr/sbin/policy-rc.d
fi
if [ "$keep_docs" = no ] && command -v find > /dev/null; then
    # Folders and links that dpkg keeps for the licences' sake, and links that scripts have made to manual pages.
    find /usr/share/doc -mindepth 1 -xtype l -delete
    find /usr/share/doc -mindepth 2 -type d -empty -delete
    find /usr/share/man -xtype l -delete
    # base-files makes an index of the info pages, also when there are none.
    rm -f /usr/share/info/dir
fi
for folder in $man_folders; do
    rmdir --ignore-fail-on-non-empty "$folder" 2>/dev/null || :
done
rm -f /var/lib/dpkg/*-old /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend /var/lib/dpkg/triggers/Lock
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- /etc/.pwd.lock
rm -f /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
rm -f /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log /var/log/fontconfig.log
rm -rf /var/log/apt /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb

# Each machine that runs the image is another one: an empty file says that it is to get its own number.
if [ -s /etc/machine-id ]; then
    : > /etc/machine-id
fi
# D-Bus makes one by chance when it is configured, and takes the other where there is none of its own.
rm -f /var/lib/dbus/machine-id
