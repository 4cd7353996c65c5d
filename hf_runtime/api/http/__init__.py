"""HTTP below the protocols: authentication, body limits, requests in progress and the payload log."""
