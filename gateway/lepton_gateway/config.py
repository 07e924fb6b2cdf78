"""The gateway's settings."""

from __future__ import annotations

from pydantic import Field

from lepton_mesh.config import MeshSettings


class GatewaySettings(MeshSettings):
    """``LEPTON_LISTEN_PORT`` is the control plane's port in the mesh; users meet the gateway's."""

    gateway_host: str = "127.0.0.1"
    """The address that users' connections are accepted on."""
    gateway_port: int = Field(default=8443, ge=0, le=65535)
    """The port that users' connections are accepted on; 0 chooses a free one at start."""
    gateway_workers: int = Field(default=0, ge=0, le=256)
    """Envoy's worker threads; 0 means one for each CPU this process may use."""
    gateway_requests_per_second: int = Field(default=50_000, ge=1)
    """Requests beyond this rate are answered 429 RESOURCE_EXHAUSTED; twice it may burst."""
    token_requests_per_second: int = Field(default=50, ge=1)
    """The same for IssueToken alone, whose password hash is expensive on purpose."""
    token_requests_per_address: int = Field(default=10, ge=1)
    """The same for each client address, so that one cannot keep all others from logging in."""
    cors_origins: str = ""
    """Origins that browsers may call from (``https://console.example``), comma-separated."""
    jwks_refresh_seconds: float = Field(default=5.0, gt=0)
    """How often the auth service is asked for its signing keys."""
    api_key_cache_seconds: float = Field(default=60.0, gt=0)
    """How long a token stands for an API key: a revoked key stops working after this."""
    stream_idle_seconds: float = Field(default=3600.0, gt=0)
    """A stream on which nothing moves for this long is closed."""
    unary_timeout_seconds: float = Field(default=60.0, gt=0)
    """The deadline of a unary call that brings none of its own."""
    access_log_sample_percent: float = Field(default=1.0, ge=0, le=100)
    """Share of successful Open Inference calls in the access log; all others are all logged."""

    @property
    def cors_origin_list(self) -> tuple[str, ...]:
        """``cors_origins`` taken apart."""
        return tuple(part.strip() for part in self.cors_origins.split(",") if part.strip())
