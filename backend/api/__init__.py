"""Code that every request passes through: access control, limits of bodies and connections, errors, pagination."""
