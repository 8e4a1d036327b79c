//! Network-namespace world: the demo and the integration tests.
