// The history: requests with their images, in this browser's IndexedDB, newest first.
const MOST_ENTRIES = 100;
const MOST_BYTES = 200e6;

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function bytes(entry) {
  const blobs = entry.images.flatMap((image) => [...image.scales, image.final, image.other]);
  return blobs.reduce((sum, each) => sum + (each?.size ?? 0), 0);
}

/** Entries are {id, link, request, images: [{seed, size, scales, final, other}]}; images are blobs. */
export class History {
  entries = [];
  #database = null;

  async open() {
    try {
      const opening = indexedDB.open("openhart", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("entries", { keyPath: "id" });
      this.#database = await promised(opening);
      this.entries = (await promised(this.#store("readonly").getAll())).reverse();
    } catch {
      this.#database = null; // private windows: the history then lasts as long as the page
    }
  }

  find(link) {
    return this.entries.find((entry) => entry.link === link);
  }

  /** Adds an entry, or stores it again after a change; the oldest entries give way. */
  async put(entry) {
    if (!this.entries.includes(entry)) this.entries.unshift(entry);
    let kept = 0;
    const full = this.entries.findIndex((each, index) => {
      kept += bytes(each);
      return index > 0 && (index >= MOST_ENTRIES || kept > MOST_BYTES);
    });
    if (full > 0) for (const old of this.entries.splice(full)) await this.#write((store) => store.delete(old.id));
    await this.#write((store) => store.put(entry));
  }

  async remove(entry) {
    this.entries = this.entries.filter((each) => each !== entry);
    await this.#write((store) => store.delete(entry.id));
  }

  async clear() {
    this.entries = [];
    await this.#write((store) => store.clear());
  }

  #store(mode) {
    return this.#database.transaction("entries", mode).objectStore("entries");
  }

  async #write(change) {
    if (!this.#database) return;
    await promised(change(this.#store("readwrite"))).catch(() => {}); // the disk is full: kept in memory
  }
}
