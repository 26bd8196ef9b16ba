#!/bin/sh
# Starts write.py on two boards, over ssh, or twice on this machine where no board is named:
#
#   ./launch.sh FOLDER                           two processes here
#   ./launch.sh FOLDER pi@board-a pi@board-b     one process on each; FOLDER and write.py are at the same place on both
#
# ADDRESS is that of the first board as the second one sees it; by default what stands behind its @. PYTHON is what runs
# on the boards. GLOO_SOCKET_IFNAME, as eth0, says which network to use where a board has several.
set -eu
folder=$1
first=${2:-}
second=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
port=${PORT:-29531}
address=${ADDRESS:-${first#*@}}
address=${address:-127.0.0.1}

start() { # rank, board
  command="MASTER_ADDR=$address MASTER_PORT=$port RANK=$1 WORLD_SIZE=2 LOCAL_RANK=${3:-0} LOCAL_WORLD_SIZE=${4:-1} \
HF_HUB_OFFLINE=1 ${GLOO_SOCKET_IFNAME:+GLOO_SOCKET_IFNAME=$GLOO_SOCKET_IFNAME} $python '$here/write.py' '$folder'"
  if [ -n "$2" ]; then
    ssh "$2" "$command"
  else
    sh -c "$command"
  fi
}

if [ -n "$first" ]; then
  start 1 "$second" &
  other=$!
  start 0 "$first"
else
  start 1 "" 1 2 &
  other=$!
  start 0 "" 0 2
fi
wait "$other"
