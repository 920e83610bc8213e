"""Random graphs of extreme constructs, to attack certificates: no rows may break a bound."""
