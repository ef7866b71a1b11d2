#!/bin/sh
# An authority of one's own and the coordinator's certificate, where no public one is to be had:
#   sh make-certificate.sh fed.example.org [MORE NAMES OR IPv4 ADDRESSES]
# Writes ./tls. The authority is made once and kept: run this again to renew the certificate, and the sites' ca.pem stays.
set -eu
[ $# -gt 0 ] || { echo "usage: sh make-certificate.sh HOST..." >&2; exit 2; }
umask 077
mkdir -p tls
cd tls

if [ -f ca.pem ] && [ ! -f ca.key ]; then
    echo "tls/ca.pem is there without tls/ca.key: put the key back; a new authority would shut all sites out" >&2
    exit 2
fi
if [ ! -f ca.key ]; then
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -out ca.pem -subj "/CN=OmniFed authority of $1" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign"
fi

names=
for host in "$@"; do
    case $host in
        *[!0-9.]*) names="$names,DNS:$host" ;;
        *) names="$names,IP:$host" ;;
    esac
done
cat > server.ext <<END
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=${names#,}
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
END
openssl ecparam -name prime256v1 -genkey -noout -out server.key
openssl req -new -key server.key -sha256 -subj "/CN=$1" -out server.csr
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days 365 -extfile server.ext \
    -out server.pem
rm server.csr server.ext
chmod 644 ca.pem server.pem
echo "tls/ca.pem goes to every site; tls/server.pem and tls/server.key are for the proxy; tls/ca.key belongs in a safe."
