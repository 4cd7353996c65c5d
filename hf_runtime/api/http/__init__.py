"""HTTP below the protocols: authentication, limits of bodies and the payload log."""
