"""What is wrong with a relay's certificate, in OpenSSL's words, and who can mend it."""

from __future__ import annotations

from datetime import datetime, timezone

from cryptography import x509

from proxyservice.errors import Distrust

NOT_YET_VALID, EXPIRED = 9, 10

# X509_verify_cert_error_string of OpenSSL 3; no public function of pyOpenSSL gives it
_WORDS = {
    2: "unable to get issuer certificate",
    7: "certificate signature failure",
    NOT_YET_VALID: "certificate is not yet valid",
    EXPIRED: "certificate has expired",
    13: "format error in certificate's notBefore field",
    14: "format error in certificate's notAfter field",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    22: "certificate chain too long",
    23: "certificate revoked",
    24: "issuer certificate doesn't have a public key",
    25: "path length constraint exceeded",
    26: "unsuitable certificate purpose",
    27: "certificate not trusted",
    28: "certificate rejected",
    32: "key usage does not include certificate signing",
    34: "unhandled critical extension",
    37: "invalid non-CA certificate (has CA markings)",
    41: "invalid or inconsistent certificate extension",
    47: "permitted subtree violation",
    48: "excluded subtree violation",
    66: "EE certificate key too weak",
    67: "CA certificate key too weak",
    68: "CA signature digest algorithm too weak",
    79: "invalid CA certificate",
}

NAME_AN_AUTHORITY = "name its authority with --ca, or --pin it"


class WrongCertificateError(Exception):
    """The text ends the sentence: the relay shows a certificate that ..."""

    def __init__(self, text: str, distrust: Distrust = Distrust.CERTIFICATE) -> None:
        super().__init__(text)
        self.distrust = distrust


def not_trusted(code: int, shown: x509.Certificate) -> WrongCertificateError:
    """From OpenSSL's code for what it found, at any place of the chain."""
    words = _WORDS.get(code, f"verification error {code}")
    if code not in (NOT_YET_VALID, EXPIRED):
        return WrongCertificateError(f"is not trusted: {words}; {NAME_AN_AUTHORITY}")
    if code == EXPIRED:
        dates = f"it was valid until {_moment(shown.not_valid_after_utc)}"
        cure = "its operator has to renew it"
    else:
        dates = f"it is valid from {_moment(shown.not_valid_before_utc)} on"
        cure = "that comes with time"
    now = _moment(datetime.now(timezone.utc))
    return WrongCertificateError(
        f"is not trusted: {words} ({dates}); {cure}, unless the clock here is wrong, it says {now}",
        Distrust.DATES,
    )


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
