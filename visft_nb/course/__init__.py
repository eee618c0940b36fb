"How the kit runs itself: the book, profiles, records, runs, docs, command line."
