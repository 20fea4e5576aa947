// The page: what the server sends becomes text, never markup. Connecting, joining the room and coming back is client.js's.

import { connect } from "../anyio_channels/client.js";

const $ = (id) => document.getElementById(id);
const group = `room.${document.body.dataset.room}`;
const log = $("log"), text = $("text"), door = $("door");
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const LAST = 50; // messages that a page shows which is opened, if the server keeps a history
const WORKER_PATIENCE = 4_000, EVERY = 20_000; // milliseconds

let name = sessionStorage.getItem("name") ?? "";
let me = "";
let link = null; // to the server, once there is a name
const mine = new Set(); // the ids of what this window has said
const unanswered = new Map(); // id -> the text, until it comes back from the room
const shown = new Set(); // the ids of the messages in the log
const people = new Map(); // name -> in how many windows
const tasks = new Map(); // id -> the place for its answer

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...content);
  return made;
}

// What people typed has a direction of its own, and must not turn that of its surroundings.
function typed(tag, className, content) {
  const made = element(tag, className, content);
  made.dir = "auto";
  return made;
}

function hue(name) {
  let sum = 7;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

function avatar(name) {
  const made = element("span", "avatar", [...name][0].toUpperCase());
  made.ariaHidden = "true";
  made.style.setProperty("--hue", hue(name));
  return made;
}

// ---- the log

let following = true; // is the newest message in sight?
let height = 0;

function toEnd() {
  log.scrollTop = log.scrollHeight;
}

log.addEventListener("scroll", () => {
  if (log.clientHeight !== height) return; // not the reader moved, but the frame around
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
  if (following) $("newer").hidden = true;
});
new ResizeObserver(() => {
  height = log.clientHeight;
  if (following) toEnd();
}).observe(log);

function add(item, mine = false) {
  if ($("empty").contains(document.activeElement)) log.focus(); // what is hidden takes the keyboard's place along
  $("empty").hidden = true;
  log.append(item);
  if (mine || following) toEnd();
  else $("newer").hidden = false;
}

function message({ id, name, at, server, text }, kind, body) {
  unanswered.delete(id);
  if (shown.has(id)) return; // after a gap the last messages come, and what was said twice to be sure
  shown.add(id);
  const own = mine.has(id);
  const made = element("article", kind);
  const before = log.lastElementChild;
  made.dataset.from = name;
  made.dataset.at = at;
  made.classList.toggle("mine", own);
  made.classList.toggle("follows", before?.dataset.from === name && at - before.dataset.at < 180_000);
  const head = element("header", "", element("b", "", element("bdi", "", name)));
  const time = element("time", "", clock.format(at));
  time.dateTime = new Date(at).toISOString();
  head.append(" ", time);
  made.append(avatar(name), head, body, ...via(server));
  add(made, own);
  tell("chat:received", { id, own, server, text });
}

function via(server) {
  return server ? [element("small", "via", `via ${server}`)] : [];
}

function notice(...content) {
  add(element("p", "notice", ...content));
}

// ---- the people and the worker

function showPeople() {
  const sorted = [...people].sort(([a], [b]) => a.localeCompare(b));
  $("people").replaceChildren(...sorted.map(([person, windows]) => {
    const item = element("li", "", avatar(person));
    item.append(element("bdi", "", person));
    if (windows > 1) item.append(element("small", "", `in ${windows} windows`));
    else if (person === me) item.append(element("small", "", "you"));
    return item;
  }));
  $("count").textContent = `, ${people.size} here`;
}

// The question goes through the broker, so the server notices if that is away, and has this window come back.
function lookAround() {
  const asked = Date.now();
  if (!isOpen() || !link.send({ type: "look" }, group)) return;
  setTimeout(() => { if (workerHeard < asked && isOpen()) showWorker(false); }, WORKER_PATIENCE);
}

let workerHeard = 0;

function showWorker(running) {
  if (running) workerHeard = Date.now();
  $("worker").dataset.state = running ? "here" : "missing";
  $("worker").textContent = running ? "Running" : "No worker running";
  $("worker-cure").hidden = running;
}

// ---- what comes from the room

const messages = {
  "room.said"(content) {
    message(content, "message", typed("p", "text", content.text));
  },
  "room.asked"(content) {
    const { id, text } = content;
    if (shown.has(id)) return;
    const answer = element("output", "answer waiting", "Working...");
    const body = element("div", "text", typed("code", "", text));
    body.append(answer);
    tasks.set(id, answer);
    setTimeout(() => {
      if (tasks.has(id)) answer.textContent = `No worker has answered yet. ${$("worker-cure").textContent}`;
    }, WORKER_PATIENCE);
    message(content, "message task", body);
  },
  "room.answered"({ id, answer, note, server }) {
    const place = tasks.get(id);
    tasks.delete(id);
    showWorker(true);
    if (!place) return; // asked before this window came in
    place.className = "answer";
    place.replaceChildren(answer);
    if (note) place.append(element("small", "", note));
    place.append(...via(server));
    if (following) toEnd();
    tell("chat:received", { id: `${id}:answer`, own: false, server, text: answer });
  },
  "worker.here"() {
    showWorker(true);
  },
  "worker.away"() {
    showWorker(false);
  },
  help({ id, text }) {
    unanswered.delete(id);
    notice(text);
  },
};

const events = {
  message({ message }) {
    messages[message.type]?.(message);
  },
  joined({ member, members, complete, history }) {
    me = member;
    people.clear();
    for (const [person, windows] of Object.entries(members ?? {})) people.set(person, windows.length);
    showPeople();
    $("kept").textContent = history ? "This server keeps the last messages for a while." : "This server doesn't store messages.";
    if (lostAt) {
      const away = Math.max(1, Math.round((Date.now() - lostAt) / 1000));
      notice(`Reconnected after ${away} s. ${complete ? "No messages were missed." : MISSED}`);
      lostAt = 0;
      problem("");
    }
    show("open");
    for (const [id, text] of unanswered) link.send({ type: "say", id, text }, group); // it may not have arrived
    lookAround();
  },
  missed({ group }) {
    if (group === null) notice(MISSED); // else `joined` has said so
  },
  presence({ event, member, metas }) {
    if (event === "left") {
      if (people.delete(member)) notice(element("bdi", "", member), " left");
    } else {
      if (!people.has(member)) notice(element("bdi", "", member), " joined");
      people.set(member, metas.length);
    }
    showPeople();
  },
  error({ code, reason, id }) {
    if (code === "unauthorized") refuseName(`A name has 1 to ${$("name").maxLength} visible characters.`);
    if (!unanswered.has(id)) return;
    problem(reason);
    if (code === "not_sent" && text.value) return; // it is sent again when this window is back in the room
    putBack(unanswered.get(id));
    unanswered.delete(id);
  },
  state({ state, delay }) {
    if (state === "open" || !name) return; // not before it is in the room
    if (state === "connecting") {
      show(lostAt ? "lost" : state);
      return;
    }
    if (!lostAt) {
      lostAt = Date.now();
      notice(`Connection lost at ${clock.format(lostAt)}`);
    }
    nextAt = state === "lost" ? Date.now() + delay : Infinity;
    show("lost");
  },
};

// ---- the connection

const MISSED = "Messages sent in the meantime aren't shown.";
let lostAt = 0, nextAt = 0;

function comeIn() {
  show("connecting");
  if (link) {
    link.reconnect(); // with another name
    return;
  }
  link = connect("/ws/", { token: () => name });
  for (const [type, handle] of Object.entries(events)) link.addEventListener(type, ({ detail }) => handle(detail));
  link.join(group, { last: LAST });
}

function isOpen() {
  return document.body.dataset.state === "open";
}

function show(state) {
  const before = document.body.dataset.state;
  document.body.dataset.state = state;
  if (before !== state) tell("chat:state", { state });
  const words = { connecting: "Connecting", open: "Connected", lost: "Connection lost" }[state];
  if ($("connection").textContent !== words) $("connection").textContent = words;
  $("lost").hidden = !lostAt;
  countdown();
}

// For other scripts on the page.
function tell(type, detail) {
  document.dispatchEvent(new CustomEvent(type, { detail }));
}

function countdown() {
  const seconds = Math.ceil((nextAt - Date.now()) / 1000);
  const when = seconds === Infinity ? "The server has closed it." : seconds > 0 ? `Retrying in ${seconds} s.` : "Retrying now.";
  $("countdown").textContent = `No connection. ${when}`;
}

setInterval(() => { if (lostAt) countdown(); }, 1000);
setInterval(lookAround, EVERY);
$("now").addEventListener("click", () => link.reconnect());

// ---- saying something

function say(content) {
  const id = Array.from(crypto.getRandomValues(new Uint32Array(4)), (number) => number.toString(36)).join("");
  const text = content.toWellFormed?.() ?? content; // half of a character is no JSON
  if (!isOpen() || !link.send({ type: "say", id, text }, group)) {
    problem("Message not sent: no connection. It stays here.");
    putBack(content);
    return false;
  }
  mine.add(id);
  unanswered.set(id, text);
  problem("");
  tell("chat:sent", { id });
  return true;
}

// So that it can be put right.
function putBack(content) {
  if (text.value) return;
  text.value = content;
  grow();
}

function problem(content) {
  $("problem").textContent = content;
}

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

text.addEventListener("input", grow);
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
});
$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  text.focus();
  if (!text.value.trim() || !say(text.value)) return;
  text.value = "";
  grow();
});
document.addEventListener("chat:say", ({ detail }) => say(detail.text));
$("newer").addEventListener("click", () => { toEnd(); text.focus(); });

