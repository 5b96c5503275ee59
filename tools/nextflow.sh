#!/usr/bin/env bash
# ptychoflow launcher: runs a Nextflow >= 24.10 on PATH, else the jars beside this file (`make setup` puts both there).
# tools/setup.sh sources it for its functions. Versions are asked once per program and kept in $dist: starting a JVM for
# an answer costs seconds.
set -euo pipefail

dist=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
oldest_nextflow=24.10

# at_least WANTED VERSION: true when VERSION's major.minor is not older; "17" reads as 17.0, "25-ea" as 25.0.
at_least() {
  local wanted=$1 version=$2
  [[ $wanted =~ ^([0-9]+)(\.([0-9]+))? ]] || return 1
  local least=$((10#${BASH_REMATCH[1]} * 1000 + 10#${BASH_REMATCH[3]:-0}))
  [[ $version =~ ^([0-9]+)(\.([0-9]+))? ]] || return 1
  ((10#${BASH_REMATCH[1]} * 1000 + 10#${BASH_REMATCH[3]:-0} >= least))
}

# version_of NAME PROGRAM ARG: what PROGRAM answers to ARG after the word "version"; empty when it does not run.
# The answer is kept under the program's path, time and size; no answer is not kept, its cause may heal.
version_of() {
  local name=$1 program=$2 argument=$3 key note="$dist/version.$1" version=""
  key="$(readlink -f "$program") $(stat -Lc '%Y %s' "$program") ${NXF_VER:-}"
  if [[ -r $note ]]; then
    local kept_key kept_version
    { IFS= read -r kept_key && read -r kept_version; } <"$note" || true
    if [[ ${kept_key:-} == "$key" ]]; then
      printf '%s\n' "${kept_version:-}"
      return
    fi
  fi
  if [[ $(timeout 120 "$program" "$argument" 2>&1 </dev/null) =~ version\ \"?([0-9][0-9A-Za-z._+-]*) ]]; then
    version=${BASH_REMATCH[1]}
    # Renamed into place: tests start several launchers at once.
    if mkdir -p "$dist" && printf '%s\n%s\n' "$key" "$version" >"$note.$$"; then mv "$note.$$" "$note"; fi
  fi
  printf '%s\n' "$version"
}

# The Java that Nextflow's own launcher would take; fails when there is none.
find_java() {
  local home
  for home in "${NXF_JAVA_HOME:-}" "${JAVA_HOME:-}"; do
    if [[ -n $home && -x $home/bin/java ]]; then
      printf '%s\n' "$home/bin/java"
      return
    fi
  done
  type -P java
}

# The first Nextflow on PATH that is new enough; a launcher like this one is passed by, for two could call each other.
nextflow_on_path() {
  local program
  while read -r program; do
    if head -n 2 "$program" | grep -q 'ptychoflow launcher'; then continue; fi
    if at_least "$oldest_nextflow" "$(version_of nextflow "$program" -v)"; then
      printf '%s\n' "$program"
      return
    fi
  done < <(type -aP nextflow)
  return 1
}

run_jars() {
  local java name opens=() extra=()
  if ! java=$(find_java) || [[ ! -d $dist/lib ]]; then
    echo "nextflow: Java or the jars in $dist/lib are missing: call make setup, it says what to install" >&2
    exit 69
  fi
  # Nothing here may need the network: no update check, no plugin download, no Tower. NXF_HOME of its own keeps
  # the plugin manager from looking into ./plugins.
  export NXF_HOME=${NXF_HOME:-$dist/home} NXF_OFFLINE=true NXF_PLUGINS_DEFAULT=false NXF_DISABLE_CHECK_LATEST=true
  export NXF_ANSI_LOG=${NXF_ANSI_LOG:-false}
  unset TOWER_ACCESS_TOKEN
  for name in java.lang java.io java.nio java.net java.util java.util.regex java.util.concurrent.locks \
    java.util.concurrent.atomic sun.nio.ch sun.nio.fs sun.net.www.protocol.{http,https,ftp,file} \
    jdk.internal.misc jdk.internal.vm; do
    opens+=("--add-opens=java.base/$name=ALL-UNNAMED")
  done
  # The quick compiler alone: much is compiled and little of it runs long, and its threads take cores from the tasks.
  # A run of 20 small tasks takes half the time.
  read -ra extra <<<"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC ${NXF_OPTS:-}" || true
  exec "$java" -Xmx1g "${opens[@]}" --enable-native-access=ALL-UNNAMED "${extra[@]}" \
    -cp "$dist/lib/*" nextflow.cli.Launcher "$@"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  if program=$(nextflow_on_path); then exec "$program" "$@"; fi
  run_jars "$@"
fi
