"""What twistd finds."""

from twisted.application.service import ServiceMaker

proxyservice = ServiceMaker(
    "proxyservice",
    "proxyservice.tap",
    "Lease public addresses to nodes behind NAT",
    "proxyservice",
)
