// The panel: it presses the buttons, and counts what the chat of this window sends and gets back.

import { connect } from "../anyio_channels/client.js";

const $ = (id) => document.getElementById(`stage-${id}`);
const room = document.body.dataset.room;
const panel = document.getElementById("stage");
const wide = matchMedia("(min-width: 72rem)");

panel.open = wide.matches;
wide.addEventListener("change", () => { panel.open = wide.matches; });

// Resolves with the detail of the next event that passes the test.
function next(target, type, test = () => true) {
  return new Promise((resolve) => {
    target.addEventListener(type, function listener({ detail }) {
      if (!test(detail)) return;
      target.removeEventListener(type, listener);
      resolve(detail);
    });
  });
}

// ---- this window's messages in the chat

const sent = new Set(), received = new Set();

function count() {
  $("sent").textContent = sent.size;
  $("received").textContent = received.size;
  $("missing").textContent = sent.size - received.size;
  $("numbers").dataset.equal = sent.size === received.size ? "yes" : "no";
  $("short").textContent = `${sent.size} sent, ${received.size} received`;
}

document.addEventListener("chat:sent", ({ detail: { id } }) => { sent.add(id); count(); });
document.addEventListener("chat:received", ({ detail: { id, own } }) => {
  if (!own || !sent.has(id)) return; // another window's, or from before this page was loaded
  received.add(id);
  count();
});

function say(text) {
  document.dispatchEvent(new CustomEvent("chat:say", { detail: { text } }));
}

let series = 0;

$("send").addEventListener("click", () => {
  series++;
  for (let number = 1; number <= 100; number++) say(`Message ${number} of 100 (${series})`);
});

// ---- the panel's own connection

const link = connect("/ws/stage/");
link.join("stage");

async function tell(message) {
  while (!link.send(message)) await next(link, "state", ({ state }) => state === "open");
}

function show(text) {
  if ($("state").textContent !== text) $("state").textContent = text;
}

link.addEventListener("state", ({ detail: { state } }) => {
  if (state === "open") link.send({ ask: "numbers", room });
  else if (state === "lost") show("The server of this panel is away. Reconnecting.");
});
setInterval(() => link.send({ ask: "numbers", room }), 1_000);

const answers = {
  numbers(numbers) {
    show(numbers ? "All is well." : "The broker is away. What you send now waits, and arrives when it is back.");
    if (!numbers) return;
    $("windows").textContent = numbers.windows;
    $("names").textContent = numbers.names;
    $("lag").textContent = `${numbers.lag.toFixed(1)} ms`;
    $("cost").textContent = numbers.cost;
  },
  job(job) {
    jobs.set(job.id, { first: job.worker, ...jobs.get(job.id) });
    showJob(job);
    document.dispatchEvent(new CustomEvent("stage:job", { detail: job }));
  },
  posted(text) {
    const item = document.createElement("li");
    item.dir = "auto";
    item.textContent = text;
    $("posts").prepend(item);
    while ($("posts").children.length > 5) $("posts").lastElementChild.remove();
  },
  ended({ commit, rows }) {
    const table = `has ${rows} row${rows === 1 ? "" : "s"}`;
    $("post-outcome").textContent = commit ? `Committed. The table ${table}.`
      : `Rolled back. The table still ${table}, and no window got the message.`;
  },
  problem(text) {
    show(`The layer says: ${text}.`);
  },
};

link.addEventListener("message", ({ detail: { message } }) => {
  for (const [kind, content] of Object.entries(message)) answers[kind]?.(content);
});

// ---- what is killed

$("broker").addEventListener("click", () => tell({ kill: "broker" }));

async function server(question) {
  const answer = next(document, "chat:received", ({ own, text }) => own && text === question);
  say(question);
  return (await answer).server;
}

let questions = 0;

$("server").addEventListener("click", async () => {
  const outcome = $("server-outcome"), number = ++questions;
  const before = await server(`Which server is this? (${number})`);
  outcome.textContent = `This is ${before}. Killing it.`;
  const lost = next(document, "chat:state", ({ state }) => state !== "open");
  await tell({ kill: before });
  await lost;
  await next(document, "chat:state", ({ state }) => state === "open");
  const after = await server(`And which one is it now? (${number})`);
  outcome.textContent = `${before} was killed. ${after} serves this window now.`;
});

// ---- jobs

const jobs = new Map(); // id -> which worker had it first

function begin() {
  const id = Math.random().toString(36).slice(2);
  tell({ job: id });
  return id;
}

function showJob({ id, worker, delivery, step, of }) {
  const { first } = jobs.get(id), over = delivery > 1;
  $("progress").value = step / of;
  $("job-outcome").textContent = step < of
    ? `${over ? `${first} had it first. ` : ""}${worker} does it: step ${step} of ${of}.`
    : over ? `${first} had it first, and ${worker} finished it, in delivery ${delivery}.` : `${worker} had it first and finished it.`;
}

$("job").addEventListener("click", begin);
$("worker").addEventListener("click", async () => {
  let report;
  do { // a busy machine may kill it too late
    const id = begin();
    const { worker } = await next(document, "stage:job", (job) => job.id === id && job.step > 1);
    const after = next(document, "stage:job", (job) => job.id === id && (job.delivery > 1 || job.step === job.of));
    await tell({ kill: worker });
    $("job-outcome").textContent = `${worker} had it first, and is killed. Waiting for another worker.`;
    report = await after;
  } while (report.delivery === 1);
});

// ---- transactions

let posts = 0;

for (const [button, commit] of [["commit", true], ["rollback", false]]) {
  $(button).addEventListener("click", () => tell({ post: `Post ${++posts}, ${commit ? "committed" : "rolled back"}`, commit }));
}

// ---- devices

if ($("devices-section").dataset.on) {
  const devices = connect("/ws/stage/devices/"), lamp = $("lamp");
  devices.join("lamp");
  devices.join("thermometer");
  devices.addEventListener("message", ({ detail: { message } }) => {
    if ("celsius" in message) $("celsius").textContent = `${message.celsius} °C`;
    if (!("on" in message)) return;
    lamp.ariaChecked = String(message.on);
    $("lamp-state").textContent = message.on ? "on" : "off";
  });
  lamp.addEventListener("click", () => devices.send(lamp.ariaChecked !== "true"));
}

count();
