"""The core object: keeps one layer connected and fans its events out to bounded mailboxes."""
