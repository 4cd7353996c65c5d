"""HTTP below the protocols: authentication, body limits, draining and the payload log."""
