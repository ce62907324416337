"""What every request passes: access, limits of bodies and rates, errors, pages."""
