#!/bin/sh
# What udhcpc runs with a lease: address, MTU, route, resolver.
case "$1" in
deconfig)
    ip -4 address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip address replace "$ip/${mask:-24}" dev "$interface"
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    for hop in $router; do
        ip route replace default via "$hop" dev "$interface"
        break
    done
    : >/etc/resolv.conf.new
    [ -n "$domain" ] && echo "search $domain" >>/etc/resolv.conf.new
    for server in $dns; do
        echo "nameserver $server" >>/etc/resolv.conf.new
    done
    mv /etc/resolv.conf.new /etc/resolv.conf
    ;;
esac
