-- Return the position of a group's last message. Expects streams_touch_position.lua.
return last
