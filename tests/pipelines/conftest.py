"""What the pipelines' tests share."""

import jax
import pytest


@pytest.fixture
def compilations():
    """How many programs XLA has compiled since the test began."""
    events = []

    def listen(event, duration, **rest):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
