"""TLS as a client: whom to trust, the same with every Python."""

import ssl


def client_context(ca_file: str | None) -> ssl.SSLContext:
    """Make a context that checks the other's certificate, its dates and its name.

    From 3.13 on Python also asks of certificates all that RFC 5280 has, such as the key usage of an authority. Those
    that people make with a line of OpenSSL lack it, and a station must not lose its broker by an upgrade of Debian.

    Args:
        ca_file: Authorities to trust, PEM; the system's where None.

    Raises:
        OSError: The file cannot be read, or holds no certificate (`ssl.SSLError`).
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
