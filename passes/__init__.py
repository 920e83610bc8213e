"""SLaNC as a pass of other tools; each file needs the tool that it is named after."""
