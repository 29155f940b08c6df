#!/bin/sh
# The guest's side of the demonstration: each step with the kernel's and busybox's own clients, each
# with a deadline, each reported on the console as one line:
#
#     @@step NAME begin | ok SECONDS DETAIL | fail SECONDS DETAIL
#     @@done
#
# Parameters come on the kernel's command line as demo.NAME=VALUE:
#   host    name of the host (host.internal)
#   name    another name to resolve (gateway.internal)
#   http    port of the host's HTTP server (8000): it answers GET /download with the header
#           X-SHA256, and PUT /upload with the SHA-256 of what it got in the body
#   p9      port of the 9P server on the gateway (564)
#   steps   a comma list, to run only these
#   hold    seconds to wait at the end for "quit" on the console (0: power off at once)
[ "$1" = run ] || . /lib/trikit/setup.sh

param() {
    value=$(tr ' ' '\n' </proc/cmdline | sed -n "s/^demo\.$1=//p" | tail -n 1)
    echo "${value:-$2}"
}
host=$(param host host.internal)
name=$(param name gateway.internal)
http=$(param http 8000)
p9=$(param p9 564)
steps=$(param steps init,dhcp,ipv6,dns,ping,ping6,download,upload,httpd,mount,read,commit,watch)
hold=$(param hold 0)
work=/run/demo
mkdir -p $work/www /mnt/share
export PATH=/usr/bin:/usr/sbin:/bin:/sbin

now() { cut -d' ' -f1 /proc/uptime; }
since() { awk -v a="$1" '{ printf "%.2f", $1 - a; exit }' /proc/uptime; }
address6() { ip -6 -o address show dev eth0 | awk '!/scope link|tentative/ { print $4; exit }'; }
gateway4() { ip -4 route show default | awk '{ print $3; exit }'; }
gateway6() { ip -6 route show default | awk '{ print $3; exit }'; }

# step NAME SECONDS: runs do_NAME in a process of its own; its last line of output is the detail.
step() {
    case ",$steps," in *",$1,"*) ;; *) return ;; esac
    echo "@@step $1 begin"
    begin=$(now)
    timeout -s KILL "$2" /bin/sh "$0" run "$1" >$work/$1.log 2>&1
    code=$?
    detail=$(tail -n 1 $work/$1.log | tr -d '\r' | cut -c 1-200)
    case $code in
    0) echo "@@step $1 ok $(since "$begin") $detail" ;;
    137) echo "@@step $1 fail $(since "$begin") no end within $2 s: $detail" ;;
    *) echo "@@step $1 fail $(since "$begin") status $code: $detail" ;;
    esac
    [ $code = 0 ] || tail -n 20 $work/$1.log
}

do_init() {
    echo "Linux $(uname -r), up $(now) s"
}

do_dhcp() {
    udhcpc -i eth0 -n -q -f -t 10 -T 1 || return
    address=$(ip -4 -o address show dev eth0 | awk '{ print $4; exit }')
    echo "$address via $(gateway4), mtu $(cat /sys/class/net/eth0/mtu)"
}

do_ipv6() {
    until address6 | grep -q :; do
        usleep 100000
    done
    echo "$(address6) via $(gateway6)"
}

do_dns() {
    nslookup "$name" && nslookup "$host" || return
    echo "$host is $(nslookup "$host" | awk '/^Name:/ { n = 1 } n && /^Address/ { print $NF }' | tr '\n' ' ')"
}

do_ping() {
    ping -c 3 -i 0.2 -w 5 "$(gateway4)" | tee $work/out && grep -q ' 0% packet loss' $work/out || return
    tail -n 1 $work/out
}

do_ping6() {
    [ -n "$(gateway6)" ] || { echo "no IPv6 route"; return 1; }
    ping -6 -c 3 -i 0.2 -w 5 "$(gateway6)%eth0" | tee $work/out && grep -q ' 0% packet loss' $work/out || return
    tail -n 1 $work/out
}

# The sum is made while the bytes arrive; the server says what it should be.
do_download() {
    wget -q -S -O - "http://$host:$http/download" 2>$work/headers | tee $work/data |
        sha256sum | cut -d' ' -f1 >$work/sum
    expected=$(tr -d '\r' <$work/headers | awk 'tolower($1) == "x-sha256:" { print $2; exit }')
    if [ -z "$expected" ] || [ "$expected" != "$(cat $work/sum)" ]; then
        echo "sha256 $(cat $work/sum), expected ${expected:-nothing, the server sent no X-SHA256}"
        return 1
    fi
    echo "$(wc -c <$work/data) bytes, sha256 $expected"
}

# Sends back what came; the server answers the sum of what it got.  busybox's wget cuts a posted
# file at its first zero byte and nc copies kilobytes at a time, so "put" writes to the socket.
do_upload() {
    [ -s $work/sum ] || { echo "nothing was downloaded to send back"; return 1; }
    nc "$host" "$http" -e /bin/sh "$0" run put || return
    head -n 1 $work/answer | grep -q ' 20[0-9] ' || { head -n 1 $work/answer; return 1; }
    grep -q "$(cat $work/sum)" $work/answer || { echo "the host got other bytes: $(tail -n 1 $work/answer)"; return 1; }
    echo "$(wc -c <$work/data) bytes, sha256 $(cat $work/sum)"
    rm -f $work/data
}

do_put() {
    printf 'PUT /upload HTTP/1.1\r\nHost: %s\r\nContent-Length: %s\r\n' "$host" "$(wc -c <$work/data)"
    printf 'Connection: close\r\n\r\n'
    cat $work/data
    tr -d '\r' >$work/answer
}

do_httpd() {
    echo "hello from $(uname -n), Linux $(uname -r)" >$work/www/index.html
    httpd -p 80 -h $work/www || return
    wget -q -O - http://127.0.0.1/index.html
}

do_mount() {
    mount -t 9p -o "trans=tcp,port=$p9,version=9p2000.L,msize=131072,access=any,cache=none" \
        "$(gateway4)" /mnt/share || return
    ls /mnt/share | tr '\n' ' '
}

do_read() {
    find /mnt/share/branch/main/ro -type f | while read -r file; do
        cat "$file" >/dev/null || echo "cannot read $file"
    done
    echo "$(find /mnt/share/branch/main/ro -type f | wc -l) files"
}

do_commit() {
    place=/mnt/share/branch/main/transactions/guest
    mkdir "$place" || return
    mkdir -p "$place/rw/results"
    uname -a >"$place/rw/results/guest.txt" || return
    echo "a result from the guest" >"$place/msg" 2>/dev/null
    echo commit >"$place/ctl" || return
    cat /mnt/share/branch/main/ro/results/guest.txt
}

# The first line is where the branch is; the next comes with the next commit: the host makes it
# when it sees "waiting".
do_watch() {
    {
        read -r first
        echo "@@step watch waiting $first" >/dev/console
        read -r second && echo "head moved to $second"
    } </mnt/share/branch/main/head.live
}

if [ "$1" = run ]; then
    "do_$2"
    exit
fi

step init 5
step dhcp 20
step ipv6 15
step dns 10
step ping 10
step ping6 10
step httpd 5
step download 60
step upload 60
step mount 20
step read 20
step commit 20
step watch 30
echo "@@done"
[ "$hold" = 0 ] || timeout "$hold" sh -c 'while read -r word; do [ "$word" = quit ] && break; done'
sync
poweroff -f
