"""The data plane: greenlets that move bytes between clients and upstreams under leases."""
