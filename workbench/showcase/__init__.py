"""The notebooks shown: as apps in a browser, as pages that need no Python, as pictures."""
