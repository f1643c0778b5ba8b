"""Feature maps: phi(x) such that phi(x) . phi(y) approximates a neural tangent kernel."""
