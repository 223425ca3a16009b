"""What it costs and saves to store vectors in fewer bytes: from results files, measured on a corpus, and planned."""
