#!/usr/bin/env bash
# Make everything that the other targets need: .venv from the lock files, and the launcher .nextflow-dist/nextflow.
# Idempotent; a call with nothing to do starts neither Python nor Java. What is missing on the machine ends in one line
# on stderr and exit code 69. $PYTHON names the Python to use where the one found first is not the wanted one.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=tools/nextflow.sh
source tools/nextflow.sh
dist=$root/.nextflow-dist
stamp=.venv/.ptychoflow-stamp
oldest_java=17

say() { printf 'setup: %s\n' "$*"; }

refuse() {
  printf 'setup: %s, then call make again\n' "$*" >&2
  exit 69
}

# What a finished .venv is stamped with: the locks, and the folder, because a moved .venv has dead scripts.
venv_key() {
  printf '%s ' "$root"
  cat requirements/uv.lock requirements/dev.lock | sha256sum
}

venv_ready() { [[ -x .venv/bin/python && -r $stamp && $(<"$stamp") == "$(venv_key)" ]]; }

# A jar folder is renamed into place whole, with the checksum list that it was checked against.
jars_ready() { [[ -d $dist/lib ]] && cmp -s tools/nextflow.sha256 "$dist/lib/nextflow.sha256"; }

launcher_ready() { cmp -s tools/nextflow.sh "$dist/nextflow" && [[ -x $dist/nextflow ]]; }

check_platform() {
  [[ $(uname -sm) == "Linux x86_64" ]] ||
    refuse "ptychoflow runs on Linux x86_64, and this is $(uname -sm): use such a machine, or a virtual one"
}

check_java() {
  local java version how="install it (Debian, Ubuntu: apt-get install openjdk-17-jre-headless)"
  java=$(find_java) || refuse "Java $oldest_java or newer is needed and was not found: $how"
  version=$(version_of java "$java" -version)
  at_least "$oldest_java" "$version" ||
    refuse "Java $oldest_java or newer is needed, and $java is ${version:-broken}: $how, or point JAVA_HOME at one"
}

check_maven() {
  type -P mvn >/dev/null ||
    refuse "no Nextflow $oldest_nextflow or newer is on PATH, and there is no Maven to fetch one:" \
      "install either (Debian, Ubuntu: apt-get install maven)"
}

# The first Python of a supported version that really runs (a pyenv shim may not) and can make environments.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      >/dev/null 2>&1 </dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

# uv does not read pip's settings: where pip is told of another index, tell uv too.
share_index() {
  local index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-}}}
  [[ -n $index ]] || index=$(.venv/bin/python -m pip config get global.index-url 2>/dev/null) || true
  [[ -z $index ]] || export UV_DEFAULT_INDEX=$index
}

make_venv() {
  local python=$1
  # "unfinished" stays in the stamp until all is installed: a set-up that was cut off starts from an empty folder.
  if [[ ! -x .venv/bin/python || $(cat "$stamp" 2>/dev/null) == unfinished ]] ||
    ! .venv/bin/python -c 'import pip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    mkdir .venv
    echo unfinished >"$stamp"
    "$python" -m venv .venv
  fi
  echo unfinished >"$stamp"
  say "installing Python packages: about 3 GB to download and 8 GB on disk, once"
  .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.lock
  share_index
  local quiet=(-q)
  if [[ -t 2 ]]; then quiet=(); fi # progress bars are for people
  UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300} .venv/bin/uv pip sync "${quiet[@]}" --python .venv/bin/python \
    --require-hashes --compile-bytecode requirements/dev.lock
  venv_key >"$stamp"
  say "Python packages are installed"
}

fetch_jars() {
  say "fetching Nextflow by Maven: 40 MB, once"
  local part=$dist/lib.part
  rm -rf "$part"
  # Maven resets the colours of its output even when asked for none: kept from the terminal unless it fails.
  mvn -q -B -C -f tools/nextflow.pom.xml dependency:copy-dependencies -DoutputDirectory="$part" \
    >"$dist/maven.log" 2>&1 || { cat "$dist/maven.log" >&2 && refuse "Maven could not fetch Nextflow: see above"; }
  (cd "$part" && sha256sum --quiet -c "$root/tools/nextflow.sha256") ||
    refuse "the jars that Maven fetched are not those of tools/nextflow.sha256: look at its mirror settings"
  cp tools/nextflow.sha256 "$part/"
  rm -rf "${dist:?}/lib"
  mv "$part" "$dist/lib"
}

main() {
  check_platform
  mkdir -p "$dist"
  check_java
  local own_jars="" python=""
  nextflow_on_path >/dev/null || own_jars=yes
  if venv_ready && launcher_ready && { [[ -z $own_jars ]] || jars_ready; }; then return; fi

  # All that can be missing is asked before anything is downloaded.
  venv_ready || python=$(find_python) ||
    refuse "Python 3.11, 3.12 or 3.13 with its venv module is needed and was not found:" \
      "install it (Debian, Ubuntu: apt-get install python3 python3-venv), or set PYTHON to one"
  [[ -z $own_jars ]] || jars_ready || check_maven

  exec {lock}>"$dist/setup.lock"
  flock -n "$lock" || { say "another set-up works in this folder: waiting for it" && flock "$lock"; }
  venv_ready || make_venv "$python"
  [[ -z $own_jars ]] || jars_ready || fetch_jars
  if ! launcher_ready; then
    # Renamed into place: a running bash reads its script as it goes.
    install -m 0755 tools/nextflow.sh "$dist/nextflow.part"
    mv "$dist/nextflow.part" "$dist/nextflow"
  fi
  say "ready"
}

main
