require "json"
require "rack"
require "sqlite3"

# POST /entries with a form field `text` adds an entry, GET /entries lists them as JSON, newest last.
class Guestbook
  LONGEST = 1000

  def initialize(path)
    @database = SQLite3::Database.new(path)
    @database.busy_timeout(5000)
    @database.execute_batch(<<~SQL)
      PRAGMA journal_mode = WAL;
      CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, text TEXT NOT NULL, at TEXT NOT NULL);
    SQL
    @lock = Mutex.new
  end

  def call(env)
    request = Rack::Request.new(env)
    case [request.request_method, request.path_info]
    when %w[GET /healthz] then health
    when %w[GET /entries] then list
    when %w[POST /entries] then add(request.POST["text"])
    when %w[GET /] then text(200, "A guestbook: GET /entries, or POST /entries with a field `text`.")
    else text(404, "There is nothing here.")
    end
  end

  private

  def health
    query("SELECT 1")
    text(200, "ok")
  end

  def list
    rows = query("SELECT id, text, at FROM entries ORDER BY id")
    json(200, rows.map { |id, text, at| { id: id, text: text, at: at } })
  end

  def add(entry)
    entry = entry.to_s.strip
    return text(422, "The field `text` is empty.") if entry.empty?
    return text(422, "The field `text` has more than #{LONGEST} characters.") if entry.length > LONGEST

    rows = query("INSERT INTO entries (text, at) VALUES (?, ?) RETURNING id", entry, Time.now.utc.strftime("%FT%TZ"))
    json(201, { id: rows.first.first })
  end

  # One connection for all threads: SQLite has one writer anyway.
  def query(sql, *values)
    @lock.synchronize { @database.execute(sql, values) }
  end

  def json(status, value)
    [status, { "content-type" => "application/json" }, [JSON.generate(value), "\n"]]
  end

  def text(status, line)
    [status, { "content-type" => "text/plain; charset=utf-8" }, [line, "\n"]]
  end
end
