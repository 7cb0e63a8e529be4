# Starts this release on its host. In earnest: `systemctl restart shop`.
echo "@VERSION@" > running
