"""Methods that read the outputs of inner layers."""
