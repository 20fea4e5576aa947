// The page: what the server sends becomes text, never markup.

import { Connection } from "./connection.js";

const $ = (id) => document.getElementById(id);
const room = document.body.dataset.room;
const log = $("log"), text = $("text"), door = $("door");
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const WORKER_PATIENCE = 4_000, EVERY = 20_000; // milliseconds

let name = sessionStorage.getItem("name") ?? "";
let me = "";
let position = null; // of the last message that was shown, if the server keeps a history
const mine = new Set(); // what this window was called on each of its connections
const people = new Map(); // name -> in how many windows
const tasks = new Map(); // id -> the place for its answer

const url = new URL("/ws/", location.href);
url.protocol = url.protocol.replace("http", "ws");
const connection = new Connection(url, {
  hello: () => ({ type: "join", room, name, since: position }),
  welcome: "joined",
  probe: { type: "here" }, // answered through the broker, so that silence means that either is away
  every: EVERY,
});

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

function message({ id, name, at }, kind) {
  const made = element("article", kind);
  const before = log.lastElementChild;
  made.dataset.from = id;
  made.dataset.at = at;
  made.classList.toggle("mine", mine.has(id));
  made.classList.toggle("follows", before?.dataset.from === id && at - before.dataset.at < 180_000);
  const head = element("header", "", element("b", "", element("bdi", "", name)));
  const time = element("time", "", clock.format(at));
  time.dateTime = new Date(at).toISOString();
  head.append(" ", time);
  made.append(avatar(name), head);
  return made;
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

function lookAround() {
  const asked = Date.now();
  setTimeout(() => { if (workerHeard < asked && connection.open) showWorker(false); }, WORKER_PATIENCE);
}

let workerHeard = 0;

function showWorker(running) {
  if (running) workerHeard = Date.now();
  $("worker").dataset.state = running ? "here" : "missing";
  $("worker").textContent = running ? "Running" : "No worker running";
  $("worker-cure").hidden = running;
}

// ---- what the server sends

const frames = {
  joined({ id, name, position: begin, complete, history, people: present }) {
    me = name;
    mine.add(id);
    if (away) {
      const kept = position && complete;
      notice(`Reconnected after ${away} s. ${kept ? "No messages were missed." : "Messages sent in the meantime aren't shown."}`);
      away = 0;
    }
    if (begin) position = begin;
    $("kept").textContent = history ? "This server keeps the last messages for a while." : "This server doesn't store messages.";
    people.clear();
    for (const [person, windows] of Object.entries(present)) people.set(person, windows);
    showPeople();
    lookAround();
  },
  came({ name, windows }) {
    if (!people.has(name)) notice(element("bdi", "", name), " joined");
    people.set(name, windows);
    showPeople();
  },
  left({ name }) {
    if (people.delete(name)) notice(element("bdi", "", name), " left");
    showPeople();
  },
  said(frame) {
    const made = message(frame, "message");
    made.append(typed("p", "text", frame.text));
    add(made, mine.has(frame.id));
  },
  asked(frame) {
    const made = message(frame, "message task");
    const answer = element("output", "answer waiting", "Working...");
    const body = element("div", "text", typed("code", "", frame.text));
    body.append(answer);
    made.append(body);
    tasks.set(frame.task, answer);
    setTimeout(() => {
      if (tasks.has(frame.task)) answer.textContent = `No worker has answered yet. ${$("worker-cure").textContent}`;
    }, WORKER_PATIENCE);
    add(made, mine.has(frame.id));
  },
  answered({ task, answer, note }) {
    const place = tasks.get(task);
    tasks.delete(task);
    showWorker(true);
    if (!place) return; // asked before this window came in
    place.className = "answer";
    place.replaceChildren(answer);
    if (note) place.append(element("small", "", note));
    if (following) toEnd();
  },
  worker({ here }) {
    showWorker(here);
  },
  help({ text }) {
    notice(text);
  },
  problem({ text: why }) {
    if (!connection.open) {
      refuseName(why);
      return;
    }
    problem(why);
    if (text.value) return;
    text.value = sent; // so that it can be put right
    grow();
  },
};

connection.addEventListener("frame", ({ detail }) => {
  frames[detail.type]?.(detail);
  if (detail.type !== "joined" && detail.position) position = detail.position;
});

// ---- the connection

let lostAt = 0, nextAt = 0;
let away = 0; // for how many seconds this window was away, until it is in the room again

connection.addEventListener("state", ({ detail: { state, delay } }) => {
  document.body.dataset.state = lostAt && state === "connecting" ? "lost" : state;
  if (state === "lost") {
    if (!lostAt) {
      lostAt = Date.now();
      notice(`Connection lost at ${clock.format(lostAt)}`);
    }
    nextAt = Date.now() + delay;
  }
  if (state === "open" && lostAt) {
    away = Math.max(1, Math.round((Date.now() - lostAt) / 1000));
    lostAt = 0;
    problem("");
  }
  const words = { connecting: "Connecting", open: "Connected", lost: "Connection lost" };
  const now = words[document.body.dataset.state];
  if ($("connection").textContent !== now) $("connection").textContent = now;
  $("lost").hidden = !lostAt;
  countdown();
});

function countdown() {
  const seconds = Math.ceil((nextAt - Date.now()) / 1000);
  $("countdown").textContent = seconds > 0 ? `No connection. Retrying in ${seconds} s.` : "No connection. Retrying now.";
}

setInterval(() => { if (lostAt) countdown(); }, 1000);
connection.addEventListener("probe", lookAround);
$("now").addEventListener("click", () => connection.retryNow());

// ---- saying something

let sent = "";

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
  if (!text.value.trim()) return;
  if (!connection.send({ type: "say", text: text.value })) {
    problem("Message not sent: no connection. It stays here.");
    return;
  }
  problem("");
  sent = text.value;
  text.value = "";
  grow();
});
$("newer").addEventListener("click", () => { toEnd(); text.focus(); });

// ---- names and rooms

function askName(why = "") {
  $("name").value = name || (localStorage.getItem("name") ?? "");
  $("name-problem").textContent = why;
  door.showModal();
  $("name").select();
}

function refuseName(why) {
  connection.close();
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
  connection.connect();
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
  connection.connect();
  text.focus();
} else askName();
