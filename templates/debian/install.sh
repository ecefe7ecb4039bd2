# Installs the package files beside this script, batch by batch: dpkg unpacks a whole batch before it configures any
# of it, so what a package pre-depends on is in an earlier one.

cd /mnt
while read -r batch; do
    # Names of packages and versions have no white space in them.
    # shellcheck disable=SC2086
    dpkg_unpacking --install $batch
done < batches
cd /

# Triggers that are still waiting.
dpkg_run --configure -a
