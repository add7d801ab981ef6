"""The lab's authority: its certificates verify for their names, and for nothing else."""

import pytest
from cryptography import x509
from cryptography.x509 import verification

from homeport.lab.authority import Authority


def verify(authority: Authority, certificate: str, name: str) -> None:
    root = x509.load_pem_x509_certificate(authority.certificate.encode())
    store = verification.Store([root])
    verifier = verification.PolicyBuilder().store(store)
    server = verifier.build_server_verifier(x509.DNSName(name))
    server.verify(x509.load_pem_x509_certificate(certificate.encode()), [])


def test_certificate_is_for_its_names() -> None:
    authority = Authority()
    certificate, key = authority.issue("hub.lab.internal", "pypi.lab.internal")
    verify(authority, certificate, "hub.lab.internal")
    verify(authority, certificate, "pypi.lab.internal")
    assert "PRIVATE KEY" in key


def test_other_names_and_authorities_are_refused() -> None:
    authority, other = Authority(), Authority()
    certificate, _ = authority.issue("hub.lab.internal")
    with pytest.raises(verification.VerificationError):
        verify(authority, certificate, "huggingface.co")
    with pytest.raises(verification.VerificationError):
        verify(other, certificate, "hub.lab.internal")