// ---- names and rooms

function askName(why = "") {
  $("name").value = name || (localStorage.getItem("name") ?? "");
  $("name-problem").textContent = why;
  door.showModal();
  $("name").select();
}

function refuseName(why) {
  name = "";
  for (const storage of [sessionStorage, localStorage]) storage.removeItem("name");
  askName(why);
}

$("enter").addEventListener("submit", (event) => {
  const given = $("name").value.trim();
  if (!given) {
    event.preventDefault();
    return;
  }
  name = given;
  sessionStorage.setItem("name", name);
  localStorage.setItem("name", name);
  comeIn();
});
door.addEventListener("close", () => name ? text.focus() : door.showModal()); // browsers let a second Escape close any dialog
$("rename").addEventListener("click", () => { menu(false); askName(); });

$("elsewhere").addEventListener("submit", (event) => {
  event.preventDefault();
  const slug = $("other").value.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+/, "").slice(0, 32).replace(/-+$/, "");
  if (slug) location.assign(new URL(`../${slug}/`, location.href));
});

// ---- the drawer of small screens

function menu(open) {
  document.body.classList.toggle("menu-open", open);
  $("menu").ariaExpanded = String(open);
}

function menuIsOpen() {
  return document.body.classList.contains("menu-open");
}

$("menu").addEventListener("click", () => {
  menu(!menuIsOpen());
  if (menuIsOpen()) $("side").querySelector("a").focus(); // the drawer stands before its button in the page
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && menuIsOpen()) {
    menu(false);
    $("menu").focus();
  }
});
document.addEventListener("focusin", ({ target }) => {
  if (target !== $("menu") && !$("side").contains(target)) menu(false);
});
log.addEventListener("click", () => menu(false));

if (name) {
  comeIn();
  text.focus();
} else askName();
