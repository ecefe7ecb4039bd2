# Installs the package files beside this script, batch by batch: dpkg unpacks a whole batch before it configures any
# of it, so what a package pre-depends on is in an earlier one.

# The licences stay.
set --
if [ "$keep_docs" = no ]; then
    for folder in doc man info locale lintian; do
        set -- "$@" "--path-exclude=/usr/share/$folder/*"
    done
    set -- "$@" '--path-include=/usr/share/doc/*/copyright'
fi

cd /mnt
while read -r batch; do
    # Names of packages and versions have no white space in them.
    # shellcheck disable=SC2086
    dpkg_run "$@" --install $batch
done < batches
cd /

# Triggers that are still waiting.
dpkg_run --configure -a
