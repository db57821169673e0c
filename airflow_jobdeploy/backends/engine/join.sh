# Puts the parts of large files together, in the folder of a tree that is being brought: <folder> <mtime>.
#
# For each file there is parts/<number>.order (sha256, mode, how many parts, path: whatever it holds is data), and
# parts/<number>-<part>. A file that is not what it should be: its number stands in `damaged`, and the code is 100.
# Asked again after it was killed, it goes on: parts are removed when their file is in its place.
set -eu
cd "$1"
rm -f damaged parts/whole
for order in parts/*.order; do
    { read -r sum; read -r mode; read -r count; path=$(cat; printf x); } <"$order"
    path=tree/${path%x}
    pieces=${order%.order}
    [ -f "$pieces-0" ] || [ ! -f "$path" ] || continue
    case $path in */*) mkdir -p -- "${path%/*}" ;; esac
    part=0
    while [ "$part" -lt "$count" ]; do
        cat "$pieces-$part" >>parts/whole
        part=$((part + 1))
    done
    found=$(sha256sum <parts/whole)
    if [ "${found%% *}" != "$sum" ]; then
        printf '%s\n' "${pieces#parts/}" >damaged
        exit 100
    fi
    chmod "$mode" parts/whole
    touch -d "@$2" parts/whole
    mv -f parts/whole "$path"
    rm -f "$pieces"-*
done
rm -rf parts join
