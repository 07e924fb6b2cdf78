"""The gateway: one Envoy on one TLS port, and the control plane that configures it.

No Python lies in the way of a request that carries a token, but for the JSON bodies of REST: Envoy
ends TLS, verifies the token, transcodes REST and gRPC-Web, balances and retries. This process
watches the mesh's directory and writes what Envoy reads:

    config.py         settings
    upstreams.py      what is reachable through the gateway, and which methods need no token
    descriptors.py    the descriptors that REST is transcoded with
    envoy/            builders of Envoy's configuration, one module a piece
    files.py          the directory Envoy watches, replaced file by file
    control_plane.py  directory, certificate and signing keys -> files
    signing_keys.py   the auth service's JWKS, kept fresh
    exchange.py       API key -> short-lived token, cached
    rest_bodies.py    unknown fields of REST's JSON bodies
    control_server.py what Envoy asks: the exchange, bodies, and grpc.health.v1
    supervisor.py     the Envoy process
"""
